"""Exchange lines of JSON with a script in another process, which may run another Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Side:
    """A script of this folder that answers questions, see `answer`.

    Args:
        script: its file name.
        python: the interpreter.
        threads: of its numerical libraries; None for what they take by themselves.
        arguments: on its command line.
    """

    def __init__(
        self,
        script: str,
        python: str = sys.executable,
        threads: int | None = 1,
        arguments: tuple[str, ...] = (),
    ) -> None:
        limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        set_by_hand = ("NUM_THREADS", "MALLOC_")
        free = {
            k: v
            for k, v in os.environ.items()
            if threads is not None or not any(word in k for word in set_by_hand)
        }
        self._process = subprocess.Popen(
            [python, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**free, **limits, "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def ask(self, **question: Any) -> Any:
        """The answer to a question.

        Raises:
            RuntimeError: the script ended; its standard error says why.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("there is no pipe to the script")
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the script ended without an answer")
        return json.loads(line)


def answer(make: Callable[[], Callable[[dict[str, Any]], Any]]) -> None:
    """Answer every question with what `make` makes; whatever else is printed, also by that, goes to
    standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reply = make()
    for line in sys.stdin:
        answers.write(json.dumps(reply(json.loads(line))) + "\n")
        answers.flush()
