"""Supernodes: the subsurface atoms of a slab as one node, or as one for each element.

A supernode stands for atoms with tag 0. Its height is the largest of theirs, as published. In the
plane it was published as their mean, which depends on the image that each atom is stored in, and of
a layer that repeats without end there is no mean. Ours is taken as the adsorbate sees them: with c
the center of the adsorbate and p_k the way in the plane from c to the nearest image of atom k,

    p = c + 1/n sum_k w(|p_k|) p_k,

where w is 1 near the adsorbate and falls to 0 at half the shortest lattice vector in the plane,
from where images on both sides fading alike. Of a cluster it is the mean as published; of a full
layer it lies beneath the adsorbate. Nodes move smoothly with the atoms, and gradient forces go
through them.

The plane is that of the lattice vectors along which a slab is periodic, of three the first two;
else that of x and y. Up is the side of the adsorbate.

Source: Duval et al., PhAST (2022), one supernode per graph and one per atom type.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from geocalc.core.lengths import safe_lengths
from geocalc.core.systems import Systems
from geocalc.graphs.images import nearest_images
from geocalc.graphs.neighbors import full_cell, split
from geocalc.graphs.truncation import fade

SUBSURFACE, ADSORBATE = 0, 2  # tags of OC20
NO_ELEMENT = 0  # atomic number of a node of all elements; tables of the network have a row for it
ROOM = 256  # keys of nodes of one structure beyond its atoms; more than there are elements


class Supernodes(StrEnum):
    """What becomes of subsurface atoms: they stay, or merge into one node, or into one for each
    element.
    """

    NONE = "none"
    ONE = "one"
    PER_ELEMENT = "per-element"


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What a network sees of a batch whose subsurface atoms are merged.

    Attributes:
        systems: the nodes in place of atoms; supernodes come last in their structure, with tag 0,
            fixed.
        node_of: (n_atoms,) int64, the node that each atom is, or is part of.
        merged: (n_atoms,) bool, of the atoms that are part of a supernode.
        images: (n_atoms, 3) float64, the image of each adsorbate and merged atom that is near the
            center of the adsorbate.
        up: (n_systems, 3) normal of the plane, on the side of the adsorbate.
        reach: (n_systems,) Angstrom, half the shortest vector.
    """

    systems: Systems
    node_of: Tensor
    merged: Tensor
    images: Tensor
    up: Tensor
    reach: Tensor

    def to(self, device: torch.device) -> Nodes:
        """The same on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def place(self, positions: Tensor, cell: Tensor, atoms: Systems) -> Tensor:
        """Positions of the nodes, (n_nodes, 3) Angstrom, as functions of those of the atoms;
        differentiable.

        Args:
            positions: (n_atoms, 3) Angstrom.
            cell: (n_systems, 3, 3) Angstrom.
            atoms: the batch that these are of.
        """
        owner, merged = atoms.system_idx, self.merged
        near = positions + torch.einsum("ai,aij->aj", self.images, cell[owner])
        adsorbed = atoms.tags == ADSORBATE
        center = _mean(near[adsorbed], owner[adsorbed], atoms.n_systems)
        up, node = self.up[owner[merged]], self.node_of[merged]
        way = near[merged] - center[owner[merged]]
        height = (way * up).sum(1)
        flat = way - height[:, None] * up
        fading = fade(safe_lengths(flat) / self.reach[owner[merged]])
        supernodes, of = torch.unique(node, return_inverse=True)
        system, n = self.systems.system_idx[supernodes], len(supernodes)
        top = height.new_full((n,), -torch.inf).scatter_reduce(0, of, height, "amax")
        placed = (
            center[system] + _mean(fading[:, None] * flat, of, n) + top[:, None] * self.up[system]
        )
        result = positions.new_zeros((self.systems.n_atoms, 3))
        return result.index_copy(0, self.node_of[~merged], positions[~merged]).index_copy(
            0, supernodes, placed
        )

    def vectors(self, of_nodes: Tensor | None) -> Tensor | None:
        """Vectors of a direct head, (n_nodes, 3), as those of atoms; zero where atoms are merged."""
        return (
            None
            if of_nodes is None
            else of_nodes.index_select(0, self.node_of) * ~self.merged[:, None]
        )

    def shares(self, of_nodes: Tensor | None) -> Tensor | None:
        """Energies (n_nodes,) as those of atoms; the atoms of a supernode share alike."""
        if of_nodes is None:
            return None
        return (of_nodes / torch.bincount(self.node_of).to(of_nodes.dtype)).index_select(
            0, self.node_of
        )


def merge(systems: Systems, kind: Supernodes) -> Nodes | None:
    """The nodes of a batch in which every structure has an adsorbate; None where no atom is to be
    merged.
    """
    merged = systems.tags == SUBSURFACE
    if kind is Supernodes.NONE or not bool(merged.any()):
        return None
    n = systems.n_atoms
    numbers = (
        systems.numbers
        if kind is Supernodes.PER_ELEMENT
        else torch.full_like(systems.numbers, NO_ELEMENT)
    )
    place = torch.where(merged, n + numbers, torch.arange(n, device=merged.device))
    nodes, node_of = torch.unique(systems.system_idx * (n + ROOM) + place, return_inverse=True)
    images, up, reach = _surroundings(systems)
    unplaced = Nodes(
        systems=Systems(
            positions=systems.positions.new_zeros(len(nodes), 3),
            numbers=_scattered(torch.where(merged, numbers, systems.numbers), node_of),
            tags=_scattered(systems.tags, node_of),
            fixed=_scattered(systems.fixed | merged[:, None], node_of),
            system_idx=_scattered(systems.system_idx, node_of),
            cell=systems.cell,
            pbc=systems.pbc,
        ),
        node_of=node_of,
        merged=merged,
        images=images,
        up=up,
        reach=reach,
    )
    positions = unplaced.place(systems.positions.detach(), systems.cell, systems)
    return replace(unplaced, systems=replace(unplaced.systems, positions=positions))


def _scattered(values: Tensor, node_of: Tensor) -> Tensor:
    """Rows of atoms as rows of their nodes, whose atoms agree."""
    result = values.new_zeros((int(node_of.max()) + 1, *values.shape[1:]))
    result[node_of] = values
    return result


def _mean(values: Tensor, owner: Tensor, n: int) -> Tensor:
    count = torch.bincount(owner, minlength=n).clamp(min=1).to(values.dtype)
    return values.new_zeros((n, values.shape[1])).index_add(0, owner, values) / count[:, None]


def _surroundings(systems: Systems) -> tuple[Tensor, Tensor, Tensor]:
    """`images`, `up` and `reach` of `Nodes`."""
    tags, ends = systems.tags.cpu().numpy(), np.cumsum(systems.counts.cpu().numpy())
    found = [
        _around_adsorbate(positions, full_cell(cell, pbc), pbc, of)
        for (positions, cell, pbc), of in zip(
            split(systems), np.split(tags, ends[:-1]), strict=True
        )
    ]
    device = systems.positions.device
    images = torch.from_numpy(np.concatenate([one[0] for one in found])).to(device)
    up = torch.from_numpy(np.stack([one[1] for one in found])).to(device)
    return images, up, torch.tensor([one[2] for one in found], dtype=torch.float64, device=device)


def _around_adsorbate(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, tags: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """One structure: images (n_atoms, 3), up (3,) and reach in Angstrom."""
    adsorbed, below = np.flatnonzero(tags == ADSORBATE), np.flatnonzero(tags == SUBSURFACE)
    images = np.zeros((len(positions), 3))
    images[adsorbed] = _gathered(positions[adsorbed], cell, pbc)
    center = (positions[adsorbed] + images[adsorbed] @ cell).mean(axis=0)
    up, across = _normal(cell, pbc)
    heights = (positions[tags != ADSORBATE] - center) @ up
    # where the next slab lies above, a sine weighs the slab against its image: it is negative
    # however thick the slab
    sides = (
        heights if across is None else np.sin(2 * np.pi * heights / abs(float(cell[across] @ up)))
    )
    if sides.sum() > 0:
        up = -up
    in_plane = pbc & (np.arange(3) != across)
    # whatever is subsurface lies below the adsorbate, also in a slab thicker than the vacuum
    if across is not None:
        rise = float(cell[across] @ up)
        images[below, across] = -np.sign(rise) * np.ceil(
            (positions[below] - center) @ up / abs(rise)
        )
    images[below] += _first_images(positions[below] + images[below] @ cell - center, cell, in_plane)
    return images, up, _shortest(cell[in_plane]) / 2


def _gathered(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Shifts (n, 3) that bring atoms together around the one that is nearest to all others."""
    n = len(positions)
    ways = (positions[None] - positions[:, None]).reshape(-1, 3)
    shifts = _first_images(ways, cell, pbc)
    squares = ((ways + shifts @ cell) ** 2).sum(axis=1).reshape(n, n).sum(axis=1)
    return shifts.reshape(n, n, 3)[int(squares.argmin())]


def _first_images(vectors: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    rows, shifts, _ = nearest_images(vectors, cell, pbc)
    return shifts[np.searchsorted(rows, np.arange(len(vectors)))]


def _normal(cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Unit normal of the plane (3,), and the number of the lattice vector that leads out of it,
    None where there is none.
    """
    if pbc.sum() < 2:
        return np.array([0.0, 0.0, 1.0]), None
    first, second = np.flatnonzero(pbc)[:2]
    normal = np.cross(cell[first], cell[second])
    return normal / np.linalg.norm(normal), 2 if pbc.all() else None


def _shortest(vectors: np.ndarray) -> float:
    """Length in Angstrom of the shortest of the lattice of up to two vectors; infinite without one."""
    if len(vectors) == 0:
        return np.inf
    if len(vectors) == 1:
        return float(np.linalg.norm(vectors[0]))
    short, long = sorted(vectors, key=lambda vector: float(vector @ vector))
    while (step := np.round(short @ long / (short @ short))) != 0:  # Gauss reduction
        long = long - step * short
        if long @ long >= short @ short:
            break
        short, long = long, short
    return float(np.linalg.norm(short))
