"""A worker process of `geocalc.runs.workers.WorkerPool`: does one piece of work after the other.

Messages are eight bytes of length and a pickle, in on standard input and out on standard output.
Everything else that is printed goes to standard error. When standard input ends, because the owner
closed it or was killed, the process ends at once.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from queue import SimpleQueue
from typing import IO

from geocalc.errors import GeoCalcError

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


def serve() -> None:
    """Build the function that does the work from the first message, then answer every further
    message with its result.
    """
    # Ctrl-C reaches the whole terminal; the owner decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    messages: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    try:
        work = pickle.loads(messages.get())()
        write_message(answers, pickle.dumps((READY, None)))
        while True:
            write_message(answers, pickle.dumps((DONE, work(pickle.loads(messages.get())))))
    except GeoCalcError as error:
        write_message(answers, pickle.dumps((REFUSED, error)))
    except BrokenPipeError:
        return


def _listen(messages: SimpleQueue[bytes]) -> None:
    with os.fdopen(os.dup(0), "rb") as stream:
        while (message := read_message(stream)) is not None:
            messages.put(message)
    os._exit(0)
