from __future__ import annotations

import scipy.linalg
import torch
from threadpoolctl import threadpool_info

from geocalc.core.process import one_thread


def blas_threads() -> list[int]:
    assert scipy.linalg.blas.dgemm is not None  # loaded
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


def test_one_thread_holds_torch_and_every_blas_and_lets_them_go():
    torch_before, blas_before = torch.get_num_threads(), blas_threads()
    assert blas_before
    with one_thread():
        assert torch.get_num_threads() == 1
        assert set(blas_threads()) == {1}
    assert torch.get_num_threads() == torch_before
    assert blas_threads() == blas_before
