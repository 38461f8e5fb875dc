"""Worker processes, and the handling of those that die."""

from __future__ import annotations

import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from geocalc.errors import GeoCalcError, InputError
from geocalc.runs.processes import start_process
from geocalc.runs.worker_process import DONE, READY, REFUSED, read_message, write_message

if TYPE_CHECKING:
    from geocalc.runs.engine import Engine

# the operating system may kill a worker when memory runs out, whichever uses it; work that ends two
# workers is given up
TRIES = 2
STARTS = 3  # consecutive workers that die while they start before the pool gives up
PATIENCE = 2.0  # seconds a process may take to end once its input is closed


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A piece of work without a result: every process that tried it died.

    Attributes:
        reason: how the last one ended, to follow "the process that ...".
    """

    reason: str


@dataclass(frozen=True, kw_only=True)
class _Work:
    number: int
    content: bytes
    size: float
    tries: int = 0


class WorkerPool:
    """Distributes pieces of work to processes, which are started when they are needed.

    Each process has one thread for every numerical library; it ends with the process that started
    it, also when that is killed. When a process dies, others try each of its pieces of work once
    more, alone.

    Args:
        make: builds, in each process, the engine that does the work; it can be pickled, and holds
            only objects that can.
        n_workers: processes at most, positive.
        capacity: sum of the sizes of work that a process has at once; it always has one piece.
    Raises:
        InputError: `make` cannot be pickled.
    """

    def __init__(self, make: Callable[[], Engine], n_workers: int, capacity: float = 1.0) -> None:
        try:
            self._make = pickle.dumps(make)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"this potential cannot be handed to other processes ({error}); use one worker"
            ) from None
        self.n_workers, self._capacity = n_workers, capacity
        self._failed_starts = 0
        self._workers: list[_Worker] = []
        self._waiting: deque[_Work] = deque()
        self._replies: SimpleQueue[tuple[_Worker, bytes | None]] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def n_open(self) -> int:
        """Pieces of work without a result yet."""
        return len(self._waiting) + sum(len(worker.works) for worker in self._workers)

    @property
    def n_waiting(self) -> int:
        """Pieces of work that no process has yet."""
        return len(self._waiting)

    @property
    def pids(self) -> list[int]:
        """Process numbers of the running workers."""
        return [worker.process.pid for worker in self._workers]

    def add(self, number: int, work: Any, size: float = 1.0) -> None:
        """Add a piece of work; `number` comes back with its result."""
        self._waiting.append(_Work(number=number, content=pickle.dumps(work), size=size))
        self._hand_out()

    def collect(self) -> list[tuple[int, Any | Lost]]:
        """Wait until some work is finished; all finished work by number. Nothing where no work is
        open.

        Raises:
            GeoCalcError: raised by the work, or no process can be started.
        """
        results: list[tuple[int, Any | Lost]] = []
        while self.n_open or not self._replies.empty():
            try:
                worker, reply = self._replies.get(block=not results)
            except Empty:
                break
            results += self._handle_reply(worker, reply)
            self._hand_out()
        return results

    def close(self) -> None:
        """End all processes at once, also in the middle of their work."""
        for worker in self._workers:
            worker.close_input()
        for worker in self._workers:
            worker.join()
        self._workers.clear()
        self._waiting.clear()

    def _hand_out(self) -> None:
        while self._waiting:
            work = self._waiting[0]
            worker = min(self._workers, key=lambda w: w.size, default=None)
            if (worker is None or worker.works) and len(self._workers) < self.n_workers:
                worker = _Worker(self._make, self._replies)
                self._workers.append(worker)
            if worker is None or not self._takes(worker, work):
                return
            worker.send(self._waiting.popleft())

    def _takes(self, worker: _Worker, work: _Work) -> bool:
        """Whether a process has room for a piece of work. One that may have ended a process is done
        alone.
        """
        suspects = any(other.tries for other in (work, *worker.works.values()))
        fits = not suspects and worker.size + work.size <= self._capacity
        return not worker.works or fits

    def _handle_reply(self, worker: _Worker, reply: bytes | None) -> list[tuple[int, Any | Lost]]:
        """Results in a reply; None for a reply is the end of the worker."""
        if worker not in self._workers:
            return []
        if reply is None:
            return self._handle_exit(worker)
        kind, payload = pickle.loads(reply)
        if kind == REFUSED:
            raise payload
        if kind == READY:
            worker.ready, self._failed_starts = True, 0
        if kind != DONE:
            return []
        number, result = payload
        del worker.works[number]
        return [(number, result)]

    def _handle_exit(self, worker: _Worker) -> list[tuple[int, Any | Lost]]:
        self._workers.remove(worker)
        # before its input is closed: that would end it with another exit status
        worker.join()
        worker.close_input()
        reason = worker.reason
        results: list[tuple[int, Any | Lost]] = []
        if not worker.ready:
            self.n_workers = max(1, len(self._workers))  # memory may not suffice for more
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise GeoCalcError(
                    f"worker processes cannot be started: the last {reason}; use one worker"
                )
        for work in reversed(worker.works.values()):
            tries = work.tries + worker.ready
            if tries >= TRIES:
                results.append((work.number, Lost(reason=reason)))
            else:
                self._waiting.appendleft(replace(work, tries=tries))
        return results


class _Worker:
    """One process and the thread that listens to it."""

    def __init__(self, make: bytes, replies: SimpleQueue[tuple[_Worker, bytes | None]]) -> None:
        self.works: dict[int, _Work] = {}
        self.ready = False
        self.process = start_process()
        self._status: int | None = None
        self._replies = replies
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._write(make)

    def send(self, work: _Work) -> None:
        self.works[work.number] = work
        self._write(work.content)

    @property
    def size(self) -> float:
        """Sum of the sizes of its work."""
        return sum(work.size for work in self.works.values())

    def close_input(self) -> None:
        """Close its input, which ends it."""
        with suppress(OSError):
            self.process.pipe_in.close()

    def join(self) -> None:
        """Wait for its end; kill it where it does not end."""
        self._status = self.process.wait(PATIENCE)
        while self._status is None:
            self.process.kill()
            self._status = self.process.wait(PATIENCE)
        self._listener.join()
        self.process.pipe_out.close()

    @property
    def reason(self) -> str:
        """How the process ended."""
        code = self._status
        if code is not None and code < 0:
            told = "out of memory?" if -code == signal.SIGKILL else "a fault in compiled code?"
            return f"was ended by {signal.Signals(-code).name} ({told})"
        return f"ended with exit status {code}; standard error may say why"

    def _write(self, content: bytes) -> None:
        with suppress(OSError):  # the listener notices a process that has ended
            write_message(self.process.pipe_in, content)

    def _listen(self) -> None:
        while (message := read_message(self.process.pipe_out)) is not None:
            self._replies.put((self, message))
        self._replies.put((self, None))
