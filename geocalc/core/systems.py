"""Batches of structures and of predictions: frozen data with a row for each atom or structure.

Conventions: positions in Angstrom, lattice vectors in the rows of `cell` (as in ASE), tags as in
OC20 (0 subsurface, 1 surface, 2 adsorbate), energies in eV, forces in eV/Angstrom, stress in
eV/Angstrom^3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from geocalc.errors import InputError

_ALONG = "along"


def per_atom(optional: bool = False) -> Any:
    """Declare a dataclass field with one row per atom."""
    return field(metadata={_ALONG: "atom"}, default=None if optional else MISSING)


def per_row() -> Any:
    """Mark a dataclass field as having one row for each row of `Coordinates`."""
    return field(metadata={_ALONG: "row"})


def per_system(optional: bool = False) -> Any:
    """Declare a dataclass field with one row per structure."""
    return field(metadata={_ALONG: "system"}, default=None if optional else MISSING)


def nested() -> Any:
    """Mark a dataclass field as another batch of the same structures, with marks of its own."""
    return field(metadata={_ALONG: "batch"})


class Coordinates(Protocol):
    """Frozen dataclass with the coordinates that a relaxation moves, in rows of three.

    `Systems` fulfills this protocol: each row is an atom. Batches whose cells relax have rows of
    strain too, see `geocalc.core.cells.CellCoordinates`.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def positions(self) -> Tensor:
        """(n_rows, 3) float64."""
        ...

    @property
    def fixed(self) -> Tensor:
        """(n_rows, 3) bool, True where a component may not move."""
        ...

    @property
    def system_idx(self) -> Tensor:
        """(n_rows,) int64, ascending; the structure of each row."""
        ...

    @property
    def projector(self) -> Tensor | None:
        """(n_rows, 3, 3) onto the displacements that a row may make, see `Systems`, or None."""
        ...

    @property
    def n_systems(self) -> int:
        """Number of structures in the batch."""
        ...

    @property
    def counts(self) -> Tensor:
        """Rows of each structure, (n_systems,) int64."""
        ...


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
        novelty: (n_systems,) largest distance of an atom's surroundings from those in the training
            data, 1 at the edge of the domain, or None; see `geocalc.potentials.domain`.
        novel_atom: (n_systems,) int64, the atom with that distance, by its place in the structure,
            or None.
        unseen: (n_systems,) int64, code of a bonded pair of elements, or of the bonds of an atom,
            that the training data do not have, see `geocalc.potentials.domain`; 0 where all were
            seen; or None.
    """

    energy: Tensor = per_system()
    forces: Tensor | None = per_atom(optional=True)
    stress: Tensor | None = per_system(optional=True)
    energy_std: Tensor | None = per_system(optional=True)
    frame_degenerate: Tensor | None = per_system(optional=True)
    direct_forces: Tensor | None = per_atom(optional=True)
    displacement: Tensor | None = per_atom(optional=True)
    atom_energies: Tensor | None = per_atom(optional=True)
    novelty: Tensor | None = per_system(optional=True)
    novel_atom: Tensor | None = per_system(optional=True)
    unseen: Tensor | None = per_system(optional=True)

    def detach(self) -> Prediction:
        """Return the same prediction without autograd history."""
        values = {k: v.detach() for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **values)


class Potential(Protocol):
    """Pure function from structures to predictions."""

    def __call__(self, systems: Systems) -> Prediction:
        """Return the energy of every structure, and the forces if the potential has them."""
        ...


Data = TypeVar("Data")
Mask = TypeVar("Mask", Tensor, np.ndarray)


def free_atoms(fixed: Mask) -> Mask:
    """Return which atoms may move in at least one direction, (n_atoms,) bool.

    An atom that constraints hold along one or two axes, in a plane or on a line is free. This is
    the one definition behind losses and errors of free atoms. OC20 has the same: its mask of fixed
    atoms comes from constraints that hold whole atoms, and all others count.

    Args:
        fixed: (n_atoms, 3) bool, True where a Cartesian component may not move.
    """
    free: Mask = ~fixed.all(1)  # type: ignore[assignment]  # numpy's stubs allow a scalar here
    return free


Batch = TypeVar("Batch", bound=Coordinates)


def changed(data: Data, **values: Any) -> Data:
    """Copy frozen data with some fields replaced, as `dataclasses.replace` does, in a tenth of its
    time: the fields are not checked again.
    """
    new = object.__new__(type(data))
    vars(new).update(vars(data), **values)
    return new


def select(data: Data, coordinates: Coordinates, chosen: Tensor) -> Data:
    """Return the rows of `data` that belong to the chosen structures.

    Args:
        data: a dataclass whose tensor fields are marked `per_atom`, `per_row`, `per_system` or
            `nested`; `Systems` itself, a `Prediction`, or the state of an optimizer.
        coordinates: the batch that `data` belongs to; `Systems` where fields are per atom.
        chosen: (n_systems,) bool.
    Returns:
        A new object of the same type; `system_idx`, if present, is renumbered.
    """
    rows = chosen[coordinates.system_idx]
    new_idx = torch.cumsum(chosen, 0) - 1
    values: dict[str, Any] = {}
    for f in fields(data):  # type: ignore[arg-type]
        value = getattr(data, f.name)
        along = f.metadata.get(_ALONG)
        if value is None or along is None:
            continue
        if along == "batch":
            values[f.name] = select(value, value, chosen)
        elif f.name == "system_idx":
            values[f.name] = new_idx[value[rows]]
        else:
            values[f.name] = value[chosen if along == "system" else rows]
    return changed(data, **values)


def join(first: Data, second: Data) -> Data:
    """Append the rows of `second` to those of `first`; the inverse of `select`.

    Args:
        first, second: dataclasses of one type, as for `select`, without `system_idx` (see
            `concatenate`); what is no tensor is added with `+`.
    Returns:
        A new object of the same type.
    """
    values: dict[str, Any] = {}
    for f in fields(first):  # type: ignore[arg-type]
        one, other = getattr(first, f.name), getattr(second, f.name)
        if f.metadata.get(_ALONG) is None or one is None:
            continue
        values[f.name] = torch.cat([one, other]) if isinstance(one, Tensor) else one + other
    return changed(first, **values)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Join batches of structures, or of their coordinates, into one, in order.

    Raises:
        InputError: `batches` is empty.
    """
    if not batches:
        raise InputError("got an empty list of structures; give at least one structure")
    offsets = torch.tensor([0] + [b.n_systems for b in batches[:-1]]).cumsum(0).tolist()
    values: dict[str, Any] = {}
    for f in fields(batches[0]):
        parts = [getattr(b, f.name) for b in batches]
        along = f.metadata.get(_ALONG)
        if along is None or all(part is None for part in parts):
            continue
        if along == "batch":
            values[f.name] = concatenate(parts)
            continue
        if f.name == "system_idx":
            parts = [part + offset for part, offset in zip(parts, offsets, strict=True)]
        elif f.name == "projector":
            parts = [
                _identity(b.positions) if part is None else part
                for b, part in zip(batches, parts, strict=True)
            ]
        values[f.name] = torch.cat(parts)
    return replace(batches[0], **values)


def apply_constraints(vectors: Tensor, coordinates: Coordinates) -> Tensor:
    """Project forces or displacements onto the motion that the constraints allow.

    Args:
        vectors: (n_rows, 3); values on fixed components are not read and may be NaN.
        coordinates: batch with `fixed` and `projector`.
    Returns:
        (n_rows, 3), zero on fixed components and across the planes and lines that hold atoms.
    """
    vectors = vectors.masked_fill(coordinates.fixed, 0.0)
    projector = coordinates.projector
    if projector is None:
        return vectors
    return torch.where(_is_constrained(projector), _project(vectors, projector), vectors)


def displaced(coordinates: Coordinates, displacement: Tensor, start: Tensor) -> Tensor:
    """Return the positions after a displacement, subject to the constraints.

    Args:
        coordinates: batch at its present positions.
        displacement: (n_rows, 3) Angstrom.
        start: (n_rows, 3) Angstrom, positions through which planes and lines were laid. The total
            displacement from there is projected, not the last step, so rounding does not
            accumulate.
    Returns:
        (n_rows, 3) Angstrom; fixed components are bitwise unchanged.
    """
    positions, projector = coordinates.positions + displacement, coordinates.projector
    if projector is not None:
        held = start + _project(positions - start, projector)
        positions = torch.where(_is_constrained(projector), held, positions)
    return torch.where(coordinates.fixed, coordinates.positions, positions)


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


def sum_per_system(values: Tensor, coordinates: Coordinates) -> Tensor:
    """Sum `values` (n_rows, ...), one for each atom or row, in each structure: (n_systems, ...)."""
    out = values.new_zeros((coordinates.n_systems, *values.shape[1:]))
    return out.index_add_(0, coordinates.system_idx, values)


def max_per_system(values: Tensor, coordinates: Coordinates) -> Tensor:
    """Return the largest of non-negative per-row `values` (n_rows,) of each structure.

    Returns:
        (n_systems,); 0 for a structure without rows.
    """
    out = values.new_zeros(coordinates.n_systems)
    return out.scatter_reduce_(0, coordinates.system_idx, values, reduce="amax")


def copy_aligned(systems: Systems) -> Systems:
    """Copy the structures into newly allocated memory.

    Torch aligns its own memory, and the rounding of products depends on the alignment of the
    factors.
    """
    values = {f.name: getattr(systems, f.name) for f in fields(systems)}
    return replace(
        systems, **{name: value.clone() for name, value in values.items() if value is not None}
    )
