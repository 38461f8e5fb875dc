"""Relaxation of cells: forces on the strain of each cell, and structures from strains.

Forces and steps are those of ASE's FrechetCellFilter and UnitCellFilter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from geocalc.core.cells import CellCoordinates
from geocalc.core.matrices import (
    determinant,
    exponential,
    exponential_and_derivative,
    inverse,
    matmul,
    matmul_rows,
)
from geocalc.core.systems import Potential, Systems, apply_constraints
from geocalc.errors import InputError
from geocalc.relaxation.degrees_of_freedom import snapshot, unevaluated
from geocalc.relaxation.state import Snapshot
from geocalc.relaxation.status import MOVE_LIMIT, STRAIN_LIMIT
from geocalc.structures.space_groups import symmetrize

STRAINS = ("xx", "yy", "zz", "yz", "xz", "xy")  # components of a mask, in the order of ASE
_PLACES = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_NO_VOLUME = 1e-6  # cubic Angstrom


@dataclass(frozen=True, kw_only=True)
class CellFilter:
    """Relaxes cells together with atoms; one of the `DegreesOfFreedom`.

    Fixed atoms keep their fractional coordinates, as in ASE. Planes, lines and single fixed
    components are those of the start and change with the cell.

    Attributes:
        kind: frechet moves the logarithm of the deformation gradient, unit the deformation gradient
            itself.
        mask: which components of the strain may change, in the order of `STRAINS`; all False for a
            fixed cell.
        pressure: external pressure in eV/Angstrom^3 (`scalar_pressure` of ASE); 1 GPa is 0.00624.
        hydrostatic: only the volume of the cell changes, not its shape.
        constant_volume: only the shape of the cell changes; with `unit` this holds to first order
            in a step.
        keep_symmetry: average forces and stress over the space group of the start, so that it is
            kept.
        symprec: Angstrom, tolerance for the positions of atoms in the search for the space group.
    Raises:
        InputError: the mask has the wrong length or is not closed under the steps.
    Source: Tadmor et al., Phys. Rev. B 59, 235 (1999).
    """

    kind: Literal["frechet", "unit"] = "frechet"
    mask: Sequence[bool] = (True,) * 6
    pressure: float = 0.0
    hydrostatic: bool = False
    constant_volume: bool = False
    keep_symmetry: bool = False
    symprec: float = 0.01

    def __post_init__(self) -> None:
        """Refuse masks that the steps would violate."""
        if len(self.mask) != len(STRAINS):
            raise InputError(
                f"the mask of a cell has one value for each of {' '.join(STRAINS)}, got"
                f" {len(self.mask)}"
            )
        free = self.free.double()
        if self.kind == "frechet" and bool(((free @ free > 0) & (free == 0)).any()):
            names = ",".join(
                name for name, is_free in zip(STRAINS, self.mask, strict=True) if is_free
            )
            raise InputError(
                f"the mask {names} frees a shear without the other strains that a finite shear"
                " makes; free them too (xx and yy for xy), or use the filter unit"
            )
        if self.constant_volume and not all(self.mask[:3]):
            raise InputError("a constant volume needs xx, yy and zz to change; free them all")

    @property
    def free(self) -> Tensor:
        """The mask as a symmetric (3, 3) bool matrix."""
        free = torch.zeros(3, 3, dtype=torch.bool)
        for (i, j), is_free in zip(_PLACES, self.mask, strict=True):
            free[i, j] = free[j, i] = bool(is_free)
        return free

    @property
    def shapes(self) -> Tensor:
        """Projector onto the strains that may occur, (9, 9): symmetric ones that the mask frees,
        and only the volume, or all but the volume, where that is asked for.
        """
        unity = torch.eye(9, dtype=torch.float64).reshape(3, 3, 9)
        symmetric = 0.5 * (unity + unity.transpose(0, 1)) * self.free[:, :, None]
        shapes = symmetric.reshape(9, 9)
        growth = shapes @ torch.eye(3, dtype=torch.float64).reshape(9, 1)
        size = float((growth * growth).sum())
        volume = growth @ growth.T / size if size else 0 * shapes
        if self.hydrostatic:
            shapes = volume
        return shapes - volume if self.constant_volume else shapes

    @property
    def needs_stress(self) -> bool:
        """Whether any component of the strain may change."""
        return any(self.mask)

    def coordinates(self, systems: Systems) -> CellCoordinates:
        """See `DegreesOfFreedom`."""
        return CellCoordinates.of(systems, self.free, self.shapes)

    def limits(self, coordinates: CellCoordinates) -> Tensor:
        """See `DegreesOfFreedom`."""
        strain_limits = (STRAIN_LIMIT * coordinates.start.counts.double())[coordinates.system_idx]
        return torch.where(coordinates.is_atom, MOVE_LIMIT, strain_limits)

    def unevaluated(self, coordinates: CellCoordinates) -> Snapshot:
        """See `DegreesOfFreedom`."""
        unknown = torch.full_like(coordinates.start.cell, torch.nan)
        return replace(unevaluated(coordinates), stress=unknown)

    def evaluate(self, coordinates: CellCoordinates, potential: Potential) -> Snapshot:
        """See `DegreesOfFreedom`; the energy is the enthalpy.

        Raises:
            InputError: a structure has no cell with a volume or no periodic direction, the
                potential gives no forces or no stress, or no space group is found.
        """
        _check_cells(coordinates.start)
        deformation = self.deformation(coordinates)
        systems = _deformed(coordinates, deformation)
        found = potential(systems)
        if found.forces is None or (found.stress is None and self.needs_stress):
            lack = "forces" if found.forces is None else "stress"
            raise InputError(
                f"this potential gives no {lack}; the relaxation of a cell needs a model trained on"
                " forces and stress"
            )
        unknown = torch.full_like(systems.cell, torch.nan)
        forces = found.forces.double()
        stress = unknown if found.stress is None else found.stress.double()
        if self.keep_symmetry:
            free = tuple(bool(is_free) for is_free in self.mask)
            forces, stress = symmetrize(
                forces, stress, systems, coordinates.start, free, self.symprec
            )
        volume = determinant(systems.cell).abs()
        return snapshot(
            coordinates,
            found,
            energy=found.energy.double() + self.pressure * volume,
            forces=coordinates.rows(
                matmul_rows(forces, deformation[systems.system_idx]),
                self._strain_forces(coordinates, deformation, stress, volume),
            ),
            stress=stress,
        )

    def structures(
        self, coordinates: CellCoordinates, snapshot: Snapshot
    ) -> tuple[Systems, Snapshot]:
        """See `DegreesOfFreedom`; the energy is that of the potential."""
        placed = replace(coordinates, positions=snapshot.positions)
        deformation = self.deformation(placed)
        systems = _deformed(placed, deformation)
        back = inverse(deformation)[systems.system_idx]
        forces = matmul_rows(snapshot.forces[coordinates.is_atom], back)
        return systems, replace(
            snapshot,
            positions=systems.positions,
            forces=forces,
            constrained_forces=apply_constraints(forces, systems),
            energy=snapshot.energy - self.pressure * determinant(systems.cell).abs(),
            cell=systems.cell,
        )

    def rows(self, coordinates: CellCoordinates, vectors: Tensor) -> Tensor:
        """See `DegreesOfFreedom`."""
        return coordinates.rows(vectors)

    def deformation(self, coordinates: CellCoordinates) -> Tensor:
        """Deformation gradients F, (n_systems, 3, 3): a vector x of the start has become F x."""
        strain = coordinates.strain
        if self.kind == "frechet":
            return exponential(strain)
        return strain + torch.eye(3, dtype=strain.dtype, device=strain.device)

    def _strain_forces(
        self, coordinates: CellCoordinates, deformation: Tensor, stress: Tensor, volume: Tensor
    ) -> Tensor:
        """Forces on the rows of strain, (n_systems, 3, 3) eV/Angstrom, also where the mask holds
        them.

        Args:
            coordinates: batch.
            deformation: (n_systems, 3, 3), of its strains.
            stress: (n_systems, 3, 3) eV/Angstrom^3.
            volume: (n_systems,) Angstrom^3, of the strained cells.
        """
        unity = torch.eye(3, dtype=stress.dtype, device=stress.device)
        virial = -volume[:, None, None] * (stress + self.pressure * unity)
        if self.kind == "frechet":
            if self.hydrostatic:
                virial = _mean_diagonal(virial) * unity
            gradient = matmul(virial, inverse(deformation).transpose(1, 2))
            # contracting a matrix with the derivatives along all directions gives the derivative
            # along that matrix, at the transpose
            _, gradient = exponential_and_derivative(coordinates.strain.transpose(1, 2), gradient)
        else:
            gradient = matmul(virial, inverse(deformation).transpose(1, 2))
            if self.hydrostatic:
                gradient = _mean_diagonal(gradient) * unity
        if self.constant_volume:
            gradient = gradient - _mean_diagonal(gradient) * unity
        return gradient / coordinates.start.counts[:, None, None]


def _check_cells(systems: Systems) -> None:
    """Refuse structures that have no cell with a volume, or no periodic direction.

    Raises:
        InputError: see above.
    """
    unfit = torch.nonzero((determinant(systems.cell).abs() < _NO_VOLUME) | ~systems.pbc.any(dim=1))
    if len(unfit):
        cell, pbc = systems.cell[int(unfit[0])].tolist(), systems.pbc[int(unfit[0])].tolist()
        raise InputError(
            "to relax a cell or keep a symmetry, a structure needs three independent cell vectors"
            f" and a periodic direction, got {cell} with pbc {pbc}; set the cell, or relax the"
            " atoms alone"
        )


def _deformed(coordinates: CellCoordinates, deformation: Tensor) -> Systems:
    """The structures in their strained cells."""
    atoms, turn = coordinates.atoms, deformation.transpose(1, 2)
    positions = matmul_rows(atoms.positions, turn[atoms.system_idx])
    return replace(atoms, positions=positions, cell=matmul(atoms.cell, turn))


def _mean_diagonal(matrices: Tensor) -> Tensor:
    """A third of the trace of each matrix, (n, 1, 1)."""
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    return ((diagonal[:, 0] + diagonal[:, 1] + diagonal[:, 2]) / 3)[:, None, None]
