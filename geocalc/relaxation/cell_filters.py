"""Cells that relax: a structure and its strain as one structure of more rows, which every optimizer
can move.

Six rows follow the atoms of each structure. Three are the strain, times the number of atoms so that
it is of the size of the positions; in place of forces they have the derivative of the enthalpy.
Three more never move, and what stands there in place of forces is the stress, so that it stays with
the geometry it belongs to. Where symmetry is kept, the atoms follow once more at the places they
started from. None of these rows has a positive atomic number; `cell` is that of the start, and so
is the frame that atoms and their constraints live in. Forces and steps are those of ASE's
FrechetCellFilter and UnitCellFilter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from geocalc.core.matrices import (
    determinant,
    exponential,
    exponential_and_derivative,
    inverse,
    matmul,
    matmul_rows,
)
from geocalc.core.systems import CELL, Systems, n_atoms_of
from geocalc.errors import InputError

STRAINS = ("xx", "yy", "zz", "yz", "xz", "xy")  # the components of a mask, in ASE's order
_PLACES = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_ROWS = 6
_NO_VOLUME = 1e-6  # cubic Angstrom


@dataclass(frozen=True, kw_only=True)
class CellFilter:
    """How the cells of a batch may change.

    A fixed atom keeps its fractional coordinates, as in ASE; planes, lines and single fixed
    components are those of the start and change with the cell.

    Attributes:
        kind: frechet moves the logarithm of the deformation gradient, unit the deformation gradient
            itself.
        mask: which components of the strain may change, in the order of `STRAINS`; none of them for
            a fixed cell.
        pressure: eV/Angstrom^3 from outside, ASE's `scalar_pressure`; 1 GPa is 0.00624.
        hydrostatic: only the size of the cell changes, not its shape.
        constant_volume: only the shape of the cell changes; with `unit` this holds to first order
            in a step.
        keep_symmetry: forces and stress are averaged over the space group of the start, so that it
            stays.
        symprec: Angstrom, how far from an atom of the start an operation may take another one.
    Raises:
        InputError: the mask does not fit.
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
        """Refuse masks that steps would leave."""
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
    def needs_stress(self) -> bool:
        """Whether any component of the strain may change."""
        return any(self.mask)

    def extend(self, systems: Systems) -> Systems:
        """A batch with the rows that follow the atoms.

        Raises:
            InputError: a structure has no cell with a volume, or no periodic direction.
        """
        unfit = torch.nonzero(
            (determinant(systems.cell).abs() < _NO_VOLUME) | ~systems.pbc.any(dim=1)
        )
        if len(unfit):
            cell, pbc = systems.cell[int(unfit[0])].tolist(), systems.pbc[int(unfit[0])].tolist()
            raise InputError(
                "to relax a cell or keep a symmetry, a structure needs three independent cell"
                f" vectors and a periodic direction, got {cell} with pbc {pbc}; set the cell, or"
                " relax the atoms alone"
            )
        parts = [systems, _cell_rows(systems, ~self.free)]
        if self.keep_symmetry:
            parts.append(
                replace(systems, numbers=-systems.numbers, fixed=torch.ones_like(systems.fixed))
            )
        return _interleave(parts)

    def real(self, extended: Systems) -> Systems:
        """The structures as they are: atoms alone, in the cells that the strains have made."""
        atoms, turn = atoms_of(extended), self.deformation(extended).transpose(1, 2)
        positions = matmul_rows(atoms.positions, turn[atoms.system_idx])
        return replace(atoms, positions=positions, cell=matmul(extended.cell, turn))

    def deformation(self, extended: Systems) -> Tensor:
        """Deformation gradients F, (n_systems, 3, 3): a vector x of the start has become F x."""
        strain = strain_of(extended)
        if self.kind == "frechet":
            return exponential(strain)
        return strain + torch.eye(3, dtype=strain.dtype, device=strain.device)

    def cell_forces(self, extended: Systems, stress: Tensor) -> Tensor:
        """Forces on the rows of strain, (n_systems, 3, 3) eV/Angstrom, also where the mask holds
        them.

        Args:
            extended: batch with rows of strain.
            stress: (n_systems, 3, 3) eV/Angstrom^3.
        """
        deformation = self.deformation(extended)
        volume = determinant(matmul(extended.cell, deformation.transpose(1, 2))).abs()
        unity = torch.eye(3, dtype=stress.dtype, device=stress.device)
        virial = -volume[:, None, None] * (stress + self.pressure * unity)
        if self.kind == "frechet":
            if self.hydrostatic:
                virial = _mean_diagonal(virial) * unity
            gradient = matmul(virial, inverse(deformation).transpose(1, 2))
            # the sum of a matrix with the derivatives along all directions is the derivative along
            # it, at the transpose
            _, gradient = exponential_and_derivative(strain_of(extended).transpose(1, 2), gradient)
        else:
            gradient = matmul(virial, inverse(deformation).transpose(1, 2))
            if self.hydrostatic:
                gradient = _mean_diagonal(gradient) * unity
        if self.constant_volume:
            gradient = gradient - _mean_diagonal(gradient) * unity
        return gradient / n_atoms_of(extended)[:, None, None]


def atoms_of(systems: Systems) -> Systems:
    """The batch without the rows that a filter has added, in the frame and cell of the start."""
    return _rows(systems, systems.numbers > CELL)


def start_of(extended: Systems) -> Systems:
    """The structures that a filter that keeps symmetry has extended."""
    start, atoms = _rows(extended, extended.numbers < CELL), atoms_of(extended)
    return replace(atoms, positions=start.positions)


def strain_of(extended: Systems) -> Tensor:
    """What the filter moves in place of a cell, (n_systems, 3, 3); zero at the start."""
    rows = extended.positions[extended.numbers == CELL].reshape(-1, _ROWS, 3)[:, :3]
    return rows / n_atoms_of(extended)[:, None, None]


def forces_with(extended: Systems, forces: Tensor, cell_forces: Tensor, stress: Tensor) -> Tensor:
    """Forces on all rows (n_rows, 3) from those on atoms (n_atoms, 3), on strains and the stress
    (n_systems, 3, 3) each.
    """
    rows = torch.zeros_like(extended.positions)
    rows[extended.numbers > CELL] = forces
    rows[extended.numbers == CELL] = torch.cat((cell_forces, stress), dim=1).reshape(-1, 3)
    return rows


def forces_from(extended: Systems, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The forces (n_atoms, 3) on atoms, in the frame of the start, and the stress (n_systems, 3, 3)
    among those of all rows.
    """
    cell_rows = rows[extended.numbers == CELL].reshape(-1, _ROWS, 3)
    return rows[extended.numbers > CELL], cell_rows[:, 3:]


def _mean_diagonal(matrices: Tensor) -> Tensor:
    """A third of the trace of each matrix, (n, 1, 1)."""
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    return ((diagonal[:, 0] + diagonal[:, 1] + diagonal[:, 2]) / 3)[:, None, None]


def _cell_rows(systems: Systems, held: Tensor) -> Systems:
    """The rows of strain, of which `held` (3, 3) do not move, and of stress; alone."""
    n, device = systems.n_systems, systems.positions.device
    nothing = torch.zeros(_ROWS * n, dtype=torch.int64, device=device)
    fixed = torch.cat((held, torch.ones_like(held))).to(device).repeat(n, 1)
    unity = torch.eye(3, dtype=torch.float64, device=device).expand(_ROWS * n, 3, 3)
    return replace(
        systems,
        positions=systems.positions.new_zeros(_ROWS * n, 3),
        numbers=nothing + CELL,
        tags=nothing,
        fixed=fixed,
        system_idx=torch.arange(n, device=device).repeat_interleave(_ROWS),
        projector=None if systems.projector is None else unity,
    )


_PER_ROW = ("positions", "numbers", "tags", "fixed", "system_idx", "projector")


def _rows(systems: Systems, chosen: Tensor) -> Systems:
    """Some rows of every structure."""
    if bool(chosen.all()):
        return systems
    values = {name: getattr(systems, name) for name in _PER_ROW}
    return replace(
        systems, **{name: value[chosen] for name, value in values.items() if value is not None}
    )


def _interleave(parts: Sequence[Systems]) -> Systems:
    """Rows of the same structures joined, those of each structure together."""
    order = torch.argsort(torch.cat([part.system_idx for part in parts]), stable=True)
    values = {
        name: [getattr(part, name) for part in parts]
        for name in _PER_ROW
        if getattr(parts[0], name) is not None
    }
    return replace(
        parts[0], **{name: torch.cat(columns)[order] for name, columns in values.items()}
    )
