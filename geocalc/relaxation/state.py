"""State of a batch during a relaxation, and the result of each structure at its end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from geocalc.core.systems import Systems, per_row, per_system
from geocalc.relaxation.status import Status


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Evaluated geometries of a batch; all fields belong to the same positions.

    Inside the relaxation loop rows are the coordinates that move, see
    `geocalc.relaxation.degrees_of_freedom`; everywhere else they are atoms.

    Attributes:
        positions: (n_rows, 3) Angstrom.
        forces: (n_rows, 3) eV/Angstrom, raw.
        constrained_forces: (n_rows, 3) eV/Angstrom, the forces along what constraints allow.
        energy: (n_systems,) eV.
        energy_std: (n_systems,) eV, NaN where the potential gives none.
        fmax: (n_systems,) eV/Angstrom, largest norm over rows of the constrained_forces.
        novelty: (n_systems,) largest of the atoms, see `Prediction`; NaN where the potential gives
            none.
        novel_atom: (n_systems,) int64, the atom with that novelty, by its place in the structure.
        unseen: (n_systems,) int64, see `Prediction`.
        stress: (n_systems, 3, 3) eV/Angstrom^3, NaN where the potential gives none; None where
            cells cannot change.
        cell: (n_systems, 3, 3) Angstrom; None where cells cannot change.
    """

    positions: Tensor = per_row()
    forces: Tensor = per_row()
    constrained_forces: Tensor = per_row()
    energy: Tensor = per_system()
    energy_std: Tensor = per_system()
    fmax: Tensor = per_system()
    novelty: Tensor = per_system()
    novel_atom: Tensor = per_system()
    unseen: Tensor = per_system()
    stress: Tensor | None = per_system(optional=True)
    cell: Tensor | None = per_system(optional=True)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of each structure of a batch.

    Attributes:
        index: (n_systems,) int64, place in the batch that was handed in.
        n_steps: (n_systems,) int64, steps taken.
        n_evaluations: (n_systems,) int64, calls of the potential that included the structure.
        start_positions: (n_rows, 3) Angstrom.
        start_energy: (n_systems,) eV, of the first evaluation.
        tether: (n_rows,) 1/Angstrom, inverse of the distance that a row may move from its start.
        n_atoms: (n_systems,) float64.
        novelty: (n_systems,) largest of all evaluations so far, NaN if it is not known.
    """

    index: Tensor = per_system()
    n_steps: Tensor = per_system()
    n_evaluations: Tensor = per_system()
    start_positions: Tensor = per_row()
    start_energy: Tensor = per_system()
    tether: Tensor = per_row()
    n_atoms: Tensor = per_system()
    novelty: Tensor = per_system()


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """Result of one relaxation.

    Attributes:
        systems: the structure, alone, at its final positions and in its final cell; fixed
            components of positions are bit for bit those of the start unless the cell changed.
        energy: eV at the final geometry, without any work against a pressure; NaN if the potential
            never gave a number.
        energy_std: eV, or NaN.
        forces: (n_atoms, 3) eV/Angstrom at the final geometry, raw (also on fixed atoms).
        fmax: eV/Angstrom at the final geometry, largest force on an atom or, where the cell
            relaxes, on a row of strain (as in ASE's filters).
        status: how it ended.
        n_steps: steps taken.
        n_evaluations: calls of the potential.
        noise: eV/Angstrom, root mean square error of a force component where the noise floor was
            reached, else NaN.
        stress: (3, 3) eV/Angstrom^3 at the final geometry where the cell relaxed or its symmetry
            was kept, NaN where the potential gave none; else None.
        novelty: distance of the final geometry from the training data, 1 at the edge of the domain
            of the potential, see `geocalc.potentials.domain`; NaN if it is not known.
        novel_atom: the atom that is furthest from the training data.
        unseen: code of bonds that the training data do not have, see `Prediction`; 0 if there are
            none.
        path_novelty: largest novelty of all evaluated geometries; NaN if it is not known.
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
    stress: Tensor | None = None
    novelty: float = math.nan
    novel_atom: int = 0
    unseen: int = 0
    path_novelty: float = math.nan

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
            else f" The error of each force component is about {self.noise:.2g} eV/Angstrom."
        )
        return self.status.sentence + measured
