"""Activation functions."""

import math

from torch import Tensor
from torch.nn import functional


def swish(values: Tensor) -> Tensor:
    """Return x sigmoid(x), also called SiLU."""
    return functional.silu(values)


def shifted_softplus(values: Tensor) -> Tensor:
    """Return ln(0.5 exp(x) + 0.5), a softplus shifted to be zero at zero.

    Source: Schuett et al., SchNet (2017), sec. 3.
    """
    return functional.softplus(values) - math.log(2.0)
