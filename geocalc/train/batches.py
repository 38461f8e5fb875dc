"""Samples to batches, and which samples make a step: a pure function of the seed and the step number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from geocalc.systems import Systems, per_atom, per_system
from geocalc.train.recipe import Recipe
from geocalc.train.store import Sample


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Targets of a batch; NaN where there is none.

    Attributes:
        energy: (n_systems,) eV. forces: (n_atoms, 3) eV/Angstrom, raw.
        displacement: (n_atoms, 3) Angstrom, to the relaxed structure.
    """

    energy: Tensor = per_system()
    forces: Tensor = per_atom()
    displacement: Tensor = per_atom()

    def to(self, device: torch.device) -> Labels:
        """The same labels on another device."""
        return Labels(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def collate(samples: Sequence[Sample]) -> tuple[Systems, Labels]:
    """Join samples into one batch, in order."""
    counts = torch.tensor([len(s.numbers) for s in samples])
    systems = Systems(
        positions=_join(samples, "positions"),
        numbers=_join(samples, "numbers"),
        tags=_join(samples, "tags"),
        fixed=_join(samples, "fixed"),
        system_idx=torch.repeat_interleave(torch.arange(len(samples)), counts),
        cell=torch.from_numpy(np.stack([s.cell for s in samples])),
        pbc=torch.from_numpy(np.stack([s.pbc for s in samples])),
    )
    energy = torch.tensor([s.energy for s in samples], dtype=torch.float64)
    displacement = _join(samples, "relaxed") - systems.positions
    return systems, Labels(energy=energy, forces=_join(samples, "forces"), displacement=displacement)


def _join(samples: Sequence[Sample], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([getattr(s, name) for s in samples]))


class Schedule:
    """Batches of sample numbers by step; every process computes the same lists and takes its own share.

    An epoch draws from each relaxation its first and last frame and random others up to `frames_per_group`, shuffles, and cuts
    into batches. Source weights repeat or thin out whole relaxations.
    """

    def __init__(self, samples: Sequence[Sample], recipe: Recipe) -> None:
        self._seed, self._batch = recipe.training.seed, recipe.training.batch_size
        self._frames = recipe.data.frames_per_group
        self._groups: dict[tuple[int, str], list[int]] = {}
        for number, sample in enumerate(samples):
            if not sample.validation:
                self._groups.setdefault((sample.source, sample.group), []).append(number)
        self._weights = [recipe.data.sources[source].weight for source, _ in self._groups]
        expected = sum(min(len(m), self._frames) * w for m, w in zip(self._groups.values(), self._weights, strict=True))
        self.batches_per_epoch = max(1, int(expected) // self._batch)
        self._epoch_number, self._epoch = -1, np.zeros((0, 0), dtype=np.int64)

    def batch(self, step: int) -> list[int]:
        """Sample numbers of one step, counted from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch_number:
            self._epoch, self._epoch_number = self._draw(epoch), epoch
        return self._epoch[place].tolist()

    def _draw(self, epoch: int) -> np.ndarray:
        """Sample numbers of an epoch, (batches_per_epoch, batch_size); filled up from its own start where it is short."""
        rng = np.random.default_rng((self._seed, epoch))
        drawn: list[int] = []
        for members, weight in zip(self._groups.values(), self._weights, strict=True):
            repeats = int(weight) + int(rng.random() < weight - int(weight))
            for _ in range(repeats):
                drawn += _some(members, self._frames, rng)
        if not drawn:  # few relaxations, all thinned out
            drawn = _some(list(self._groups.values())[rng.integers(len(self._groups))], self._frames, rng)
        order = rng.permutation(np.array(drawn))
        return np.resize(order, (self.batches_per_epoch, self._batch))


def _some(members: list[int], limit: int, rng: np.random.Generator) -> list[int]:
    """First, last and random others of `members`, at most `limit`."""
    if len(members) <= limit:
        return members
    chosen = [members[0], members[-1]][:limit]
    middle = rng.choice(len(members) - 2, size=limit - len(chosen), replace=False) + 1
    return chosen + [members[i] for i in middle]
