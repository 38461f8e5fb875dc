"""Relaxations of cells: what the loop sees of the potential, and what it hands back, as structures
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geocalc.core.matrices import determinant, inverse, matmul_rows
from geocalc.core.systems import Potential, Prediction, Systems, apply_constraints, per_system
from geocalc.errors import InputError
from geocalc.optim.base import Optimizer
from geocalc.relaxation.cell_filters import CellFilter, atoms_of, forces_from, forces_with, start_of
from geocalc.relaxation.loop import Observer, relax_systems
from geocalc.relaxation.state import Relaxation, Snapshot
from geocalc.structures.space_groups import symmetrize


@dataclass(frozen=True, kw_only=True)
class CellRelaxation(Relaxation):
    """The end of one relaxation of a cell; `systems` has the atoms and the cell as they are now.

    `energy` is that of the potential, without the work against the pressure; `fmax` is the largest
    force on an atom or row of strain, as ASE's filters have it.

    Attributes:
        stress: (3, 3) eV/Angstrom^3 at the final geometry, NaN where the potential gave none.
        enthalpy: eV, the energy plus pressure times volume, which the relaxation has lowered.
    """

    stress: Tensor
    enthalpy: float


@dataclass(frozen=True, kw_only=True)
class CellSnapshot(Snapshot):
    """Evaluated geometries of a batch whose cells change.

    Attributes:
        cell: (n_systems, 3, 3) Angstrom.
    """

    cell: Tensor = per_system()


@dataclass(frozen=True, kw_only=True)
class CellPotential:
    """A potential of structures as one of extended structures, see
    `geocalc.relaxation.cell_filters`.

    Attributes:
        potential: gives energy, forces and, unless the cell is fixed, stress.
        cell_filter: that has extended the structures.
    """

    potential: Potential
    cell_filter: CellFilter

    def __call__(self, systems: Systems) -> Prediction:
        """Enthalpy (eV) and forces (eV/Angstrom) on atoms, in the frame of the start, and on
        strains.

        Raises:
            InputError: the potential gives no forces or no stress, or the symmetry cannot be found.
        """
        atoms = self.cell_filter.real(systems)
        found = self.potential(atoms)
        if found.forces is None or (found.stress is None and self.cell_filter.needs_stress):
            lack = "forces" if found.forces is None else "stress"
            raise InputError(
                f"this potential gives no {lack}; the relaxation of a cell needs a model trained on"
                " forces and stress"
            )
        unknown = torch.full_like(atoms.cell, torch.nan)
        forces, stress = (
            found.forces.double(),
            unknown if found.stress is None else found.stress.double(),
        )
        if self.cell_filter.keep_symmetry:
            free = tuple(bool(is_free) for is_free in self.cell_filter.mask)
            forces, stress = symmetrize(
                forces, stress, atoms, start_of(systems), free, self.cell_filter.symprec
            )
        work = self.cell_filter.pressure * determinant(atoms.cell).abs()
        deformation = self.cell_filter.deformation(systems)
        pulled = matmul_rows(forces, deformation[atoms.system_idx])
        rows = forces_with(systems, pulled, self.cell_filter.cell_forces(systems, stress), stress)
        return Prediction(
            energy=found.energy.double() + work, forces=rows, energy_std=found.energy_std
        )


@dataclass(frozen=True, kw_only=True)
class CellOpener:
    """Makes the same `CellPotential` in another process.

    Attributes:
        opener: makes the potential inside.
        cell_filter: of this one.
    """

    opener: Callable[[], Potential]
    cell_filter: CellFilter

    def __call__(self) -> CellPotential:
        """The potential."""
        return CellPotential(potential=self.opener(), cell_filter=self.cell_filter)


def relax_cells(
    systems: Systems,
    potential: Potential,
    optimizer: Optimizer[Any],
    cell_filter: CellFilter,
    fmax: float = 0.05,
    max_steps: int = 300,
    observer: Observer | None = None,
) -> list[CellRelaxation]:
    """Relax atoms and cells of every structure of the batch together; a path never depends on batch
    mates.

    Args:
        systems: batch of structures.
        potential: gives energy, forces and stress.
        optimizer: from `geocalc.optim.make_optimizer`; quasi-newton cannot, as its springs know no
            cell.
        cell_filter: how the cells may change.
        fmax: eV/Angstrom, for atoms and strains.
        max_steps, observer: as in `relax_systems`; the observer sees extended structures.
    Returns:
        One relaxation per structure, in the order of the batch.
    Raises:
        InputError: a structure has no cell, the potential gives no stress, or what `relax_systems`
            raises.
    """
    filtered = CellPotential(potential=potential, cell_filter=cell_filter)
    ends = relax_systems(
        cell_filter.extend(systems), filtered, optimizer, fmax, max_steps, observer
    )
    return [restored(end, cell_filter) for end in ends]


def restored(ended: Relaxation, cell_filter: CellFilter) -> CellRelaxation:
    """The relaxation of an extended structure as that of the structure."""
    extended = ended.systems
    atoms = cell_filter.real(extended)
    _, stress = forces_from(extended, ended.forces)
    return CellRelaxation(
        systems=atoms,
        energy=ended.energy - cell_filter.pressure * float(determinant(atoms.cell).abs()[0]),
        energy_std=ended.energy_std,
        forces=_real_forces(extended, ended.forces, cell_filter),
        fmax=ended.fmax,
        status=ended.status,
        n_steps=ended.n_steps,
        n_evaluations=ended.n_evaluations,
        stress=stress[0],
        enthalpy=ended.energy,
    )


def restored_snapshot(extended: Systems, now: Snapshot, cell_filter: CellFilter) -> CellSnapshot:
    """A geometry of extended structures as that of the structures; `extended` gives all but the
    positions.
    """
    placed = replace(extended, positions=now.positions)
    atoms, forces = cell_filter.real(placed), _real_forces(placed, now.forces, cell_filter)
    return CellSnapshot(
        positions=atoms.positions,
        forces=forces,
        constrained_forces=apply_constraints(forces, atoms),
        energy=now.energy - cell_filter.pressure * determinant(atoms.cell).abs(),
        energy_std=now.energy_std,
        fmax=now.fmax,
        cell=atoms.cell,
    )


def _real_forces(extended: Systems, rows: Tensor, cell_filter: CellFilter) -> Tensor:
    """Forces on atoms as the potential gave them, (n_atoms, 3), from those on all rows in the frame
    of the start.
    """
    forces, _ = forces_from(extended, rows)
    return matmul_rows(
        forces, inverse(cell_filter.deformation(extended))[atoms_of(extended).system_idx]
    )
