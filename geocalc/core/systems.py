"""Batches of structures and of predictions: frozen data with a row for each atom or structure.

Conventions: positions in Angstrom, lattice vectors in the rows of `cell` (as in ASE), tags as in
OC20 (0 subsurface, 1 surface, 2 adsorbate), energies in eV, forces in eV/Angstrom, stress in
eV/Angstrom^3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from geocalc.errors import InputError

# atomic number of rows that stand for a cell; rows below it are no atoms either, see
# `geocalc.relaxation.cell_filters`
CELL = 0
_ALONG = "along"
# fields that `concatenate` treats separately: one is renumbered, the other may be None
_NOT_JOINED = ("system_idx", "projector")


def per_atom(optional: bool = False) -> Any:
    """Declare a dataclass field with one row per atom."""
    return field(metadata={_ALONG: "atom"}, default=None if optional else MISSING)


def per_system(optional: bool = False) -> Any:
    """Declare a dataclass field with one row per structure."""
    return field(metadata={_ALONG: "system"}, default=None if optional else MISSING)


@dataclass(frozen=True, kw_only=True)
class Systems:
    """Batch of structures, without graph, results or calculator.

    Attributes:
        positions: (n_atoms, 3) float64 Angstrom; never wrapped into the cell.
        numbers: (n_atoms,) int64 atomic numbers.
        tags: (n_atoms,) int64 in the OC20 convention.
        fixed: (n_atoms, 3) bool, True for Cartesian components that may not move.
        system_idx: (n_atoms,) int64, ascending; index of the structure of each atom.
        cell: (n_systems, 3, 3) Angstrom, rows are lattice vectors.
        pbc: (n_systems, 3) bool, periodicity along each lattice vector.
        projector: (n_atoms, 3, 3) float64, symmetric projectors onto the allowed displacements of
            atoms confined to planes, lines or fractional coordinates; the identity for atoms
            constrained by `fixed` alone. None if that is true of every atom.
    """

    positions: Tensor = per_atom()
    numbers: Tensor = per_atom()
    tags: Tensor = per_atom()
    fixed: Tensor = per_atom()
    system_idx: Tensor = per_atom()
    cell: Tensor = per_system()
    pbc: Tensor = per_system()
    projector: Tensor | None = per_atom(optional=True)

    @property
    def n_atoms(self) -> int:
        """Number of atoms in the batch."""
        return self.positions.shape[0]

    @property
    def n_systems(self) -> int:
        """Number of structures in the batch."""
        return self.cell.shape[0]

    @property
    def counts(self) -> Tensor:
        """Number of atoms of each structure, (n_systems,) int64."""
        return torch.bincount(self.system_idx, minlength=self.n_systems)

    def to(self, device: torch.device | str) -> Systems:
        """Return the batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{name: value.to(device) for name, value in values.items() if value is not None}
        )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Prediction of a potential for a batch.

    Attributes:
        energy: (n_systems,) eV.
        forces: (n_atoms, 3) eV/Angstrom, before constraints are applied, or None.
        stress: (n_systems, 3, 3) eV/Angstrom^3, positive if the cell tends to shrink as in ASE, NaN
            for cells without a volume, or None.
        energy_std: (n_systems,) eV, standard deviation over the networks of an ensemble, else over
            the averaged frames, or None.
        frame_degenerate: (n_systems,) bool, True if the frames depend on a broken tie, or None.
        direct_forces: (n_atoms, 3) eV/Angstrom of a direct force head, or None.
        displacement: (n_atoms, 3) Angstrom from the given to the relaxed structure, or None.
        atom_energies: (n_atoms,) eV, contribution of each atom without short-range repulsion, or
            None.
    """

    energy: Tensor = per_system()
    forces: Tensor | None = per_atom(optional=True)
    stress: Tensor | None = per_system(optional=True)
    energy_std: Tensor | None = per_system(optional=True)
    frame_degenerate: Tensor | None = per_system(optional=True)
    direct_forces: Tensor | None = per_atom(optional=True)
    displacement: Tensor | None = per_atom(optional=True)
    atom_energies: Tensor | None = per_atom(optional=True)


class Potential(Protocol):
    """Pure function from structures to predictions."""

    def __call__(self, systems: Systems) -> Prediction:
        """Return the energy of every structure, and the forces if the potential has them."""
        ...


Data = TypeVar("Data")


def select(data: Data, systems: Systems, chosen: Tensor) -> Data:
    """Return the rows of `data` that belong to the chosen structures.

    Args:
        data: a dataclass with tensor fields declared by `per_atom` or `per_system`: `Systems`, a
            `Prediction`, or the state of an optimizer.
        systems: the batch that `data` belongs to.
        chosen: (n_systems,) bool.
    Returns:
        A new object of the same type; `system_idx`, if present, is renumbered.
    """
    atoms = chosen[systems.system_idx]
    new_idx = torch.cumsum(chosen, 0) - 1
    values: dict[str, Any] = {}
    for f in fields(data):  # type: ignore[arg-type]
        value = getattr(data, f.name)
        along = f.metadata.get(_ALONG)
        if value is None or along is None:
            continue
        values[f.name] = (
            new_idx[value[atoms]]
            if f.name == "system_idx"
            else value[atoms if along == "atom" else chosen]
        )
    return replace(data, **values)  # type: ignore[type-var]


def join(first: Data, second: Data, n_first: int) -> Data:
    """Append the rows of `second` to those of `first`; the inverse of `select`.

    Args:
        first: a dataclass, as for `select`.
        second: a dataclass of the same type; fields other than tensors are joined with `+`.
        n_first: number of structures in the batch that `first` belongs to.
    Returns:
        A new object of the same type; `system_idx`, if present, is renumbered.
    """
    values: dict[str, Any] = {}
    for f in fields(first):  # type: ignore[arg-type]
        one, other = getattr(first, f.name), getattr(second, f.name)
        if f.metadata.get(_ALONG) is None or one is None:
            continue
        other = other + n_first if f.name == "system_idx" else other
        values[f.name] = torch.cat([one, other]) if isinstance(one, Tensor) else one + other
    return replace(first, **values)  # type: ignore[type-var]


def concatenate(batches: Sequence[Systems]) -> Systems:
    """Join batches into one, in order.

    Raises:
        InputError: `batches` is empty.
    """
    if not batches:
        raise InputError("got an empty list of structures; give at least one structure")
    offsets = torch.tensor([0] + [b.n_systems for b in batches[:-1]]).cumsum(0)
    idx = torch.cat([b.system_idx + int(o) for b, o in zip(batches, offsets, strict=True)])
    joined = {
        f.name: torch.cat([getattr(b, f.name) for b in batches])
        for f in fields(Systems)
        if f.name not in _NOT_JOINED
    }
    projector = None
    if any(b.projector is not None for b in batches):
        projector = torch.cat(
            [_identity(b.positions) if b.projector is None else b.projector for b in batches]
        )
    return Systems(system_idx=idx, projector=projector, **joined)


def apply_constraints(vectors: Tensor, systems: Systems) -> Tensor:
    """Project forces or displacements onto the motion that the constraints allow.

    Args:
        vectors: (n_atoms, 3); fixed components are ignored and may be NaN.
        systems: batch with `fixed` and `projector`.
    Returns:
        (n_atoms, 3); zero along fixed components and perpendicular to the planes and lines that
        atoms are confined to.
    """
    vectors = vectors.masked_fill(systems.fixed, 0.0)
    if systems.projector is None:
        return vectors
    return torch.where(
        _is_constrained(systems.projector), _project(vectors, systems.projector), vectors
    )


def displaced(systems: Systems, displacement: Tensor, start: Tensor) -> Tensor:
    """Return the positions after a displacement, subject to the constraints.

    Args:
        systems: batch at its present positions.
        displacement: (n_atoms, 3) Angstrom.
        start: (n_atoms, 3) Angstrom, positions through which planes and lines were laid. The total
            displacement from there is projected, not the last step, so rounding does not
            accumulate.
    Returns:
        (n_atoms, 3) Angstrom; fixed components are bitwise unchanged.
    """
    positions = systems.positions + displacement
    if systems.projector is not None:
        confined = start + _project(positions - start, systems.projector)
        positions = torch.where(_is_constrained(systems.projector), confined, positions)
    return torch.where(systems.fixed, systems.positions, positions)


def _is_constrained(projector: Tensor) -> Tensor:
    """Whether the projector of each atom, (n_atoms, 3, 3), is not the identity: (n_atoms, 1)."""
    return (
        (projector != torch.eye(3, dtype=projector.dtype, device=projector.device))
        .flatten(1)
        .any(dim=1, keepdim=True)
    )


def _project(vectors: Tensor, projector: Tensor) -> Tensor:
    """Multiply each vector (n_atoms, 3) by its projector, term by term.

    The rounding of one result is independent of other atoms.
    """
    x, y, z = (vectors[:, k, None] * projector[:, k] for k in range(3))
    return x + y + z


def _identity(positions: Tensor) -> Tensor:
    return torch.eye(3, dtype=torch.float64, device=positions.device).expand(len(positions), 3, 3)


def sum_per_system(values: Tensor, systems: Systems) -> Tensor:
    """Sum per-atom `values` (n_atoms, ...) over the atoms of each structure: (n_systems, ...)."""
    out = values.new_zeros((systems.n_systems, *values.shape[1:]))
    return out.index_add_(0, systems.system_idx, values)


def max_per_system(values: Tensor, systems: Systems) -> Tensor:
    """Return the largest of non-negative per-atom `values` (n_atoms,) of each structure.

    Returns:
        (n_systems,); 0 for a structure without atoms.
    """
    out = values.new_zeros(systems.n_systems)
    return out.scatter_reduce_(0, systems.system_idx, values, reduce="amax")


def n_atoms_of(systems: Systems) -> Tensor:
    """Atoms of each structure without the rows that a filter has added, (n_systems,) int64."""
    count = torch.zeros(systems.n_systems, dtype=torch.int64, device=systems.numbers.device)
    return count.index_add_(0, systems.system_idx, (systems.numbers > CELL).long())


def copy_aligned(systems: Systems) -> Systems:
    """Copy the structures into newly allocated memory.

    Torch aligns its own memory, and the rounding of products depends on the alignment of the
    factors.
    """
    values = {f.name: getattr(systems, f.name) for f in fields(systems)}
    return replace(
        systems, **{name: value.clone() for name, value in values.items() if value is not None}
    )
