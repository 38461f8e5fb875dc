"""Files that are written whole or not at all, and disk errors explained in a sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from geocalc.errors import GeoCalcError, RunFolderError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_whole(path: Path, parts: Iterable[str]) -> None:
    """Write a file as a whole: whoever looks sees the old one or the new one, also after a crash.

    Raises:
        RunFolderError: the disk is full or cannot be written.
    """
    draft = path.with_name(path.name + ".part")
    with disk_errors_explained(path, "write"):
        try:
            with open(draft, "wb") as file:
                for part in parts:
                    file.write(part.encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise


class disk_errors_explained:
    """Turn an OSError inside the `with` block into a RunFolderError that says what to do."""

    def __init__(self, path: Path, verb: str, finished: int | None = None) -> None:
        self.path, self.verb, self.finished = path, verb, finished

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, OSError) or isinstance(error, GeoCalcError):
            return
        kept = "" if self.finished is None else f"; {self.finished} finished structures are safe"
        if error.errno in _FULL:
            raise RunFolderError(
                f"the disk is full: cannot {self.verb} {self.path}{kept}; free some space and"
                " resume"
            ) from None
        raise RunFolderError(
            f"cannot {self.verb} {self.path}: {error.strerror or error}{kept}"
        ) from None
