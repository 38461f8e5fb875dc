"""Files of a training run: their names, and a log with one entry per step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geocalc.core.files import write_atomically
from geocalc.errors import RunFolderError

RECIPE, METRICS, LOG, CHECKPOINT = "recipe.yaml", "metrics.json", "log.jsonl", "checkpoint"


def make_folder(folder: Path) -> None:
    """Create the folder of a run.

    Raises:
        RunFolderError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot make the run folder {folder}: {error.strerror or error}; choose another --out"
        ) from None


def append_log(folder: Path, entry: Mapping[str, Any]) -> None:
    """Append an entry to the log.

    Raises:
        RunFolderError: the disk is full or not writable.
    """
    try:
        with (folder / LOG).open("a") as handle:
            handle.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise RunFolderError(
            f"cannot write {folder / LOG}: {error.strerror or error}; the last checkpoint is safe"
        ) from None


def trim_log(folder: Path, done: int) -> None:
    """Remove the log entries of a killed run after step `done`, its last checkpoint.

    The steps are logged again.
    """
    kept = [line + "\n" for line in _lines(folder) if _step(line) <= done]
    if kept or (folder / LOG).exists():
        write_atomically(folder / LOG, kept)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of a log, in order."""
    return [json.loads(line) for line in _lines(folder)]


def _lines(folder: Path) -> list[str]:
    """Read the complete lines of the log; a truncated last line is ignored."""
    if not (folder / LOG).is_file():
        return []
    return (folder / LOG).read_text().split("\n")[:-1]


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
