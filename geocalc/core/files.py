"""Atomic file writing and readable messages for disk errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from geocalc.errors import GeoCalcError, RunFolderError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: Path, chunks: Iterable[str]) -> None:
    """Write a text file atomically.

    Readers see either the previous file or the complete new one, even after a crash.

    Args:
        path: file to write or replace.
        chunks: pieces of text, written in order as UTF-8.
    Raises:
        RunFolderError: the disk is full or cannot be written.
    """
    draft = path.with_name(path.name + ".part")
    with explain_disk_errors(path, "write"):
        try:
            with open(draft, "wb") as file:
                for chunk in chunks:
                    file.write(chunk.encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise


class explain_disk_errors:
    """Context manager that converts an OSError into a RunFolderError with advice.

    Args:
        path: file or folder that is being accessed.
        verb: attempted action, as in "cannot {verb} {path}".
        n_saved: number of results already on disk, mentioned in the message; None for no mention.
    """

    def __init__(self, path: Path, verb: str, n_saved: int | None = None) -> None:
        self.path, self.verb, self.n_saved = path, verb, n_saved

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
        saved = "" if self.n_saved is None else f"; {self.n_saved} finished structures remain saved"
        if error.errno in _DISK_FULL:
            raise RunFolderError(
                f"the disk is full: cannot {self.verb} {self.path}{saved}; free some space and"
                " resume"
            ) from None
        raise RunFolderError(
            f"cannot {self.verb} {self.path}: {error.strerror or error}{saved}"
        ) from None
