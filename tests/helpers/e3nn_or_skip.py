"""`o3` of e3nn for test modules that need it; without e3nn these modules are skipped."""

from __future__ import annotations

from helpers.extras import import_extra

o3 = import_extra("e3nn.o3")
