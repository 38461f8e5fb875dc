"""Irreps as users write them."""

from __future__ import annotations

from e3nn import o3

from geocalc.errors import InputError


def read_irreps(text: str) -> o3.Irreps:
    """`16x0e + 8x1o` as irreps of O(3), equal ones next to each other joined.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return o3.Irreps(text).simplify()
    except (ValueError, AssertionError):
        raise InputError(f"irreps {text!r} cannot be read; write copies, degree and parity, such as 16x0e + 8x1o") from None
