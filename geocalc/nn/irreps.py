"""The irreducible representations of e3nn, imported in a quarter of the time.

e3nn keeps one of its functions from torch's compiler, which loads the compiler. That takes a second
or two in every process, and nothing here compiles e3nn's functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Replace the decorator that loads the compiler by one that does nothing."""
    disable = torch.compiler.disable
    torch.compiler.disable = _left_alone
    try:
        yield
    finally:
        torch.compiler.disable = disable


def _left_alone(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """Stands for `torch.compiler.disable`."""
    return (lambda function: function) if fn is None else fn


with _without_compiler():
    from e3nn import o3

__all__ = ["o3"]
