"""Space groups: forces and stress averaged over the operations that the start of a relaxation has."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache

import numpy as np
import spglib
import torch
from torch import Tensor

from geocalc.core.matrices import inverse, matmul
from geocalc.core.systems import Systems, select
from geocalc.errors import InputError

# directions that differ by less are one: what constraints and masks leave free is turned onto
# itself
SAME = 1e-3
KEPT = 1024  # structures whose operations are remembered, some 100 kB each at most


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """The operations of one structure.

    Attributes:
        rotations: (n_operations, 3, 3), of fractional coordinates as columns.
        sources: (n_operations, n_atoms) int64, the atom that an operation takes to the place of
            each atom.
    """

    rotations: Tensor
    sources: Tensor


def symmetrize(
    forces: Tensor,
    stress: Tensor,
    systems: Systems,
    start: Systems,
    free: tuple[bool, ...],
    symprec: float,
) -> tuple[Tensor, Tensor]:
    """Forces and stress averaged over the operations of each structure.

    Args:
        forces: (n_atoms, 3).
        stress: (n_systems, 3, 3).
        systems: batch that they belong to.
        start: the same structures where their operations are looked for.
        free: which strains may change, in the order of `geocalc.relaxation.cell_filters.STRAINS`;
            operations that do not keep them, or the constraints of atoms, are left out.
        symprec: Angstrom, see `find_symmetry`.
    Raises:
        InputError: see `find_symmetry`.
    """
    bounds = [0, *systems.counts.cumsum(0).tolist()]
    smooth, tensors = [], []
    for k in range(systems.n_systems):
        alone = torch.arange(systems.n_systems, device=systems.cell.device) == k
        found = _remembered(_Key.of(select(start, start, alone)), free, symprec)
        rotations, sources = found.rotations.to(forces.device), found.sources.to(forces.device)
        cell, there = systems.cell[k], inverse(systems.cell[k])
        fractional = matmul(forces[bounds[k] : bounds[k + 1]], there)
        smooth.append(matmul(matmul(fractional[sources], rotations.transpose(1, 2)).mean(0), cell))
        scaled = matmul(matmul(cell, stress[k]), cell.T)
        scaled = matmul(
            matmul(rotations.transpose(1, 2), scaled.expand_as(rotations)), rotations
        ).mean(0)
        tensors.append(matmul(matmul(there, scaled), there.T))
    return torch.cat(smooth), torch.stack(tensors)


def find_symmetry(
    systems: Systems, free: Sequence[bool] = (True,) * 6, symprec: float = 0.01
) -> Symmetry:
    """The operations of a structure that its constraints, tags and free strains allow.

    Args:
        systems: one structure with a cell; atoms of other tags are other atoms.
        free: which strains may change, in the order xx yy zz yz xz xy.
        symprec: Angstrom, how far an operation may take an atom from the place of another one.
    Raises:
        InputError: spglib finds no space group.
    """
    cell, positions = systems.cell[0].cpu().numpy(), systems.positions.cpu().numpy()
    pbc, allowed = systems.pbc[0].cpu().numpy(), _allowed(systems)
    kinds = np.stack((systems.numbers.cpu().numpy(), systems.tags.cpu().numpy()), axis=1)
    labels = np.unique(kinds, axis=0, return_inverse=True)[1].reshape(-1) + 1
    fractional = positions @ np.linalg.inv(cell)
    rotations, sources = [], []
    for rotation, translation in _operations(cell, fractional, labels, symprec):
        places = fractional @ rotation.T + translation
        places -= np.where(pbc, 0, np.rint((places - fractional).mean(axis=0)))
        source = _sources(places, fractional, labels, cell, pbc, 2 * symprec)
        turn = cell.T @ rotation @ np.linalg.inv(cell.T)
        if source is None or not _keeps_strains(turn, free):
            continue
        if np.abs(turn @ allowed[source] @ turn.T - allowed).max() < SAME:
            rotations.append(rotation)
            sources.append(source)
    return Symmetry(
        rotations=torch.from_numpy(np.array(rotations, dtype=float)),
        sources=torch.from_numpy(np.array(sources)),
    )


def _operations(
    cell: np.ndarray, fractional: np.ndarray, labels: np.ndarray, symprec: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rotations (3, 3) and translations (3,) of fractional coordinates."""
    with warnings.catch_warnings():
        # of its present way to say that there is none
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            found = spglib.get_symmetry_dataset(
                (cell.tolist(), fractional.tolist(), labels.tolist()), symprec=symprec
            )
        except spglib.SpglibError:
            found = None
    if found is None:
        raise InputError(
            f"no space group was found within {symprec} Angstrom; check the structure for atoms"
            " that overlap, or relax it without keep_symmetry"
        )
    return list(zip(found.rotations, found.translations, strict=True))


def _sources(
    places: np.ndarray,
    fractional: np.ndarray,
    labels: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    reach: float,
) -> np.ndarray | None:
    """The atom that comes to the place of each atom, (n_atoms,), None where not every place is
    taken by its own kind.

    Args:
        places: (n_atoms, 3), where the operation takes the atoms.
        fractional: (n_atoms, 3), where they are.
        labels: (n_atoms,) kinds.
        cell: (3, 3) Angstrom.
        pbc: (3,).
        reach: Angstrom.
    """
    away = fractional[:, None] - places[None]
    away -= np.where(pbc, np.rint(away), 0)
    lengths = np.linalg.norm(away @ cell, axis=2)
    source = lengths.argmin(axis=1)
    taken = np.sort(source) == np.arange(len(source))
    near = (lengths[np.arange(len(source)), source] < reach) & (labels[source] == labels)
    return source if bool((taken & near).all()) else None


def _allowed(systems: Systems) -> np.ndarray:
    """Projectors onto what constraints let each atom do, (n_atoms, 3, 3)."""
    free = (~systems.fixed).double()
    unity = torch.eye(3, dtype=torch.float64, device=free.device).expand(systems.n_atoms, 3, 3)
    space = unity if systems.projector is None else systems.projector
    return (free[:, :, None] * space * free[:, None, :]).cpu().numpy()


def _keeps_strains(turn: np.ndarray, free: Sequence[bool]) -> bool:
    """Whether an orthogonal matrix (3, 3) turns every free strain into free ones."""
    places = [np.array([i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    held = np.ones((3, 3), dtype=bool)
    for (i, j), is_free in zip(places, free, strict=True):
        held[i, j] = held[j, i] = not is_free
    for (i, j), is_free in zip(places, free, strict=True):
        strain = np.zeros((3, 3))
        strain[i, j] = strain[j, i] = 1.0
        if is_free and np.abs((turn @ strain @ turn.T)[held]).max(initial=0.0) > SAME:
            return False
    return True


@dataclass(frozen=True, kw_only=True)
class _Key:
    """A structure that equals another one where all its numbers do."""

    content: tuple[bytes, ...]
    systems: Systems = field(compare=False)

    @classmethod
    def of(cls, systems: Systems) -> _Key:
        """The key of one structure."""
        values = [getattr(systems, f.name) for f in fields(systems)]
        return cls(
            content=tuple(b"" if v is None else v.cpu().numpy().tobytes() for v in values),
            systems=systems,
        )


@lru_cache(maxsize=KEPT)
def _remembered(key: _Key, free: tuple[bool, ...], symprec: float) -> Symmetry:
    """`find_symmetry`, once for each structure."""
    return find_symmetry(key.systems, free, symprec)
