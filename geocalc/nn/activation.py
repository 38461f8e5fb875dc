"""The activation of every network here."""

from torch import Tensor
from torch.nn import functional


def swish(values: Tensor) -> Tensor:
    """x sigmoid(x), also called SiLU."""
    return functional.silu(values)
