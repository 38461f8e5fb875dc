"""Lengths of vectors, and their derivative at zero."""

from __future__ import annotations

import torch

from geocalc.core.lengths import SHORTEST, safe_lengths


def test_the_length_of_a_zero_vector_has_a_finite_derivative() -> None:
    vectors = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], dtype=torch.float64)
    vectors.requires_grad_()
    lengths = safe_lengths(vectors)
    (slope,) = torch.autograd.grad(lengths.sum(), vectors)
    assert lengths.tolist() == [SHORTEST, 5.0]
    torch.testing.assert_close(slope, vectors.detach() / 5)
