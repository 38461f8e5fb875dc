"""What is known of structures on their way downhill, and of each at its end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from geocalc.core.systems import Systems, per_atom, per_system
from geocalc.relaxation.status import Status


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Evaluated geometries of a batch; everything belongs to the same positions.

    Attributes:
        positions: (n_atoms, 3) Angstrom.
        forces: (n_atoms, 3) eV/Angstrom, raw.
        constrained_forces: (n_atoms, 3) eV/Angstrom, the forces along what constraints allow.
        energy: (n_systems,) eV.
        energy_std: (n_systems,) eV, NaN where the potential gives none.
        fmax: (n_systems,) eV/Angstrom, largest norm over atoms of the constrained_forces.
    """

    positions: Tensor = per_atom()
    forces: Tensor = per_atom()
    constrained_forces: Tensor = per_atom()
    energy: Tensor = per_system()
    energy_std: Tensor = per_system()
    fmax: Tensor = per_system()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far each structure of the batch has come.

    Attributes:
        index: (n_systems,) int64, place in the batch that was handed in.
        n_steps: (n_systems,) int64, steps taken.
        n_evaluations: (n_systems,) int64, calls of the potential that included the structure.
        start_positions: (n_atoms, 3) Angstrom.
        start_energy: (n_systems,) eV, of the first evaluation.
        tether: (n_atoms,) 1/Angstrom, inverse of how far from its start a row may go.
        n_atoms: (n_systems,) float64, without the rows that a filter has added.
    """

    index: Tensor = per_system()
    n_steps: Tensor = per_system()
    n_evaluations: Tensor = per_system()
    start_positions: Tensor = per_atom()
    start_energy: Tensor = per_system()
    tether: Tensor = per_atom()
    n_atoms: Tensor = per_system()


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """The end of one relaxation.

    Attributes:
        systems: the structure, alone, at its final positions; fixed components are bit for bit
            those handed in.
        energy: eV at the final positions, NaN if the potential never gave a number.
        energy_std: eV, or NaN.
        forces: (n_atoms, 3) eV/Angstrom at the final positions, raw (also on fixed atoms).
        fmax: eV/Angstrom at the final positions.
        status: how it ended.
        n_steps: steps taken.
        n_evaluations: calls of the potential.
        noise: eV/Angstrom, root mean square error of a force component where the noise floor was
            reached, else NaN.
    """

    systems: Systems
    energy: float
    energy_std: float
    forces: Tensor
    fmax: float
    status: Status
    n_steps: int
    n_evaluations: int
    noise: float = math.nan

    @property
    def converged(self) -> bool:
        """Whether the forces fell below fmax."""
        return self.status is Status.CONVERGED

    @property
    def sentence(self) -> str:
        """How it ended, for a human reader."""
        measured = (
            ""
            if math.isnan(self.noise)
            else f" Each component of a force is wrong by about {self.noise:.2g} eV/Angstrom."
        )
        return self.status.sentence + measured
