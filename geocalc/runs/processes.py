"""Start of a worker process, with a pipe in and a pipe out.

Where that is safe the process is a copy of this one (fork), as the workers of torch's data loaders
are: it begins at once, while a new interpreter needs several seconds to import torch. A GPU does
not survive a copy, so that there, and on other systems than Linux, a new interpreter is started.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from typing import IO, Protocol

import torch

from geocalc.runs.worker_process import serve

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
_CODE = (
    "import sys; sys.path[:] = sys.argv[1:]; from geocalc.runs.worker_process import serve;"
    " serve(0, 1)"
)
_POLL = 0.005  # seconds between looks at a process that is to end


class Process(Protocol):
    """A process that reads `pipe_in` and writes `pipe_out`.

    Attributes:
        pid: its number.
        pipe_in, pipe_out: open files of this side.
    """

    pid: int
    pipe_in: IO[bytes]
    pipe_out: IO[bytes]

    def wait(self, seconds: float) -> int | None:
        """Its exit status, minus the number of the signal that ended it; None if it goes on."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


def start_process() -> Process:
    """Start a process that serves; see `geocalc.runs.worker_process.serve`."""
    return Forked() if can_be_copied() else Spawned()


def can_be_copied() -> bool:
    """Whether a copy of this process works."""
    return sys.platform == "linux" and not torch.cuda.is_available()


class Spawned:
    """A new interpreter with one thread for every numerical library."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD},
        )
        self.pid = self._process.pid
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError("a process was started without pipes")
        self.pipe_in: IO[bytes] = self._process.stdin
        self.pipe_out: IO[bytes] = self._process.stdout

    def wait(self, seconds: float) -> int | None:
        """See `Process`."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def kill(self) -> None:
        """See `Process`."""
        self._process.kill()


class Forked:
    """A copy of this process."""

    def __init__(self) -> None:
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python warns of threads, whose locks may be held: those of torch and BLAS, which the
            # copy does not use, and those that listen to other workers
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            _serve_and_exit(read_in, write_out)
        os.close(read_in)
        os.close(write_out)
        self.pipe_in: IO[bytes] = os.fdopen(write_in, "wb")
        self.pipe_out: IO[bytes] = os.fdopen(read_out, "rb")
        self._status: int | None = None

    def wait(self, seconds: float) -> int | None:
        """See `Process`."""
        end = time.monotonic() + seconds
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                break
            else:
                time.sleep(_POLL)
        return self._status

    def kill(self) -> None:
        """See `Process`."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _serve_and_exit(read_in: int, write_out: int) -> None:
    """What a copy does: it never returns to the code that it was copied from."""
    status = 1
    try:
        _let_go_of_files(but=(read_in, write_out))
        # what is printed or logged goes to standard error
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        logging.root.handlers.clear()
        torch.set_num_threads(1)
        serve(read_in, write_out)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing may return to the copied code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _let_go_of_files(but: tuple[int, int]) -> None:
    """Put nothing in the place of all open files but two and the standard ones: a copy would hold
    the locks of this process, and the pipes of other workers, beyond its end. Numbers stay taken,
    so that objects which close their file do not close another one.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in but:
            with suppress(OSError):  # the listing itself is closed by now
                os.dup2(nothing, int(name))
