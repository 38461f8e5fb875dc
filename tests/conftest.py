"""One thread for every test: the networks are tiny, and threads that wait for a busy core take ten
times as long.
"""

from __future__ import annotations

import os

# before torch is imported, and for the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
