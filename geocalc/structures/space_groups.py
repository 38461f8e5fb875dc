"""Space groups: forces and stress averaged over the operations of the initial structure."""

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

# largest difference between a projector or strain and its image under an operation
TOLERANCE = 1e-3
CACHE_SIZE = 1024  # structures with cached operations, at most some 100 kB each


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """Symmetry operations of one structure.

    Attributes:
        rotations: (n_operations, 3, 3) rotation matrices of fractional coordinates as columns.
        sources: (n_operations, n_atoms) int64, index of the atom that an operation maps to the site
            of each atom.
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
    """Average forces and stress over the symmetry operations of each structure.

    Args:
        forces: (n_atoms, 3).
        stress: (n_systems, 3, 3).
        systems: batch of these forces and stresses.
        start: the same structures before the relaxation, which determine the operations.
        free: strain components that may change, in the order of
            `geocalc.relaxation.cell_filters.STRAINS`; operations that do not preserve them or the
            constraints of atoms are excluded.
        symprec: Angstrom, see `find_symmetry`.
    Raises:
        InputError: see `find_symmetry`.
    """
    bounds = [0, *systems.counts.cumsum(0).tolist()]
    averaged_forces, averaged_stress = [], []
    for k in range(systems.n_systems):
        chosen = torch.arange(systems.n_systems, device=systems.cell.device) == k
        symmetry = _cached_symmetry(_Key.of(select(start, start, chosen)), free, symprec)
        rotations = symmetry.rotations.to(forces.device)
        sources = symmetry.sources.to(forces.device)
        cell, inverse_cell = systems.cell[k], inverse(systems.cell[k])
        fractional = matmul(forces[bounds[k] : bounds[k + 1]], inverse_cell)
        averaged_forces.append(
            matmul(matmul(fractional[sources], rotations.transpose(1, 2)).mean(0), cell)
        )
        scaled = matmul(matmul(cell, stress[k]), cell.T)
        scaled = matmul(
            matmul(rotations.transpose(1, 2), scaled.expand_as(rotations)), rotations
        ).mean(0)
        averaged_stress.append(matmul(matmul(inverse_cell, scaled), inverse_cell.T))
    return torch.cat(averaged_forces), torch.stack(averaged_stress)


def find_symmetry(
    systems: Systems, free: Sequence[bool] = (True,) * 6, symprec: float = 0.01
) -> Symmetry:
    """Find the symmetry operations of a structure that preserve constraints, tags and free strains.

    Args:
        systems: one structure with a cell; atoms with different tags are inequivalent.
        free: strain components that may change, in the order xx yy zz yz xz xy.
        symprec: Angstrom, largest distance between the image of an atom and an equivalent atom.
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
        images = fractional @ rotation.T + translation
        images -= np.where(pbc, 0, np.rint((images - fractional).mean(axis=0)))
        source = _sources(images, fractional, labels, cell, pbc, 2 * symprec)
        cartesian = cell.T @ rotation @ np.linalg.inv(cell.T)
        if source is None or not _preserves_strains(cartesian, free):
            continue
        if np.abs(cartesian @ allowed[source] @ cartesian.T - allowed).max() < TOLERANCE:
            rotations.append(rotation)
            sources.append(source)
    return Symmetry(
        rotations=torch.from_numpy(np.array(rotations, dtype=float)),
        sources=torch.from_numpy(np.array(sources)),
    )


def _operations(
    cell: np.ndarray, fractional: np.ndarray, labels: np.ndarray, symprec: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rotations (3, 3) and translations (3,) of fractional coordinates from spglib."""
    with warnings.catch_warnings():
        # spglib warns that it will change how it reports a failure
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            found = spglib.get_symmetry_dataset(
                (cell.tolist(), fractional.tolist(), labels.tolist()), symprec=symprec
            )
        except spglib.SpglibError:
            found = None
    if found is None:
        raise InputError(
            f"spglib found no space group within {symprec} Å; check the structure for overlapping"
            " atoms, or relax it without keep_symmetry"
        )
    return list(zip(found.rotations, found.translations, strict=True))


def _sources(
    images: np.ndarray,
    fractional: np.ndarray,
    labels: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    reach: float,
) -> np.ndarray | None:
    """Return the index of the atom that an operation maps to the site of each atom, (n_atoms,).

    None if a site is not mapped to by an atom of its own kind.

    Args:
        images: (n_atoms, 3), fractional coordinates after the operation.
        fractional: (n_atoms, 3), fractional coordinates before.
        labels: (n_atoms,) kinds of atoms.
        cell: (3, 3) Angstrom.
        pbc: (3,) bool.
        reach: Angstrom, largest distance.
    """
    vectors = fractional[:, None] - images[None]
    vectors -= np.where(pbc, np.rint(vectors), 0)
    lengths = np.linalg.norm(vectors @ cell, axis=2)
    source = lengths.argmin(axis=1)
    used_once = np.sort(source) == np.arange(len(source))
    near = (lengths[np.arange(len(source)), source] < reach) & (labels[source] == labels)
    return source if bool((used_once & near).all()) else None


def _allowed(systems: Systems) -> np.ndarray:
    """Return projectors onto the allowed displacements of each atom, (n_atoms, 3, 3)."""
    free = (~systems.fixed).double()
    identity = torch.eye(3, dtype=torch.float64, device=free.device).expand(systems.n_atoms, 3, 3)
    space = identity if systems.projector is None else systems.projector
    return (free[:, :, None] * space * free[:, None, :]).cpu().numpy()


def _preserves_strains(matrix: np.ndarray, free: Sequence[bool]) -> bool:
    """Whether an orthogonal matrix (3, 3) maps every free strain component to free ones."""
    components = [np.array([i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    fixed = np.ones((3, 3), dtype=bool)
    for (i, j), is_free in zip(components, free, strict=True):
        fixed[i, j] = fixed[j, i] = not is_free
    for (i, j), is_free in zip(components, free, strict=True):
        strain = np.zeros((3, 3))
        strain[i, j] = strain[j, i] = 1.0
        if is_free and np.abs((matrix @ strain @ matrix.T)[fixed]).max(initial=0.0) > TOLERANCE:
            return False
    return True


@dataclass(frozen=True, kw_only=True)
class _Key:
    """Cache key of a structure, compared by the bytes of its arrays."""

    content: tuple[bytes, ...]
    systems: Systems = field(compare=False)

    @classmethod
    def of(cls, systems: Systems) -> _Key:
        """Return the key of one structure."""
        values = [getattr(systems, f.name) for f in fields(systems)]
        return cls(
            content=tuple(b"" if v is None else v.cpu().numpy().tobytes() for v in values),
            systems=systems,
        )


@lru_cache(maxsize=CACHE_SIZE)
def _cached_symmetry(key: _Key, free: tuple[bool, ...], symprec: float) -> Symmetry:
    """Return the cached result of `find_symmetry`."""
    return find_symmetry(key.systems, free, symprec)
