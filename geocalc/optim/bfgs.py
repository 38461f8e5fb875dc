"""BFGS: quasi-Newton steps with a Hessian updated from the forces along the path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import dsymv, dsyr
from scipy.linalg.lapack import dpotrf, dpotrs
from torch import Tensor

from geocalc.core.systems import Coordinates, per_row, per_system
from geocalc.optim.base import Floats, FreeComponents, Ragged

SAME_PLACE = 1e-7  # Angstrom; smaller moves do not update the Hessian (as in ASE)
# eV/Angstrom^2; avoids division by zero, far below any real curvature
FLATTEST = 1e-12


@dataclass(frozen=True, kw_only=True)
class BfgsState:
    """State of BFGS.

    Attributes:
        hessian: one (n_free, n_free) array per structure, eV/Angstrom^2, lower triangle in Fortran
            order, over its free components.
        positions: (n_rows, 3) Angstrom at the start of the last step.
        forces: (n_rows, 3) eV/Angstrom at the start of the last step.
    """

    hessian: Ragged[Floats] = per_system()
    positions: Tensor = per_row()
    forces: Tensor = per_row()


@dataclass(frozen=True, kw_only=True)
class Bfgs:
    """Settings of BFGS; the defaults and the update are those of ASE's BFGS.

    Attributes:
        max_step: Angstrom, longest displacement of any one atom; a longer step is scaled down as a
            whole.
        curvature: eV/Angstrom^2, the Hessian before the first step is this times unity.

    Source: Nocedal and Wright, Numerical Optimization (2006), sec. 6.1, with curvatures replaced by
    their absolute values.
    """

    max_step: float = 0.2
    curvature: float = 70.0

    def init(self, coordinates: Coordinates) -> BfgsState:
        """State before the first step."""
        sizes = FreeComponents.of(coordinates).sizes
        return BfgsState(
            hessian=Ragged(
                tuple(np.asfortranarray(self.curvature * np.eye(n_free)) for n_free in sizes)
            ),
            positions=coordinates.positions,
            forces=coordinates.positions.new_zeros(coordinates.positions.shape),
        )

    def step(
        self, coordinates: Coordinates, energy: Tensor, forces: Tensor, state: BfgsState
    ) -> tuple[Tensor, BfgsState]:
        """One quasi-Newton step; see `geocalc.optim.base.Optimizer.step`."""
        free = FreeComponents.of(coordinates)
        parts = free.split(coordinates.positions - state.positions, state.forces - forces, forces)
        learned = tuple(
            _learn(known, move, change)
            for known, (move, change, _) in zip(state.hessian, parts, strict=True)
        )
        steps = [_newton(hessian, part[2]) for hessian, part in zip(learned, parts, strict=True)]
        new = BfgsState(hessian=Ragged(learned), positions=coordinates.positions, forces=forces)
        return free.join(steps, self.max_step, forces), new


def _learn(hessian: Floats, move: Floats, change: Floats) -> Floats:
    """Update the Hessian: the gradient changed by `change` along `move`, both (n_free,)."""
    if len(move) == 0 or np.abs(move).max() < SAME_PLACE:
        return hessian
    expected = dsymv(1.0, hessian, move, lower=1)
    along, known = move @ change, move @ expected
    if along == 0.0 or known == 0.0:
        return hessian
    learned = dsyr(1.0 / along, change, lower=1, a=hessian.copy(order="F"), overwrite_a=1)
    return dsyr(-1.0 / known, expected, lower=1, a=learned, overwrite_a=1)


def _newton(hessian: Floats, forces: Floats) -> Floats:
    """Step to the minimum of the quadratic model, (n_free,), with absolute values of curvatures.

    Where all curvatures are positive, Cholesky factors are enough; they are much faster than
    eigenvectors.
    """
    if len(forces) == 0:
        return forces
    factor, failed = dpotrf(hessian, lower=1, clean=0)
    if not failed:
        return dpotrs(factor, forces, lower=1)[0]
    curvature, axes = np.linalg.eigh(hessian, UPLO="L")
    return axes @ ((forces @ axes) / np.maximum(np.abs(curvature), FLATTEST))
