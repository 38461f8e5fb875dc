"""Conversion of `ase.Atoms` and pymatgen structures to and from `Systems`.

Calculators are ignored, and the input objects are not modified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.filters import Filter

from geocalc.core.elements import N_ELEMENTS, covalent_radii, symbols
from geocalc.core.projectors import AllowedMotion, combine
from geocalc.core.systems import Systems
from geocalc.errors import InputError
from geocalc.graphs.neighbors import build_graph, checked_cell, edge_vectors
from geocalc.structures.constraints import (
    ase_constraints,
    fixed_mask,
    read_constraints,
    scaled_projector,
)
from geocalc.structures.tags import Conversions, TagReading, read_tags

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

__all__ = ["fixed_mask", "from_atoms", "from_structure", "to_atoms"]

# fraction of the sum of covalent radii below which two atoms overlap; H-H in H2 is at 1.16
MIN_DISTANCE = 0.35
MIN_SEARCH_RADIUS = 2.0  # Angstrom; smaller radii are slower, because of many small bins


@dataclass(frozen=True, kw_only=True)
class _Arrays:
    """One structure as arrays, before validation."""

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    tags: np.ndarray | None
    motion: AllowedMotion


def from_atoms(
    atoms: Atoms | Sequence[Atoms],
    *,
    strict: bool = False,
    use_tags: bool = True,
    conversions: Conversions | None = None,
) -> Systems:
    """Convert ASE structures to a batch, with validation and with tags in the OC20 convention.

    Args:
        atoms: one structure or several; positions and cell in Angstrom. Calculators are not used.
            FixAtoms, FixCartesian, FixedPlane, FixedLine and FixScaled are kept, and so are the
            columns `geocalc_plane_normal` and `geocalc_line_direction` of relaxed structures
            written by geocalc; delete these columns to release the atoms.
        strict: raise an error for tags that need a conversion.
        use_tags: False for models that do not use tags: all tags become 0 without validation.
        conversions: collects the conversions of tags for one warning over several calls; None for
            an immediate warning.
    Returns:
        Systems on the CPU, float64, in the given order.
    Raises:
        InputError: the list is empty, an element is unknown, a position or cell is not finite or
            too large, a periodic lattice vector is zero, atoms overlap, a constraint is not
            supported, or tags are ambiguous (with `strict`: not in the OC20 convention).
    """
    given = [atoms] if isinstance(atoms, Atoms | Filter) else list(atoms)
    for k, structure in enumerate(given):
        if not isinstance(structure, Atoms):
            raise InputError(f"structure {k} is a {type(structure).__name__}; expected ase.Atoms")
    found = Conversions() if conversions is None else conversions
    systems = _assemble(
        [_arrays(structure) for structure in given], found, strict=strict, use_tags=use_tags
    )
    if conversions is None:
        found.warn(stacklevel=2)
    return systems


def from_structure(
    structure: Structure | Sequence[Structure], *, strict: bool = False, use_tags: bool = True
) -> Systems:
    """Convert pymatgen structures to a batch.

    The site properties `tags` and `selective_dynamics` are kept.

    Args:
        structure: one ordered Structure (or Slab), or several.
        strict: as in `from_atoms`.
        use_tags: as in `from_atoms`.
    Returns:
        Systems on the CPU, float64, in the given order.
    Raises:
        InputError: a site is disordered; also the errors of `from_atoms`.
    """
    given: list[Structure] = [structure] if hasattr(structure, "lattice") else list(structure)  # type: ignore[list-item]
    found = Conversions()
    systems = _assemble(
        [_structure_arrays(one, k) for k, one in enumerate(given)],
        found,
        strict=strict,
        use_tags=use_tags,
    )
    found.warn(stacklevel=2)
    return systems


def to_atoms(systems: Systems, templates: Sequence[Atoms] | None = None) -> list[Atoms]:
    """Convert a batch to ASE structures without calculators.

    Args:
        systems: the batch.
        templates: structures that the batch was made from, in order; their tags, constraints, info
            and other arrays are copied, and positions and cell replaced. Without templates,
            constraints are rebuilt from `fixed` and `projector`; FixScaled becomes the equivalent
            plane or line in this cell.
    Returns:
        One new Atoms for every structure.
    Raises:
        InputError: the templates do not match the batch in number or elements.
    """
    if templates is not None and len(templates) != systems.n_systems:
        raise InputError(
            f"got {len(templates)} templates for {systems.n_systems} structures; give one for each"
            " structure"
        )
    positions, numbers = systems.positions.detach().cpu().numpy(), systems.numbers.cpu().numpy()
    tags, fixed = systems.tags.cpu().numpy(), systems.fixed.cpu().numpy()
    projector = None if systems.projector is None else systems.projector.cpu().numpy()
    cells, pbc = systems.cell.detach().cpu().numpy(), systems.pbc.cpu().numpy()
    result, start = [], 0
    for k, count in enumerate(systems.counts.tolist()):
        rows = slice(start, start + count)
        start += count
        if templates is None:
            atoms = Atoms(
                numbers[rows], positions[rows], cell=cells[k], pbc=pbc[k], tags=tags[rows]
            )
            motion = AllowedMotion(
                fixed=fixed[rows], projector=None if projector is None else projector[rows]
            )
            atoms.set_constraint(ase_constraints(motion))
        else:
            atoms = templates[k].copy()
            if not np.array_equal(atoms.numbers, numbers[rows]):
                raise InputError(
                    f"template {k} ({atoms.symbols}) has other elements than structure {k} of the"
                    " batch; give the templates in the order of the batch"
                )
            atoms.positions[:] = positions[rows]
            atoms.cell[:] = cells[k]
        result.append(atoms)
    return result


def _arrays(atoms: Atoms) -> _Arrays:
    """Return the arrays of an ASE structure."""
    return _Arrays(
        numbers=atoms.numbers.astype(np.int64),
        positions=atoms.positions.astype(float),
        cell=np.array(atoms.cell, dtype=float),
        pbc=np.array(atoms.pbc, dtype=bool),
        tags=atoms.arrays.get("tags"),
        motion=read_constraints(atoms),
    )


def _structure_arrays(structure: Structure, k: int) -> _Arrays:
    """Return the arrays of a pymatgen structure, number `k` of the input."""
    if not hasattr(structure, "lattice"):
        raise InputError(
            f"structure {k} is a {type(structure).__name__}; expected a pymatgen Structure"
        )
    if not structure.is_ordered:
        raise InputError(
            f"structure {k} ({structure.formula}) has partially occupied sites; convert it to an"
            " ordered structure first"
        )
    cell = np.array(structure.lattice.matrix, dtype=float)
    spaces = {}
    for atom, site in enumerate(structure):
        movable = site.properties.get("selective_dynamics")
        if movable is not None and not all(movable):
            spaces[atom] = [
                scaled_projector(~np.asarray(movable, dtype=bool), cell, "selective_dynamics")
            ]
    tags = [site.properties.get("tags") for site in structure]
    return _Arrays(
        numbers=np.array([site.specie.Z for site in structure], dtype=np.int64),
        positions=np.array(structure.cart_coords, dtype=float).reshape(-1, 3),
        cell=cell,
        pbc=np.array(structure.lattice.pbc, dtype=bool),
        tags=None if any(tag is None for tag in tags) else np.array(tags),
        motion=combine(np.zeros((len(structure), 3), dtype=bool), spaces),
    )


def _projectors(motions: list[AllowedMotion]) -> torch.Tensor | None:
    """Concatenate the projectors of all structures; None if no structure has any."""
    if all(one.projector is None for one in motions):
        return None
    identity = np.eye(3)
    parts = [
        np.tile(identity, (len(one.fixed), 1, 1)) if one.projector is None else one.projector
        for one in motions
    ]
    return torch.from_numpy(np.concatenate(parts))


def _assemble(
    given: list[_Arrays], conversions: Conversions, *, strict: bool, use_tags: bool
) -> Systems:
    """Validate structures and combine them into a batch."""
    if not given:
        raise InputError("got an empty list of structures; give at least one structure")
    for k, one in enumerate(given):
        _check(one, _name(one, k, len(given)))
    counts = [len(one.numbers) for one in given]
    systems = Systems(
        positions=torch.from_numpy(np.concatenate([one.positions for one in given])),
        numbers=torch.from_numpy(np.concatenate([one.numbers for one in given])),
        tags=torch.zeros(sum(counts), dtype=torch.int64),
        fixed=torch.from_numpy(np.concatenate([one.motion.fixed for one in given])),
        system_idx=torch.repeat_interleave(torch.arange(len(given)), torch.tensor(counts)),
        cell=torch.from_numpy(np.stack([one.cell for one in given])),
        pbc=torch.from_numpy(np.stack([one.pbc for one in given])),
        projector=_projectors([one.motion for one in given]),
    )
    _check_distances(systems, given)
    if use_tags:
        systems.tags.copy_(torch.from_numpy(np.concatenate(_tags(given, strict, conversions))))
    return systems


def _name(one: _Arrays, k: int, total: int) -> str:
    """Return the name of a structure for messages: its formula, and its index if needed."""
    if not len(one.numbers) or one.numbers.min() < 1 or one.numbers.max() > N_ELEMENTS:
        return f"structure {k}" if total > 1 else "the structure"
    found, number = np.unique(one.numbers, return_counts=True)
    formula = "".join(
        symbols()[z] + (str(n) if n > 1 else "")
        for z, n in zip(found[::-1], number[::-1], strict=True)
    )
    return f"structure {k} ({formula})" if total > 1 else formula


def _check(one: _Arrays, name: str) -> None:
    """Raise an error for a structure that no model can use."""
    if not len(one.numbers):
        raise InputError(f"{name} has no atoms; remove it from the input")
    if one.numbers.min() < 1 or one.numbers.max() > N_ELEMENTS:
        bad = one.numbers[(one.numbers < 1) | (one.numbers > N_ELEMENTS)][0]
        raise InputError(
            f"{name} contains the atomic number {bad}; use elements from 1 to {N_ELEMENTS}"
        )
    if not np.isfinite(one.positions).all():
        atom = int(np.flatnonzero(~np.isfinite(one.positions).all(axis=1))[0])
        where = one.positions[atom].tolist()
        raise InputError(
            f"{name}: the position of atom {atom} is {where}, expected finite numbers; check the"
            " input file"
        )
    if not np.isfinite(one.cell).all():
        raise InputError(
            f"{name}: the cell is {one.cell.tolist()}, expected finite numbers; check the input"
            " file"
        )
    zero = one.pbc & (np.linalg.norm(one.cell, axis=1) < 1e-6)
    if zero.any():
        axes = " and ".join("abc"[k] for k in np.flatnonzero(zero))
        raise InputError(
            f"{name}: pbc is on along {axes} although that lattice vector is zero; set the cell, or"
            " pbc=False"
        )
    if one.pbc.any() and np.linalg.matrix_rank(one.cell[one.pbc], tol=1e-6) < one.pbc.sum():
        raise InputError(
            f"{name}: the periodic lattice vectors {one.cell[one.pbc].tolist()} are linearly"
            " dependent; check the cell"
        )
    try:
        checked_cell(one.positions, one.cell, one.pbc, MIN_SEARCH_RADIUS)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _check_distances(systems: Systems, given: list[_Arrays]) -> None:
    """Raise an error if two atoms overlap, including periodic images."""
    radii = torch.from_numpy(covalent_radii())[systems.numbers]
    graph = build_graph(systems, max(2 * MIN_DISTANCE * float(radii.max()), MIN_SEARCH_RADIUS))
    vectors = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    lengths = vectors.norm(dim=1)
    limits = MIN_DISTANCE * (radii[graph.receivers] + radii[graph.senders])
    if not (lengths < limits).any():
        return
    edge = int((lengths / limits).argmin())
    i, j = int(graph.receivers[edge]), int(graph.senders[edge])
    k = int(systems.system_idx[i])
    start = int(systems.counts[:k].sum())
    names = [f"atom {a - start} ({symbols()[int(systems.numbers[a])]})" for a in (i, j)]
    pair = " and its own periodic image" if i == j else f" and {names[1]}"
    raise InputError(
        f"{_name(given[k], k, len(given))}: {names[0]}{pair} are {float(lengths[edge]):.2f} Å"
        f" apart, less than {MIN_DISTANCE} of the sum of their covalent radii"
        f" ({float(limits[edge]):.2f} Å); check positions and cell"
    )


def _tags(given: list[_Arrays], strict: bool, conversions: Conversions) -> list[np.ndarray]:
    """Return the OC20 tags of each structure."""
    readings: list[TagReading] = []
    for k, one in enumerate(given):
        name = _name(one, k, len(given))
        try:
            reading = read_tags(
                one.numbers, one.positions, one.cell, one.pbc, one.tags, one.motion.fixed
            )
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if reading.note is not None:
            if strict:
                raise InputError(
                    f"{name}: tags are not in the OC20 convention; without strict they would be"
                    f" converted ({reading.note})"
                )
            conversions.add(name, reading.note)
        readings.append(reading)
    return [reading.tags for reading in readings]
