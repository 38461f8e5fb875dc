"""Work that worker processes do in tests; it imports nothing heavy, so that they start quickly."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from geocalc.errors import InputError

KILL, SLOW, ENDLESS, PRINT, REFUSE, QUIT = "kill", "slow", "endless", "print", "refuse", "quit"


def make_work(folder: str | None = None) -> Callable[[str], tuple[str, int]]:
    return partial(work, folder)


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
