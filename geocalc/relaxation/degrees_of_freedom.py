"""Degrees of freedom of a relaxation: the coordinates it moves and their relation to structures.

The loop and the optimizers work on rows of three coordinates. Where atoms move alone, these rows
are the atoms. `geocalc.relaxation.cell_filters` adds rows for the strain of each cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from geocalc.core.systems import (
    Coordinates,
    Potential,
    Prediction,
    Systems,
    apply_constraints,
    changed,
    max_per_system,
)
from geocalc.errors import InputError
from geocalc.relaxation.state import Snapshot
from geocalc.relaxation.status import MOVE_LIMIT

Rows = TypeVar("Rows", bound=Coordinates)


class DegreesOfFreedom(Protocol[Rows]):
    """Translates between structures and the coordinates that a relaxation moves."""

    def coordinates(self, systems: Systems) -> Rows:
        """Coordinates of a batch of structures at the start of a relaxation."""
        ...

    def limits(self, coordinates: Rows) -> Tensor:
        """Distance in Angstrom that each row may move from its start, (n_rows,)."""
        ...

    def unevaluated(self, coordinates: Rows) -> Snapshot:
        """Snapshot before the first evaluation: the positions, and NaN for all results."""
        ...

    def evaluate(self, coordinates: Rows, potential: Potential) -> Snapshot:
        """Snapshot of the rows, in float64; its energy is the quantity to be minimized.

        Raises:
            InputError: the potential or a structure lacks something that is needed.
        """
        ...

    def structures(self, coordinates: Rows, snapshot: Snapshot) -> tuple[Systems, Snapshot]:
        """The structures at the positions of a snapshot of rows, and their snapshot over atoms."""
        ...

    def rows(self, coordinates: Rows, vectors: Tensor) -> Tensor:
        """Vectors on atoms (n_atoms, 3) as vectors on all rows (n_rows, 3), zero elsewhere."""
        ...


@dataclass(frozen=True)
class AtomsOnly:
    """Relaxes the positions of atoms in fixed cells: each row is an atom."""

    def coordinates(self, systems: Systems) -> Systems:
        """See `DegreesOfFreedom`."""
        return systems

    def limits(self, coordinates: Systems) -> Tensor:
        """See `DegreesOfFreedom`."""
        return coordinates.positions.new_full((coordinates.n_atoms,), MOVE_LIMIT)

    def unevaluated(self, coordinates: Systems) -> Snapshot:
        """See `DegreesOfFreedom`."""
        return unevaluated(coordinates)

    def evaluate(self, coordinates: Systems, potential: Potential) -> Snapshot:
        """See `DegreesOfFreedom`.

        Raises:
            InputError: the potential gives no forces.
        """
        found = potential(coordinates)
        if found.forces is None:
            raise InputError(
                "this potential gives energies without forces; a relaxation needs a model trained"
                " on forces"
            )
        return snapshot(coordinates, found, found.energy.double(), found.forces.double())

    def structures(self, coordinates: Systems, snapshot: Snapshot) -> tuple[Systems, Snapshot]:
        """See `DegreesOfFreedom`."""
        if coordinates.positions is not snapshot.positions:
            coordinates = changed(coordinates, positions=snapshot.positions)
        return coordinates, snapshot

    def rows(self, coordinates: Systems, vectors: Tensor) -> Tensor:
        """See `DegreesOfFreedom`."""
        return vectors


def snapshot(
    coordinates: Coordinates,
    found: Prediction,
    energy: Tensor,
    forces: Tensor,
    stress: Tensor | None = None,
) -> Snapshot:
    """Snapshot of a batch at its present positions.

    Args:
        coordinates: batch.
        found: prediction of the potential for the structures of the batch.
        energy: (n_systems,) eV, float64.
        forces: (n_rows, 3) eV/Angstrom, float64, raw.
        stress: (n_systems, 3, 3) eV/Angstrom^3, or None.
    """
    constrained_forces = apply_constraints(forces, coordinates)
    norms = torch.linalg.vector_norm(constrained_forces, dim=1)
    fmax = max_per_system(norms.nan_to_num(nan=torch.inf, posinf=torch.inf), coordinates)
    unknown = torch.full_like(energy, torch.nan)
    none = torch.zeros_like(energy, dtype=torch.int64)
    return Snapshot(
        positions=coordinates.positions,
        forces=forces,
        constrained_forces=constrained_forces,
        energy=energy,
        energy_std=unknown if found.energy_std is None else found.energy_std.double(),
        fmax=fmax.masked_fill(fmax.isinf(), torch.nan),
        novelty=unknown if found.novelty is None else found.novelty.double(),
        novel_atom=none if found.novel_atom is None else found.novel_atom,
        unseen=none if found.unseen is None else found.unseen,
        stress=stress,
    )


def unevaluated(coordinates: Coordinates) -> Snapshot:
    """Snapshot before the first evaluation, without stress."""
    positions = coordinates.positions
    unknown = positions.new_full((coordinates.n_systems,), torch.nan)
    unknown_forces = torch.full_like(positions, torch.nan)
    none = torch.zeros_like(unknown, dtype=torch.int64)
    return Snapshot(
        positions=positions,
        forces=unknown_forces,
        constrained_forces=unknown_forces,
        energy=unknown,
        energy_std=unknown,
        fmax=unknown,
        novelty=unknown,
        novel_atom=none,
        unseen=none,
    )
