"""Deform a cube to another shape: eight identical points and the direction in which each moves.

The feature of every point is a one. The target of a point is a function on the sphere up to degree
2 with its peak in the direction in which the corner moves: the harmonics of that direction times
the distance, divided by the square of their length.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from broken import read_theta, recovered, symmetric_part
from descent import descend
from e3nn import o3
from network import Cluster, RelaxedStack, drawn
from record import Fit
from scipy.spatial.transform import Rotation
from torch import Tensor

from geocalc.symmetry import point_group, rotated_group, wigner_matrix

FEATURES = o3.Irreps("0e + 1o + 2e")
CUTOFF, L_HARMONICS, L_RELAXED = 1.8, 2, 4
TURN = Rotation.from_euler("zyx", (0.7, -0.4, 1.1)).as_matrix()  # an arbitrary one
STEPS = 60
IRREGULAR_SEED, IRREGULAR_SIZE = 7, 0.4  # of what is added to the corners of the cube
CUBE = torch.tensor(list(product((-0.5, 0.5), repeat=3)), dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the cube becomes.

    Attributes:
        name: of it.
        corners: (8, 3).
        group: that it keeps of the cube's symmetry.
        layers: convolutions.
        turn: (3, 3), by which cube and shape are turned both.
    """

    name: str
    corners: Tensor
    group: str
    layers: int = 2
    turn: Tensor | None = None


def shapes() -> tuple[Shape, ...]:
    """All of them."""
    noise = torch.randn(
        CUBE.shape, generator=torch.Generator().manual_seed(IRREGULAR_SEED), dtype=torch.float64
    )
    prism = CUBE * torch.tensor([0.5, 0.5, 2.0])
    return (
        Shape(name="cube", corners=CUBE, group="Oh"),
        Shape(name="prism", corners=prism, group="D4h"),
        Shape(name="turned prism", corners=prism, group="D4h", turn=torch.from_numpy(TURN)),
        Shape(name="brick", corners=CUBE * torch.tensor([0.5, 1.0, 2.0]), group="D2h"),
        Shape(name="irregular", corners=CUBE + IRREGULAR_SIZE * noise, group="C1", layers=3),
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """A shape as numbers.

    Attributes:
        cluster: the cube's corners.
        target: (8, 9).
        floor: mean squared error of the best equivariant answer.
        before, after: (n, 3, 3) symmetries of the cube, and those that the shape keeps.
    """

    cluster: Cluster
    target: Tensor
    floor: float
    before: np.ndarray
    after: np.ndarray


def make_task(shape: Shape) -> Task:
    """The numbers of a shape."""
    turn = torch.eye(3, dtype=torch.float64) if shape.turn is None else shape.turn
    cube, before = CUBE @ turn.T, rotated_group(point_group("Oh"), turn.numpy())
    target = peaks(shape.corners @ turn.T)
    features = torch.zeros(len(cube), FEATURES.dim, dtype=torch.float64)
    features[:, 0] = 1.0
    best = symmetric_part(target.numpy(), cube.numpy(), before, _turns(before))
    return Task(
        cluster=Cluster.build(cube, features, CUTOFF),
        target=target,
        floor=float((target - torch.from_numpy(best)).square().mean()),
        before=before,
        after=rotated_group(point_group(shape.group), turn.numpy()),
    )


def peaks(positions: Tensor) -> Tensor:
    """Functions on the sphere with a peak in the direction of each position and of its length, (n,
    9).
    """
    values = o3.spherical_harmonics(FEATURES, positions, normalize=True, normalization="integral")
    return values * positions.norm(dim=1, keepdim=True) / values.square().sum(1, keepdim=True)


def make_network(cluster: Cluster, layers: int, l_relaxed: int, seed: int) -> RelaxedStack:
    """A network for shapes, with random weights of a seed."""
    irreps = (str(FEATURES),) * (layers + 1)
    settings = {"l_harmonics": L_HARMONICS, "l_relaxed": l_relaxed}
    return drawn(
        lambda: RelaxedStack(irreps, **settings, cutoff=CUTOFF, neighbors=cluster.neighbors), seed
    )


def fit_shape(shape: Shape, *, relaxed: bool, seed: int, steps: int = STEPS) -> Fit:
    """Train a relaxed network or its equivariant twin.

    Args:
        shape: to learn.
        relaxed: or not.
        seed: of the weights.
        steps: at most, of the descent.
    """
    task = make_task(shape)
    network = make_network(task.cluster, shape.layers, L_RELAXED if relaxed else 0, seed)
    began = time.perf_counter()
    descent = descend(network, lambda: network(task.cluster) - task.target, steps)
    parts = read_theta(network, task.after)
    return Fit(
        name=shape.name,
        network="relaxed" if relaxed else "equivariant",
        seed=seed,
        group=shape.group,
        recovered=recovered(parts, task.before),
        target=float(task.target.square().mean()),
        floor=task.floor,
        loss=descent.losses[-1],
        losses=descent.losses,
        seconds=time.perf_counter() - began,
        parts=parts,
    )


def _turns(matrices: np.ndarray) -> np.ndarray:
    """What matrices (n, 3, 3) do to features, (n, 9, 9)."""
    found = np.zeros((len(matrices), FEATURES.dim, FEATURES.dim))
    for (_, irrep), place in zip(FEATURES, FEATURES.slices(), strict=True):
        found[:, place, place] = wigner_matrix(irrep.l, irrep.p, matrices)
    return found
