"""Coordinates of structures whose cells relax: rows of atoms and rows of strain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocalc.core.systems import Systems, nested, per_row


@dataclass(frozen=True, kw_only=True)
class CellCoordinates:
    """Coordinates of a batch: the atoms of each structure, then three rows of its strain.

    Atoms and their constraints stay in the frame of the start: the deformation gradient F of a
    strain, see `geocalc.relaxation.cell_filters`, takes them to their places in the strained cell.
    Strains are stored times the number of atoms of the structure, so that they and their forces
    are of the size of positions and forces on atoms (as in ASE's filters).

    Attributes:
        positions: (n_rows, 3) Angstrom; atoms in the frame of the start, or strains times the
            number of atoms.
        fixed: (n_rows, 3) bool, True where a component may not move.
        system_idx: (n_rows,) int64, ascending; the structure of each row.
        projector: (n_rows, 3, 3) as that of `Systems`, or None.
        is_atom: (n_rows,) bool, False for rows of strain.
        start: the structures at the start of the relaxation.
        shapes: (9, 9) projector onto the strains that may occur, flattened.
    """

    positions: Tensor = per_row()
    fixed: Tensor = per_row()
    system_idx: Tensor = per_row()
    projector: Tensor | None = per_row()
    is_atom: Tensor = per_row()
    start: Systems = nested()
    shapes: Tensor

    @classmethod
    def of(cls, systems: Systems, free: Tensor, shapes: Tensor) -> CellCoordinates:
        """Coordinates of structures, without strain.

        Args:
            systems: batch of structures.
            free: (3, 3) bool, the components of the strain that may change.
            shapes: see the class.
        """
        n, device = systems.n_systems, systems.positions.device
        strain_idx = torch.arange(n, device=device).repeat_interleave(3)
        system_idx = torch.cat((systems.system_idx, strain_idx))
        order = torch.argsort(system_idx, stable=True)
        strains = systems.positions.new_zeros(3 * n, 3)
        held = (~free).to(device).repeat(n, 1)
        projector = systems.projector
        if projector is not None:
            unity = torch.eye(3, dtype=projector.dtype, device=device).expand(3 * n, 3, 3)
            projector = torch.cat((projector, unity))[order]
        return cls(
            positions=torch.cat((systems.positions, strains))[order],
            fixed=torch.cat((systems.fixed, held))[order],
            system_idx=system_idx[order],
            projector=projector,
            is_atom=order < systems.n_atoms,
            start=systems,
            shapes=shapes.to(device),
        )

    @property
    def n_systems(self) -> int:
        """Number of structures in the batch."""
        return self.start.n_systems

    @property
    def counts(self) -> Tensor:
        """Rows of each structure, (n_systems,) int64."""
        return self.start.counts + 3

    @property
    def strain(self) -> Tensor:
        """Strain of each structure, (n_systems, 3, 3); zero at the start."""
        rows = self.positions[~self.is_atom].reshape(-1, 3, 3)
        return rows / self.start.counts[:, None, None]

    @property
    def atoms(self) -> Systems:
        """The structures in the frame and cell of the start, at the present positions."""
        return replace(self.start, positions=self.positions[self.is_atom])

    def rows(self, on_atoms: Tensor, on_strains: Tensor | None = None) -> Tensor:
        """Join vectors on atoms (n_atoms, 3) and on strains (n_systems, 3, 3) to (n_rows, 3); zero
        on strains where None is given.
        """
        rows = torch.zeros_like(self.positions)
        rows[self.is_atom] = on_atoms
        if on_strains is not None:
            rows[~self.is_atom] = on_strains.reshape(-1, 3)
        return rows
