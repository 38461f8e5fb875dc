"""Settings of a whole process, for those who own one: the command line, its worker processes and
the workflows.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import scipy.linalg  # noqa: F401 - a BLAS of its own, which must be loaded to be found
import torch
from threadpoolctl import ThreadpoolController

# glibc's largest allowed threshold for taking memory straight from the system
KEEP_BYTES = 32 * 1024 * 1024
TRIM_BYTES = 2_000_000_000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h


def settle_process(threads: int = 1) -> None:
    """One thread unless told otherwise, tiny numbers to zero, and freed memory kept for reuse.

    Graphs of tens of atoms are slower on two threads than on one. Numbers below 1e-38, which smooth
    cutoffs produce, are slow and mean nothing. Temporary arrays of a few MB would go back to the
    system and be fetched anew, page by page, in every step.
    """
    torch.set_num_threads(threads)
    _blas().limit(limits=threads)
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent where libc is not glibc
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
            mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch and the BLAS of numpy and scipy compute on one thread inside the `with` block.

    Sums then come out the same wherever they are made, and products of a hundred rows do not wait
    for other threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process; finding them takes tens of milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
