"""Work that worker processes do in tests; it imports nothing heavy, so that they start quickly."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from geocalc.errors import InputError

KILL, SLOW, ENDLESS, PRINT, REFUSE, QUIT = "kill", "slow", "endless", "print", "refuse", "quit"


@dataclass
class Worker:
    """Does one piece of work, a number and a word, after the other."""

    folder: str | None
    waiting: list[tuple[int, str]] = field(default_factory=list)
    most: int = 1

    @property
    def n_open(self) -> int:
        return len(self.waiting)

    @property
    def has_room(self) -> bool:
        return len(self.waiting) < self.most

    def add(self, piece: tuple[int, str]) -> None:
        self.waiting.append(piece)

    def collect(self) -> list[tuple[int, tuple[str, int]]]:
        number, word = self.waiting.pop(0)
        return [(number, work(self.folder, word))]


def make_work(folder: str | None = None) -> Worker:
    return Worker(folder)


def make_batches(folder: str | None = None) -> Worker:
    return Worker(folder, most=3)


def make_nothing() -> None:
    sys.exit(7)


def work(folder: str | None, word: str) -> tuple[str, int]:
    """The word and the number of the process; some words ask for trouble."""
    if word.startswith(KILL) and _first_time(folder, word):
        os.kill(os.getpid(), signal.SIGKILL)
    if word in (SLOW, ENDLESS):
        time.sleep(1.0 if word == SLOW else 60.0)
    if word == PRINT:
        print("noise", flush=True)
    if word == REFUSE:
        raise InputError("not with me")
    if word == QUIT:
        os._exit(3)
    return word, os.getpid()


def _first_time(folder: str | None, word: str) -> bool:
    """Whether this word is new in the folder; always true without a folder."""
    if folder is None:
        return True
    try:
        Path(folder, word).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
