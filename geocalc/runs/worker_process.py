"""A worker process of `geocalc.runs.workers.WorkerPool`: an engine that is fed through a pipe.

Messages are eight bytes of length and a pickle. Everything that is printed goes to standard error.
When the pipe ends, because the owner closed it or was killed, the process ends at once.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING

from geocalc.errors import GeoCalcError

if TYPE_CHECKING:
    from geocalc.runs.engine import Engine

# it can begin; a result; a GeoCalcError that ends everything
READY, DONE, REFUSED = "ready", "done", "refused"
_LENGTH = 8


def write_message(stream: IO[bytes], content: bytes) -> None:
    """Send one message.

    Raises:
        BrokenPipeError: the reader is gone.
    """
    stream.write(len(content).to_bytes(_LENGTH, "little") + content)
    stream.flush()


def read_message(stream: IO[bytes]) -> bytes | None:
    """The next message, None where the stream ends, also in the middle of a message."""
    head = stream.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    size = int.from_bytes(head, "little")
    content = stream.read(size)
    return content if len(content) == size else None


def serve(pipe_in: int, pipe_out: int) -> None:
    """Build an engine from the first message, give it the work in every further message, and answer
    with results as they come.

    Args:
        pipe_in, pipe_out: file descriptors.
    """
    # Ctrl-C reaches the whole terminal; the owner decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(pipe_out), "wb")
    os.dup2(2, 1)
    messages: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe_in, messages), daemon=True).start()
    try:
        engine: Engine = pickle.loads(messages.get())()
        write_message(answers, pickle.dumps((READY, None)))
        while True:
            if not engine.n_open or (engine.has_room and not messages.empty()):
                engine.add(pickle.loads(messages.get()))
                continue
            for result in engine.collect():
                write_message(answers, pickle.dumps((DONE, result)))
    except GeoCalcError as error:
        write_message(answers, pickle.dumps((REFUSED, error)))
    except BrokenPipeError:
        return


def _listen(pipe_in: int, messages: SimpleQueue[bytes]) -> None:
    with os.fdopen(os.dup(pipe_in), "rb") as stream:
        while (message := read_message(stream)) is not None:
            messages.put(message)
    os._exit(0)
