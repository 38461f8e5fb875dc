"""Batches of structures and of predictions: frozen data, sliced by their field marks.

Conventions: positions in Angstrom, rows of `cell` are lattice vectors (as ASE), tags as OC20 (0
subsurface, 1 surface, 2 adsorbate), energies in eV, forces in eV/Angstrom, stress in eV/Angstrom^3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from geocalc.errors import InputError

# atomic number of rows that stand for a cell; rows below it are no atoms either, see
# `geocalc.relaxation.cell_filters`
CELL = 0
_ALONG = "along"
_NOT_JOINED = ("system_idx", "projector")  # one counts on, the other may be None


def per_atom(optional: bool = False) -> Any:
    """Mark a dataclass field as having one row per atom."""
    return field(metadata={_ALONG: "atom"}, default=None if optional else MISSING)


def per_system(optional: bool = False) -> Any:
    """Mark a dataclass field as having one row per structure."""
    return field(metadata={_ALONG: "system"}, default=None if optional else MISSING)


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


def select(data: Data, systems: Systems, chosen: Tensor) -> Data:
    """The rows of `data` that belong to the chosen structures.

    Args:
        data: a dataclass whose tensor fields are marked `per_atom` or `per_system`; `Systems`
            itself, a `Prediction`, or the state of an optimizer.
        systems: the batch that `data` belongs to.
        chosen: (n_systems,) bool.
    Returns:
        A new object of the same type; `system_idx`, where present, is renumbered.
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
    """The rows of `first` and then those of `second`; the inverse of `select`.

    Args:
        first, second: dataclasses of one type, as for `select`; what is no tensor is added with
            `+`.
        n_first: structures in the batch that `first` belongs to.
    Returns:
        A new object of the same type; `system_idx`, where present, is renumbered.
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
        raise InputError("no structures were given; at least one is needed")
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
            [_unity(b.positions) if b.projector is None else b.projector for b in batches]
        )
    return Systems(system_idx=idx, projector=projector, **joined)


def allowed(vectors: Tensor, systems: Systems) -> Tensor:
    """The part of forces or displacements (n_atoms, 3) that constraints let through.

    Args:
        vectors: (n_atoms, 3); what a fixed component holds is not looked at, it may be NaN.
        systems: batch with `fixed` and `projector`.
    Returns:
        (n_atoms, 3), zero on fixed components and across the planes and lines that hold atoms.
    """
    vectors = vectors.masked_fill(systems.fixed, 0.0)
    if systems.projector is None:
        return vectors
    return torch.where(_guided(systems.projector), _project(vectors, systems.projector), vectors)


def moved(systems: Systems, displacement: Tensor, start: Tensor) -> Tensor:
    """Positions after a displacement, as far as constraints allow it.

    Args:
        systems: batch at its present positions.
        displacement: (n_atoms, 3) Angstrom.
        start: (n_atoms, 3) Angstrom, where planes and lines were laid; projecting the whole way
            from there, and not the last step, keeps rounding from adding up.
    Returns:
        (n_atoms, 3) Angstrom; fixed components bit for bit as they were.
    """
    positions = systems.positions + displacement
    if systems.projector is not None:
        held = start + _project(positions - start, systems.projector)
        positions = torch.where(_guided(systems.projector), held, positions)
    return torch.where(systems.fixed, systems.positions, positions)


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


def sum_per_system(values: Tensor, systems: Systems) -> Tensor:
    """Sum per-atom `values` (n_atoms, ...) over the atoms of each structure: (n_systems, ...)."""
    out = values.new_zeros((systems.n_systems, *values.shape[1:]))
    return out.index_add_(0, systems.system_idx, values)


def max_per_system(values: Tensor, systems: Systems) -> Tensor:
    """Largest of the non-negative per-atom `values` (n_atoms,) in each structure: (n_systems,); 0
    where there is no atom.
    """
    out = values.new_zeros(systems.n_systems)
    return out.scatter_reduce_(0, systems.system_idx, values, reduce="amax")


def n_atoms_of(systems: Systems) -> Tensor:
    """Atoms of each structure without the rows that a filter has added, (n_systems,) int64."""
    count = torch.zeros(systems.n_systems, dtype=torch.int64, device=systems.numbers.device)
    return count.index_add_(0, systems.system_idx, (systems.numbers > CELL).long())


def own_memory(systems: Systems) -> Systems:
    """The same structures in memory that torch has aligned: products round differently with the
    alignment of their factors.
    """
    values = {f.name: getattr(systems, f.name) for f in fields(systems)}
    return replace(
        systems, **{name: value.clone() for name, value in values.items() if value is not None}
    )
