"""Batches of structures and of predictions: frozen data, sliced by their field marks.

Conventions: positions in Angstrom, rows of `cell` are lattice vectors (as ASE), tags as OC20 (0
subsurface, 1 surface, 2 adsorbate), energies in eV, forces in eV/Angstrom, stress in eV/Angstrom^3.
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
    """Mark a dataclass field as having one row per atom."""
    return field(metadata={_ALONG: "atom"}, default=None if optional else MISSING)


def per_row() -> Any:
    """Mark a dataclass field as having one row for each row of `Coordinates`."""
    return field(metadata={_ALONG: "row"})


def per_system(optional: bool = False) -> Any:
    """Mark a dataclass field as having one row per structure."""
    return field(metadata={_ALONG: "system"}, default=None if optional else MISSING)


def nested() -> Any:
    """Mark a dataclass field as another batch of the same structures, with marks of its own."""
    return field(metadata={_ALONG: "batch"})


class Coordinates(Protocol):
    """Frozen dataclass with the coordinates that a relaxation moves, in rows of three.

    `Systems` fulfills this protocol: each row is an atom. Batches whose cells relax have rows of
    strain too, see `geocalc.relaxation.cells.CellCoordinates`.
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
    """A batch of structures; no graph, no results, no calculator inside.

    Attributes:
        positions: (n_atoms, 3) Angstrom, float64; never wrapped.
        numbers: (n_atoms,) int64 atomic numbers.
        tags: (n_atoms,) int64 in the OC20 convention.
        fixed: (n_atoms, 3) bool, True where a Cartesian component may not move.
        system_idx: (n_atoms,) int64, ascending; the structure of each atom.
        cell: (n_systems, 3, 3) Angstrom, rows are lattice vectors.
        pbc: (n_systems, 3) bool.
        projector: (n_atoms, 3, 3) float64, onto the displacements that an atom may make where
            planes, lines or fractional coordinates hold it; symmetric; unity where `fixed` says
            all. None if it does for every atom.
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
        """Number of atoms in the whole batch."""
        return self.positions.shape[0]

    @property
    def n_systems(self) -> int:
        """Number of structures in the batch."""
        return self.cell.shape[0]

    @property
    def counts(self) -> Tensor:
        """Atoms of each structure, (n_systems,) int64."""
        return torch.bincount(self.system_idx, minlength=self.n_systems)

    def to(self, device: torch.device | str) -> Systems:
        """The same batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{name: value.to(device) for name, value in values.items() if value is not None}
        )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a potential says of a batch.

    Attributes:
        energy: (n_systems,) eV.
        forces: (n_atoms, 3) eV/Angstrom, raw (constraints not applied), or None.
        stress: (n_systems, 3, 3) eV/Angstrom^3, positive when the cell wants to shrink as in ASE,
            NaN where the cell has no volume, or None.
        energy_std: (n_systems,) eV, spread over the networks of an ensemble, else over the frames
            that were averaged, or None.
        frame_degenerate: (n_systems,) bool, True where the frames rest on a broken tie, or None.
        direct_forces: (n_atoms, 3) eV/Angstrom of a direct head, where the network has one, or
            None.
        displacement: (n_atoms, 3) Angstrom from here to the relaxed structure, of a model that
            predicts it, or None.
        atom_energies: (n_atoms,) eV, each atom's share without short-range repulsion, where the
            network has shares, or None.
    """

    energy: Tensor = per_system()
    forces: Tensor | None = per_atom(optional=True)
    stress: Tensor | None = per_system(optional=True)
    energy_std: Tensor | None = per_system(optional=True)
    frame_degenerate: Tensor | None = per_system(optional=True)
    direct_forces: Tensor | None = per_atom(optional=True)
    displacement: Tensor | None = per_atom(optional=True)
    atom_energies: Tensor | None = per_atom(optional=True)

    def detach(self) -> Prediction:
        """Return the same prediction without autograd history."""
        values = {k: v.detach() for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **values)


class Potential(Protocol):
    """A pure function of structures."""

    def __call__(self, systems: Systems) -> Prediction:
        """Energy (and forces, where the potential has them) of every structure of the batch."""
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


def select(data: Data, coordinates: Coordinates, chosen: Tensor) -> Data:
    """The rows of `data` that belong to the chosen structures.

    Args:
        data: a dataclass whose tensor fields are marked `per_atom`, `per_row`, `per_system` or
            `nested`; `Systems` itself, a `Prediction`, or the state of an optimizer.
        coordinates: the batch that `data` belongs to; `Systems` where fields are per atom.
        chosen: (n_systems,) bool.
    Returns:
        A new object of the same type; `system_idx`, where present, is renumbered.
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
    return replace(data, **values)  # type: ignore[type-var]


def join(first: Data, second: Data) -> Data:
    """The rows of `first` and then those of `second`; the inverse of `select`.

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
    return replace(first, **values)  # type: ignore[type-var]


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Join batches of structures, or of their coordinates, into one, in order.

    Raises:
        InputError: `batches` is empty.
    """
    if not batches:
        raise InputError("no structures were given; at least one is needed")
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
                _unity(b.positions) if part is None else part
                for b, part in zip(batches, parts, strict=True)
            ]
        values[f.name] = torch.cat(parts)
    return replace(batches[0], **values)


def allowed(vectors: Tensor, coordinates: Coordinates) -> Tensor:
    """The part of forces or displacements (n_rows, 3) that constraints let through.

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
    return torch.where(_guided(projector), _project(vectors, projector), vectors)


def moved(coordinates: Coordinates, displacement: Tensor, start: Tensor) -> Tensor:
    """Positions after a displacement, as far as constraints allow it.

    Args:
        coordinates: batch at its present positions.
        displacement: (n_rows, 3) Angstrom.
        start: (n_rows, 3) Angstrom, where planes and lines were laid; projecting the whole way
            from there, and not the last step, keeps rounding from adding up.
    Returns:
        (n_rows, 3) Angstrom; fixed components bit for bit as they were.
    """
    positions, projector = coordinates.positions + displacement, coordinates.projector
    if projector is not None:
        held = start + _project(positions - start, projector)
        positions = torch.where(_guided(projector), held, positions)
    return torch.where(coordinates.fixed, coordinates.positions, positions)


def _guided(projector: Tensor) -> Tensor:
    """Atoms that a projector (n_atoms, 3, 3) holds, (n_atoms, 1) bool."""
    return (
        (projector != torch.eye(3, dtype=projector.dtype, device=projector.device))
        .flatten(1)
        .any(dim=1, keepdim=True)
    )


def _project(vectors: Tensor, projector: Tensor) -> Tensor:
    """Each of the vectors (n_atoms, 3) times its projector; term by term, so that the rounding
    knows nothing of other atoms.
    """
    x, y, z = (vectors[:, k, None] * projector[:, k] for k in range(3))
    return x + y + z


def _unity(positions: Tensor) -> Tensor:
    return torch.eye(3, dtype=torch.float64, device=positions.device).expand(len(positions), 3, 3)


def sum_per_system(values: Tensor, coordinates: Coordinates) -> Tensor:
    """Sum `values` (n_rows, ...), one for each atom or row, in each structure: (n_systems, ...)."""
    out = values.new_zeros((coordinates.n_systems, *values.shape[1:]))
    return out.index_add_(0, coordinates.system_idx, values)


def max_per_system(values: Tensor, coordinates: Coordinates) -> Tensor:
    """Largest of the non-negative `values` (n_rows,) in each structure: (n_systems,); 0 where there
    is no row.
    """
    out = values.new_zeros(coordinates.n_systems)
    return out.scatter_reduce_(0, coordinates.system_idx, values, reduce="amax")


def own_memory(systems: Systems) -> Systems:
    """The same structures in memory that torch has aligned: products round differently with the
    alignment of their factors.
    """
    values = {f.name: getattr(systems, f.name) for f in fields(systems)}
    return replace(
        systems, **{name: value.clone() for name, value in values.items() if value is not None}
    )
