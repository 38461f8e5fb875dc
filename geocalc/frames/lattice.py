"""Frames from the lattice.

They are independent of the positions of the atoms, so gradient forces are exact and energies
continuous.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from geocalc.errors import InputError
from geocalc.frames.policy import FramePick, Frames
from geocalc.frames.sampling import draw_members

SHORTEST_TOLERANCE = 1e-3  # relative; lattice vectors this close in length count as equally short
# sine of the angle between two in-plane vectors below which they are parallel
PARALLEL_TOLERANCE = 1e-9


def lattice_frames(
    cell: Tensor, pbc: Tensor, pick: FramePick, draws: Tensor | None = None
) -> Frames:
    """Return frames with a shortest in-plane lattice vector along x and the plane normal along z.

    The normal points to the side of the remaining lattice vector; if that is zero, along the cross
    product of the other two.

    Args:
        cell: (n_systems, 3, 3) Angstrom. Differentiable: the frames rotate with the lattice under
            strain.
        pbc: (n_systems, 3) bool; periodic along at least two vectors. If all three are periodic,
            the third is taken as the out-of-plane vector.
        pick: all, one or stochastic.
        draws: (n_systems, N_DRAWS) uniform random numbers, needed by stochastic; see
            `geocalc.frames.sampling`.
    Returns:
        Frames; for `all` 12 for a hexagonal plane lattice, 8 for a square or rhombic one, otherwise
        4.
    Raises:
        InputError: a structure is periodic along fewer than two vectors, two periodic vectors are
            zero or parallel, or `draws` is missing.
    """
    order = torch.tensor(
        [_slab_axes(periodic) for periodic in pbc.tolist()], device=cell.device
    ).reshape(-1, 3)
    vectors = torch.gather(cell, 1, order[:, :, None].expand(-1, -1, 3))
    a, b, c = vectors.unbind(1)
    cross = torch.linalg.cross(a, b)
    area = cross.norm(dim=1, keepdim=True)
    up = 1.0 - 2.0 * ((cross * c).sum(1, keepdim=True) < 0).to(cell.dtype)
    choices = [_choices(products, pick) for products in _products(a, b, area)]
    if pick is FramePick.STOCHASTIC:
        drawn = draw_members([len(members) for members in choices], draws)
        choices = [[members[k]] for members, k in zip(choices, drawn, strict=True)]
    owner = torch.tensor(
        [k for k, members in enumerate(choices) for _ in members],
        dtype=torch.int64,
        device=cell.device,
    )
    combos = torch.tensor(
        [member for members in choices for member in members], dtype=cell.dtype, device=cell.device
    )
    m, n, mirror = combos.reshape(-1, 3, 1).unbind(1)
    x = m * a[owner] + n * b[owner]
    x = x / x.norm(dim=1, keepdim=True)
    z = (cross / area)[owner]
    y = mirror * torch.linalg.cross(z, x)
    return Frames(
        rotations=torch.stack([x, y, up[owner] * z], dim=2),
        system_idx=owner,
        degenerate=torch.zeros(len(cell), dtype=torch.bool, device=cell.device),
    )


def _slab_axes(periodic: list[bool]) -> tuple[int, int, int]:
    """Return the indices of the two in-plane lattice vectors and of the remaining one."""
    if sum(periodic) < 2:
        raise InputError(
            f"lattice frames need pbc along at least two lattice vectors, got pbc={periodic};"
            " use a pca policy for this structure"
        )
    normal = 2 if all(periodic) else periodic.index(False)
    first, second = (axis for axis in range(3) if axis != normal)
    return first, second, normal


def _products(a: Tensor, b: Tensor, area: Tensor) -> list[tuple[float, float, float]]:
    """Return the scalar products a.a, a.b and b.b of each structure.

    Raises:
        InputError: the vectors of a structure are parallel.
    """
    products = torch.stack(
        [(a * a).sum(1), (a * b).sum(1), (b * b).sum(1), area[:, 0]], dim=1
    ).tolist()
    for k, (aa, _, bb, size) in enumerate(products):
        if not size > PARALLEL_TOLERANCE * (aa * bb) ** 0.5:
            raise InputError(
                f"the periodic lattice vectors of structure {k} are parallel or zero (area"
                f" {size:.3g} A^2); check its cell"
            )
    return [(aa, ab, bb) for aa, ab, bb, _ in products]


def _choices(products: tuple[float, float, float], pick: FramePick) -> list[tuple[int, int, int]]:
    """Return (m, n, mirror) of every frame of the set: m a + n b is the vector along x."""
    if pick is FramePick.ONE:
        return [(1, 0, 1)]
    return [(m, n, mirror) for m, n in _shortest(*products) for mirror in (1, -1)]


def _shortest(aa: float, ab: float, bb: float) -> list[tuple[int, int]]:
    """Return the integers (m, n) of all shortest vectors m a + n b by Gauss reduction.

    Both signs of a vector are included.
    """
    u, v = (1, 0), (0, 1)
    while True:
        if aa > bb:
            u, v, aa, bb = v, u, bb, aa
        step = round(ab / aa)
        reduced = bb - step * (2 * ab - step * aa)
        if step == 0 or reduced >= bb * (1 - 1e-12):
            break
        v = (v[0] - step * u[0], v[1] - step * u[1])
        ab, bb = ab - step * aa, reduced
    around = [(m, n) for m, n in itertools.product((-1, 0, 1), repeat=2) if (m, n) != (0, 0)]
    squares = [m * m * aa + 2 * m * n * ab + n * n * bb for m, n in around]
    longest = min(squares) * (1 + SHORTEST_TOLERANCE) ** 2
    near = [combo for combo, square in zip(around, squares, strict=True) if square <= longest]
    return [(m * u[0] + n * v[0], m * u[1] + n * v[1]) for m, n in near]
