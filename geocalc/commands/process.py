"""Settings of a whole process, under the name that commands and workflows know."""

from __future__ import annotations

from geocalc.process import settle_process

__all__ = ["settle_process"]
