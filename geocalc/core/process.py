"""Settings of the whole process: threads, denormal numbers and memory allocation.

For programs that own their process: the command line, its workers and the workflows.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import scipy.linalg  # noqa: F401 - loads scipy's own BLAS, so that threadpoolctl finds it
import torch
from threadpoolctl import ThreadpoolController

# largest threshold that glibc accepts for allocating with mmap
MMAP_THRESHOLD_BYTES = 32 * 1024 * 1024
# free memory at the top of the heap up to this size is not returned to the system
TRIM_THRESHOLD_BYTES = 2_000_000_000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # constants of glibc's malloc.h


def configure_process(threads: int = 1) -> None:
    """Set the number of threads, flush denormal numbers to zero and keep freed memory for reuse.

    Graphs of tens of atoms are slower on two threads than on one. Numbers below 1e-38, which smooth
    cutoffs produce, are slow and negligible. Without the memory settings, temporary arrays of a few
    MB would be returned to the system and mapped again, page by page, in every step.

    Args:
        threads: number of threads of torch and of the BLAS libraries.
    """
    torch.set_num_threads(threads)
    _blas().limit(limits=threads)
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only in glibc
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
            mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch and the BLAS of numpy and scipy to one thread inside the `with` block.

    Sums are then independent of the number of cores, and products of a few hundred rows avoid the
    synchronization of threads.
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
    """Return a controller of the BLAS libraries of this process; finding them takes tens of ms."""
    return ThreadpoolController().select(user_api="blas")


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
