"""The folder of a run: finished structures stay finished, whatever stops the run.

`journal.jsonl` holds one line for each finished structure: its key, its record and its relaxed
geometry. A structure counts as finished once its line is on the disk; a line that a crash cut short
is dropped. `results.jsonl` (the records) and `relaxed.extxyz` (the geometries, in the order of the
input) are made from it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from geocalc.core.files import explain_disk_errors, write_atomically
from geocalc.core.settings import read_yaml
from geocalc.errors import GeoCalcError, InputError, RunFolderError
from geocalc.runs.records import Record

if sys.platform != "win32":
    import fcntl

SETTINGS, JOURNAL, RESULTS = "settings.yaml", "journal.jsonl", "results.jsonl"
RELAXED, TRAJECTORY, LOCK = "relaxed.extxyz", "trajectory", ".lock"
AGAIN = "again"  # in a journal line: the structure is not finished for a run that resumes this one
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


class RunFolder:
    """The folder of results of a run; one run uses it at a time, until `close`.

    Args:
        path: the folder; made if it is not there.
        identity: plain values that results depend on (model hash, settings); results of different
            identities are not mixed.
        provenance: plain values kept beside them in `settings.yaml` (versions, device, ...).
        resume: whether to continue with the results in the folder.
    Raises:
        RunFolderError: the folder cannot be written; another run works in it; it holds results and
            `resume` is not set; it holds results of another identity; its journal is damaged other
            than at the end.
    """

    def __init__(
        self,
        path: Path | str,
        identity: Mapping[str, Any],
        provenance: Mapping[str, Any] | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self.path = Path(path)
        self.identity = _digest(identity)
        # where the line of each finished structure begins in the journal, by key
        self._places: dict[str, int] = {}
        self._order: list[str] = []
        with explain_disk_errors(self.path, "open"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _Lock(self.path / LOCK)
        try:
            self._open(identity, provenance or {}, resume)
        except GeoCalcError:
            self.close()
            raise

    def __len__(self) -> int:
        """Structures finished."""
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        """Whether the structure of this key is finished."""
        return key in self._places

    def record(self, key: str) -> Record | None:
        """The record of a finished structure, None if it is not finished."""
        return Record.from_json(self._entry(key)["record"]) if key in self._places else None

    def add(self, key: str, record: Record, frame: str | None, *, final: bool = True) -> None:
        """Add a finished structure; it is on the disk when this returns.

        Args:
            key: from `content_key`, new to this folder.
            record: goes to `results.jsonl`.
            frame: extended XYZ text of the relaxed geometry, None if there is none.
            final: False if a resumed run is to try this structure again.
        Raises:
            InputError: the key is there already.
            RunFolderError: the disk is full or cannot be written.
        """
        if key in self._places:
            raise InputError(
                f"structure {record.sid!r} is finished already; every structure is added once"
            )
        line = record.to_json()
        entry = {"key": key, "record": line, "frame": frame} | ({} if final else {AGAIN: True})
        self._places[key] = self._append(JOURNAL, json.dumps(entry))
        self._append(RESULTS, line)

    def write_trajectory(self, sid: str, key: str, frames: Sequence[str]) -> None:
        """Write the geometries of one path into `trajectory/`, as a whole or not at all."""
        with explain_disk_errors(self.path, "write to"):
            (self.path / TRAJECTORY).mkdir(exist_ok=True)
        write_atomically(self.path / TRAJECTORY / f"{file_name(sid)}-{key[:8]}.extxyz", frames)

    def finish(self, keys: Iterable[str], name: str = RELAXED) -> None:
        """Write the geometries of `keys` in this order, then any others in the order they ended in.

        Args:
            keys: of the structures of the run.
            name: of the file.
        """
        self._order = list(keys)
        order = dict.fromkeys([*(key for key in self._order if key in self._places), *self._places])
        frames = (self._entry(key)["frame"] for key in order)
        write_atomically(self.path / name, (frame for frame in frames if frame is not None))

    def records(self) -> Iterator[Record]:
        """The records of the keys that `finish` was given, in that order; read from the disk
        one at a time.
        """
        return (
            Record.from_json(self._entry(key)["record"])
            for key in self._order
            if key in self._places
        )

    def close(self) -> None:
        """Release the folder for other runs; it can still be read."""
        self._lock.release()

    def _open(
        self, identity: Mapping[str, Any], provenance: Mapping[str, Any], resume: bool
    ) -> None:
        with explain_disk_errors(self.path, "open"):
            if self._holds_results():
                self._refuse_or_accept(identity, resume)
                self._read_journal()
            else:
                document = {
                    "identity": self.identity,
                    "resolved": dict(identity),
                    "provenance": dict(provenance),
                }
                write_atomically(
                    self.path / SETTINGS,
                    [yaml.safe_dump(document, sort_keys=False, allow_unicode=True)],
                )
        write_atomically(
            self.path / RESULTS, (self._entry(key)["record"] + "\n" for key in self._places)
        )

    def _holds_results(self) -> bool:
        return any(
            (self.path / name).exists() and (self.path / name).stat().st_size
            for name in (JOURNAL, RESULTS)
        )

    def _refuse_or_accept(self, identity: Mapping[str, Any], resume: bool) -> None:
        if not (self.path / SETTINGS).exists() or not (self.path / JOURNAL).exists():
            raise RunFolderError(
                f"{self.path} holds results, but not the {SETTINGS} and {JOURNAL} of a run; choose"
                " another folder"
            )
        document = read_yaml(self.path / SETTINGS)
        if document.get("identity") != self.identity:
            theirs = document.get("resolved")
            changes = _differences(theirs if isinstance(theirs, dict) else {}, identity)
            raise RunFolderError(
                f"{self.path} holds results of other settings ({changes}); choose another folder"
            )
        if not resume:
            raise RunFolderError(
                f"{self.path} holds results already; resume to continue them, or choose another"
                " folder"
            )

    def _read_journal(self) -> None:
        """Find the finished structures and cut off a last line that a crash left incomplete."""
        path, place = self.path / JOURNAL, 0
        with open(path, "r+b") as journal:
            for number, line in enumerate(journal, 1):
                entry = _entry_of(line)
                if entry is not None:
                    if AGAIN not in entry:
                        self._places[entry["key"]] = place
                elif journal.read(1):
                    raise RunFolderError(
                        f"line {number} of {path} is damaged; move the folder away and run again"
                    )
                else:
                    journal.truncate(place)
                    return
                place += len(line)

    def _entry(self, key: str) -> dict[str, Any]:
        with explain_disk_errors(self.path, "read"), open(self.path / JOURNAL, "rb") as journal:
            journal.seek(self._places[key])
            entry: dict[str, Any] = json.loads(journal.readline())
        return entry

    def _append(self, name: str, line: str) -> int:
        """Append a line to a file and wait until it is on the disk; returns its offset. A line that
        does not fit is removed again.
        """
        path = self.path / name
        with explain_disk_errors(path, "write", len(self)), open(path, "ab", buffering=0) as file:
            place = os.fstat(file.fileno()).st_size
            rest = memoryview(line.encode() + b"\n")
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(place)
                raise
        return place


def content_key(sid: str, content: Iterable[bytes], identity: str) -> str:
    """Hash the name, the content and the settings of a structure: its identity in a run folder.

    Args:
        sid: name of the structure.
        content: bytes of everything that the result depends on, in a fixed order.
        identity: of the run folder.
    """
    digest = hashlib.sha256()
    for part in (identity.encode(), sid.encode(), *content):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def numbered_key(key: str, seen: Counter[str], folder: RunFolder) -> str:
    """Return a key of its own for a structure that occurs again in the input.

    Args:
        key: from `content_key`.
        seen: how often each key has occurred; the key is counted in it.
        folder: of the run.
    """
    seen[key] += 1
    again = seen[key] > 1
    return content_key(str(seen[key]), [key.encode()], folder.identity) if again else key


def file_name(sid: str) -> str:
    """Turn a sid into a short file name of letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", sid).strip("._")[-60:] or "structure"


class _Lock:
    """A lock that one run at a time holds, until it is released or the process dies; no lock on
    file systems without locks.

    Raises:
        RunFolderError: another run holds it.
    """

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self.release = weakref.finalize(self, os.close, file)
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            self.release()
            if not isinstance(error, BlockingIOError):
                raise
            raise RunFolderError(
                f"another run is working in {path.parent}; wait for its end and resume, or choose"
                " another folder"
            ) from None


def _entry_of(line: bytes) -> dict[str, Any] | None:
    """Parse a line of the journal; None if the line is not complete."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return (
        entry
        if isinstance(entry, dict) and set(entry) - {AGAIN} == {"key", "record", "frame"}
        else None
    )


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return (
        ", ".join(f"{name} was {theirs.get(name)!r}, is {ours.get(name)!r}" for name in names)
        or "not the same values"
    )
