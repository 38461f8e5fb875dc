"""Schedule of training samples: a deterministic function of the seed and the step."""

from __future__ import annotations

import numpy as np

from geocalc.data.store import SampleIndex
from geocalc.train.recipe import Recipe


class Schedule:
    """Sample numbers of the batch of each step.

    Every process computes the same lists and takes its part. An epoch draws from each relaxation
    its first and last image and random others up to `images_per_group`, shuffles, and splits into
    batches. Source weights repeat or omit whole relaxations.

    Args:
        index: index of all samples.
        recipe: recipe of the run.
    """

    def __init__(self, index: SampleIndex, recipe: Recipe) -> None:
        self._seed, self._batch = recipe.training.seed, recipe.training.batch_size
        self._frames = recipe.data.images_per_group
        used = np.flatnonzero(~index.validation)
        self._numbers = used[np.argsort(index.relaxation[used], kind="stable")]
        starts = np.flatnonzero(np.diff(index.relaxation[self._numbers], prepend=-1))
        # relaxation k is _numbers[_ends[k] : _ends[k + 1]]
        self._ends = np.append(starts, len(used))
        self._weights = [
            recipe.data.sources[source].weight for source in index.source[self._numbers[starts]]
        ]
        sizes = np.minimum(np.diff(self._ends), self._frames).tolist()
        expected = sum(size * weight for size, weight in zip(sizes, self._weights, strict=True))
        self.batches_per_epoch = max(1, int(expected) // self._batch)
        self._epoch_number, self._epoch = -1, np.zeros((0, 0), dtype=np.int64)

    def batch(self, step: int) -> list[int]:
        """Return the sample numbers of one step, counted from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch_number:
            self._epoch, self._epoch_number = self._draw(epoch), epoch
        return self._epoch[place].tolist()

    def _draw(self, epoch: int) -> np.ndarray:
        """Draw the sample numbers of an epoch, (batches_per_epoch, batch_size).

        A short epoch is padded with samples from its start.
        """
        rng = np.random.default_rng((self._seed, epoch))
        drawn: list[np.ndarray] = []
        for number, weight in enumerate(self._weights):
            repeats = int(weight) + int(rng.random() < weight - int(weight))
            drawn += [_some(self._members(number), self._frames, rng) for _ in range(repeats)]
        if not drawn:  # few relaxations, all thinned out
            drawn = [_some(self._members(int(rng.integers(len(self._weights)))), self._frames, rng)]
        order = rng.permutation(np.concatenate(drawn))
        return np.resize(order, (self.batches_per_epoch, self._batch))

    def _members(self, number: int) -> np.ndarray:
        """Return the samples of a relaxation, in order."""
        return self._numbers[self._ends[number] : self._ends[number + 1]]


def _some(members: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Select the first, the last and random other images, at most `limit`."""
    if len(members) <= limit:
        return members
    ends = np.array([0, len(members) - 1])[:limit]
    middle = rng.choice(len(members) - 2, size=limit - len(ends), replace=False) + 1
    return members[np.concatenate([ends, middle])]
