"""Supernodes: the subsurface atoms of a slab merged into one node, or into one node per element.

A supernode represents atoms with tag 0. Its height is their largest height, as published. The
published position in the plane is their mean, which depends on the stored image of each atom and
does not exist for an infinite periodic layer. Here it is defined relative to the adsorbate: with c
the center of the adsorbate and p_k the in-plane vector from c to the nearest image of atom k,

    p = c + 1/n sum_k w(|p_k|) p_k,

where w is 1 near the adsorbate and decreases to 0 at half the shortest in-plane lattice vector,
where the contributions of images on opposite sides vanish together. For a cluster this is the
published mean; for a full layer it lies beneath the adsorbate. The positions of supernodes are
smooth functions of the positions of the atoms, and gradient forces are propagated through them.

The plane is spanned by the periodic lattice vectors, the first two if there are three; without two
periodic vectors it is the xy plane. The adsorbate is on the upper side.

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
from geocalc.graphs.neighbors import complete_cell, split_structures
from geocalc.graphs.truncation import fade

SUBSURFACE, ADSORBATE = 0, 2  # tags of OC20
NO_ELEMENT = 0  # atomic number of a node of all elements; embedding tables have a row for it
N_SUPERNODE_KEYS = 256  # sort keys reserved for the supernodes of a structure; one per element


class Supernodes(StrEnum):
    """Merging of subsurface atoms: none, into one node, or into one node per element."""

    NONE = "none"
    ONE = "one"
    PER_ELEMENT = "per-element"


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Nodes of a batch whose subsurface atoms are merged.

    Attributes:
        systems: the nodes in place of atoms; the supernodes of a structure come last, with tag 0
            and fixed.
        node_of: (n_atoms,) int64, index of the node that each atom belongs to.
        merged: (n_atoms,) bool, True for atoms that belong to a supernode.
        shifts: (n_atoms, 3) float64, cell offsets to the image nearest to the center of the
            adsorbate, for adsorbate and merged atoms.
        up: (n_systems, 3) unit normal of the plane, on the side of the adsorbate.
        reach: (n_systems,) Angstrom, half the length of the shortest in-plane lattice vector.
    """

    systems: Systems
    node_of: Tensor
    merged: Tensor
    shifts: Tensor
    up: Tensor
    reach: Tensor

    def to(self, device: torch.device) -> Nodes:
        """Return a copy on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def node_positions(self, positions: Tensor, cell: Tensor, atoms: Systems) -> Tensor:
        """Return the positions of the nodes, (n_nodes, 3) Angstrom, from those of the atoms.

        Differentiable.

        Args:
            positions: (n_atoms, 3) Angstrom.
            cell: (n_systems, 3, 3) Angstrom.
            atoms: the batch of atoms.
        """
        owner, merged = atoms.system_idx, self.merged
        near = positions + torch.einsum("ai,aij->aj", self.shifts, cell[owner])
        adsorbed = atoms.tags == ADSORBATE
        center = _mean(near[adsorbed], owner[adsorbed], atoms.n_systems)
        up, node = self.up[owner[merged]], self.node_of[merged]
        offset = near[merged] - center[owner[merged]]
        height = (offset * up).sum(1)
        in_plane = offset - height[:, None] * up
        weight = fade(safe_lengths(in_plane) / self.reach[owner[merged]])
        supernodes, idx = torch.unique(node, return_inverse=True)
        system, n = self.systems.system_idx[supernodes], len(supernodes)
        top = height.new_full((n,), -torch.inf).scatter_reduce(0, idx, height, "amax")
        supernode_positions = (
            center[system]
            + _mean(weight[:, None] * in_plane, idx, n)
            + top[:, None] * self.up[system]
        )
        result = positions.new_zeros((self.systems.n_atoms, 3))
        return result.index_copy(0, self.node_of[~merged], positions[~merged]).index_copy(
            0, supernodes, supernode_positions
        )

    def vectors_to_atoms(self, node_vectors: Tensor | None) -> Tensor | None:
        """Map node vectors (n_nodes, 3) to atoms, (n_atoms, 3); zero for merged atoms."""
        return (
            None
            if node_vectors is None
            else node_vectors.index_select(0, self.node_of) * ~self.merged[:, None]
        )

    def energies_to_atoms(self, node_energies: Tensor | None) -> Tensor | None:
        """Distribute node energies (n_nodes,) over the atoms, equally within a supernode."""
        if node_energies is None:
            return None
        n_atoms = torch.bincount(self.node_of).to(node_energies.dtype)
        return (node_energies / n_atoms).index_select(0, self.node_of)


def merge(systems: Systems, kind: Supernodes) -> Nodes | None:
    """Return the nodes of a batch in which every structure has an adsorbate.

    Args:
        systems: the batch.
        kind: into how many nodes subsurface atoms are merged.
    Returns:
        The nodes, or None if no atom is to be merged.
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
    key = torch.where(merged, n + numbers, torch.arange(n, device=merged.device))
    nodes, node_of = torch.unique(
        systems.system_idx * (n + N_SUPERNODE_KEYS) + key, return_inverse=True
    )
    shifts, up, reach = _adsorbate_geometry(systems)
    unplaced = Nodes(
        systems=Systems(
            positions=systems.positions.new_zeros(len(nodes), 3),
            numbers=_to_nodes(torch.where(merged, numbers, systems.numbers), node_of),
            tags=_to_nodes(systems.tags, node_of),
            fixed=_to_nodes(systems.fixed | merged[:, None], node_of),
            system_idx=_to_nodes(systems.system_idx, node_of),
            cell=systems.cell,
            pbc=systems.pbc,
        ),
        node_of=node_of,
        merged=merged,
        shifts=shifts,
        up=up,
        reach=reach,
    )
    positions = unplaced.node_positions(systems.positions.detach(), systems.cell, systems)
    return replace(unplaced, systems=replace(unplaced.systems, positions=positions))


def _to_nodes(values: Tensor, node_of: Tensor) -> Tensor:
    """Copy rows of atoms to their nodes; all atoms of a node have equal rows."""
    result = values.new_zeros((int(node_of.max()) + 1, *values.shape[1:]))
    result[node_of] = values
    return result


def _mean(values: Tensor, owner: Tensor, n: int) -> Tensor:
    """Return the mean of `values` (m, 3) for each of the `n` owners, (n, 3); zero for none."""
    count = torch.bincount(owner, minlength=n).clamp(min=1).to(values.dtype)
    return values.new_zeros((n, values.shape[1])).index_add(0, owner, values) / count[:, None]


def _adsorbate_geometry(systems: Systems) -> tuple[Tensor, Tensor, Tensor]:
    """Return `shifts`, `up` and `reach` of `Nodes`."""
    tags, ends = systems.tags.cpu().numpy(), np.cumsum(systems.counts.cpu().numpy())
    found = [
        _geometry_of_one(positions, complete_cell(cell, pbc), pbc, own_tags)
        for (positions, cell, pbc), own_tags in zip(
            split_structures(systems), np.split(tags, ends[:-1]), strict=True
        )
    ]
    device = systems.positions.device
    shifts = torch.from_numpy(np.concatenate([one[0] for one in found])).to(device)
    up = torch.from_numpy(np.stack([one[1] for one in found])).to(device)
    return shifts, up, torch.tensor([one[2] for one in found], dtype=torch.float64, device=device)


def _geometry_of_one(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, tags: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the shifts (n_atoms, 3), up (3,) and reach (Angstrom) of one structure."""
    adsorbed, below = np.flatnonzero(tags == ADSORBATE), np.flatnonzero(tags == SUBSURFACE)
    shifts = np.zeros((len(positions), 3))
    shifts[adsorbed] = _compact_shifts(positions[adsorbed], cell, pbc)
    center = (positions[adsorbed] + shifts[adsorbed] @ cell).mean(axis=0)
    up, across = _normal(cell, pbc)
    heights = (positions[tags != ADSORBATE] - center) @ up
    # with a periodic normal direction the slab has an image on the other side of the adsorbate; a
    # sine of the heights is negative below the adsorbate, however thick the slab
    sides = (
        heights if across is None else np.sin(2 * np.pi * heights / abs(float(cell[across] @ up)))
    )
    if sides.sum() > 0:
        up = -up
    in_plane = pbc & (np.arange(3) != across)
    # subsurface atoms lie below the adsorbate, even in a slab thicker than the vacuum
    if across is not None:
        rise = float(cell[across] @ up)
        shifts[below, across] = -np.sign(rise) * np.ceil(
            (positions[below] - center) @ up / abs(rise)
        )
    shifts[below] += _nearest_shifts(
        positions[below] + shifts[below] @ cell - center, cell, in_plane
    )
    return shifts, up, _shortest_length(cell[in_plane]) / 2


def _compact_shifts(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Return shifts (n, 3) to the images nearest to the most central atom."""
    n = len(positions)
    vectors = (positions[None] - positions[:, None]).reshape(-1, 3)
    shifts = _nearest_shifts(vectors, cell, pbc)
    squares = ((vectors + shifts @ cell) ** 2).sum(axis=1).reshape(n, n).sum(axis=1)
    return shifts.reshape(n, n, 3)[int(squares.argmin())]


def _nearest_shifts(vectors: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Return one shift (n, 3) to a nearest image of each vector."""
    rows, shifts, _ = nearest_images(vectors, cell, pbc)
    return shifts[np.searchsorted(rows, np.arange(len(vectors)))]


def _normal(cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Return the unit normal of the plane (3,) and the index of the out-of-plane lattice vector.

    The index is None without a periodic out-of-plane vector.
    """
    if pbc.sum() < 2:
        return np.array([0.0, 0.0, 1.0]), None
    first, second = np.flatnonzero(pbc)[:2]
    normal = np.cross(cell[first], cell[second])
    return normal / np.linalg.norm(normal), 2 if pbc.all() else None


def _shortest_length(vectors: np.ndarray) -> float:
    """Return the length of the shortest vector of a lattice of up to two vectors, in Angstrom.

    Infinite without vectors.
    """
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
