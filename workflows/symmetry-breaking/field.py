"""Fit the acceleration of a charged particle in fields unknown to the network: a = E + v x B.

One point, whose features are a one and its velocity, sends messages to itself: gated layers whose
filters are relaxed weights alone. A vector (1o) can represent E, a pseudovector (1e) B.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from broken import ThetaPart, read_theta
from e3nn import o3
from network import drawn
from record import FieldFit
from torch import Tensor, nn

from geocalc.architectures import RelaxedFilters, RelaxedLayer
from geocalc.nn import EdgeIndex, theta_penalty

BEFORE, AFTER = "0e + 1o", "1o"
RELAXED, EQUIVARIANT = "0e + 0o + 1o + 1e", "0e"
# 0e alone makes no 0o and no 1e of a vector
BETWEEN = {RELAXED: "4x0e + 4x0o + 4x1o + 4x1e", EQUIVARIANT: "4x0e + 4x1o"}
DT, STEPS_EACH = 0.1, 40  # of a trajectory
N_TRAJECTORIES, N_LEARNT = 64, 48  # of which so many are learned from
BATCH, STEPS, RATE = 64, 400, 0.02
LASSO = 0.01  # at the end; from the beginning it could keep a tensor at zero that is needed
SEEDS = 1000  # data and fields are drawn with other seeds than weights
ALONG_AXES, CROSSED, FREE = "crossed along axes", "crossed", "free"
E_ALONG, B_ALONG = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


class FieldNetwork(nn.Module):
    """Acceleration of a particle from its velocity, by gated layers of messages from the particle
    to itself.

    Args:
        layers: how many, one or more.
        theta: irreps of the relaxed weights, `RELAXED` or `EQUIVARIANT`.
    """

    def __init__(self, layers: int, theta: str) -> None:
        super().__init__()
        irreps = [o3.Irreps(text) for text in (BEFORE, *[BETWEEN[theta]] * (layers - 1), AFTER)]
        self.layers = nn.ModuleList(
            RelaxedLayer(
                before,
                after,
                RelaxedFilters(o3.Irreps("0e"), o3.Irreps(theta)),
                n_basis=1,
                hidden=4,
                n_radial=2,
                neighbors=1,
            )
            for before, after in pairwise(irreps)
        )

    def forward(self, velocities: Tensor) -> Tensor:
        """Accelerations (n, 3) of velocities (n, 3)."""
        every = torch.arange(len(velocities))
        index, one = (
            EdgeIndex.build(every, every, len(velocities)),
            velocities.new_ones(len(velocities), 1),
        )
        hidden = torch.cat([one, velocities], dim=1)
        for layer in self.layers:
            hidden = layer(hidden, one, one, one, index)
        return hidden


@dataclass(frozen=True)
class Samples:
    """Velocities (n, 3) and the accelerations (n, 3) at the same moments."""

    velocities: Tensor
    accelerations: Tensor


def trajectories(start: Tensor, electric: Tensor, magnetic: Tensor, steps: int) -> Tensor:
    """Velocities (n, steps, 3) along trajectories that begin with `start` (n, 3), which stays as it
    is.

    Source: Boris, Proc. 4th Conf. Numerical Simulation of Plasmas (1970); charge and mass are one.
    """
    half = 0.5 * DT * magnetic
    turn = 2 * half / (1 + half @ half)
    found, now = [], start
    for _ in range(steps):
        found.append(now)
        pushed = now + 0.5 * DT * electric
        aside = pushed + torch.linalg.cross(pushed, half.expand_as(pushed))
        now = pushed + torch.linalg.cross(aside, turn.expand_as(pushed)) + 0.5 * DT * electric
    return torch.stack(found, dim=1)


def simulate(
    electric: Tensor, magnetic: Tensor, generator: torch.Generator
) -> tuple[Samples, Samples]:
    """What is learned from and what is not: whole trajectories are one or the other."""
    start = torch.randn(N_TRAJECTORIES, 3, generator=generator, dtype=torch.float64)
    velocities = trajectories(start, electric, magnetic, STEPS_EACH)
    accelerations = electric + torch.linalg.cross(velocities, magnetic.expand_as(velocities))
    learned, rest = (
        Samples(velocities[part].flatten(0, 1), accelerations[part].flatten(0, 1))
        for part in (slice(N_LEARNT), slice(N_LEARNT, None))
    )
    return learned, rest


def draw_fields(kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """E and B of unit length: along axes, crossed in any orientation, or in any two directions."""
    electric, magnetic = (torch.tensor(field, dtype=torch.float64) for field in (E_ALONG, B_ALONG))
    if kind == ALONG_AXES:
        return electric, magnetic
    electric, magnetic = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    electric = electric / electric.norm()
    if kind == CROSSED:
        magnetic = magnetic - (magnetic @ electric) * electric
    return electric, magnetic / magnetic.norm()


def fit_field(kind: str, *, layers: int, relaxed: bool, seed: int, steps: int = STEPS) -> FieldFit:
    """Train a network on minibatches, with a lasso on what is not 0e that grows from zero.

    Args:
        kind: of fields, see `draw_fields`.
        layers: of the network.
        relaxed: or equivariant.
        seed: of all.
        steps: of Adam.
    """
    generator = torch.Generator().manual_seed(SEEDS + seed)
    electric, magnetic = draw_fields(kind, generator)
    learned, rest = simulate(electric, magnetic, generator)
    network = drawn(lambda: FieldNetwork(layers, RELAXED if relaxed else EQUIVARIANT), seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    began = time.perf_counter()
    for step, batch in enumerate(_batches(len(learned.velocities), steps, generator)):
        optimizer.zero_grad()
        loss = (network(learned.velocities[batch]) - learned.accelerations[batch]).square().mean()
        penalty = theta_penalty(network)
        (loss if penalty is None else loss + LASSO * step / steps * penalty).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        error = float((network(rest.velocities) - rest.accelerations).square().mean())
    return FieldFit(
        name=f"{'relaxed' if relaxed else 'equivariant'}, {layers} layer{'s' if layers > 1 else ''}",
        fields=kind,
        seed=seed,
        electric=tuple(electric.tolist()),
        magnetic=tuple(magnetic.tolist()),
        target=float(rest.accelerations.square().mean()),
        loss=error,
        seconds=time.perf_counter() - began,
        parts=read_theta(network, np.eye(3)[None]),
    )


def angle(parts: Sequence[ThetaPart], layer: int, irrep: str, direction: Sequence[float]) -> float:
    """Degrees between a vector or pseudovector of a layer and a direction, up to sign."""
    (part,) = (part for part in parts if (part.layer, part.irrep) == (layer, irrep))
    own, given = np.array(part.values), np.array(direction)
    return math.degrees(
        math.atan2(float(np.linalg.norm(np.cross(own, given))), abs(float(own @ given)))
    )


def _batches(n: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """So many minibatches; each sample comes once in every round."""
    rounds = math.ceil(steps / (n // BATCH))
    order = [torch.randperm(n, generator=generator)[: n // BATCH * BATCH] for _ in range(rounds)]
    return list(torch.cat(order).split(BATCH))[:steps]
