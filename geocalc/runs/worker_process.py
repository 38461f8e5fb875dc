"""The far side of a `geocalc.runs.workers.WorkerPool`: a process that does one piece of work after
the other.

It talks in frames of eight bytes of length and a pickle, in on standard input and out on standard
output. Whatever else is printed goes to standard error. When standard input ends, because its owner
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


def write_frame(stream: IO[bytes], content: bytes) -> None:
    """Send one frame.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    stream.write(len(content).to_bytes(_LENGTH, "little") + content)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame, None where the stream ends, be it inside a frame."""
    head = stream.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    size = int.from_bytes(head, "little")
    content = stream.read(size)
    return content if len(content) == size else None


def main() -> None:
    """Build what does the work from the first frame, then answer every further frame with its
    result.
    """
    # Ctrl-C reaches the whole terminal; the owner decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    frames: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(frames,), daemon=True).start()
    try:
        work = pickle.loads(frames.get())()
        write_frame(answers, pickle.dumps((READY, None)))
        while True:
            write_frame(answers, pickle.dumps((DONE, work(pickle.loads(frames.get())))))
    except GeoCalcError as error:
        write_frame(answers, pickle.dumps((REFUSED, error)))
    except BrokenPipeError:
        return


def _listen(frames: SimpleQueue[bytes]) -> None:
    with os.fdopen(os.dup(0), "rb") as stream:
        while (frame := read_frame(stream)) is not None:
            frames.put(frame)
    os._exit(0)
