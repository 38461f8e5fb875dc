"""Loading of training batches: noise, graphs and random draws, computed ahead by worker processes.

The data of a step depend only on the samples, the recipe and the number of the step, not on the
process that prepares them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from geocalc.core.systems import Systems
from geocalc.data.augment import add_layers, add_noise
from geocalc.data.collate import BatchLabels, collate_samples
from geocalc.data.store import Sample, Samples
from geocalc.errors import GeoCalcError, RunFolderError
from geocalc.frames.sampling import N_DRAWS
from geocalc.graphs.neighbors import Graph
from geocalc.graphs.reduction import Rewiring, keep_atoms
from geocalc.graphs.strategies import GraphSettings, estimate_edges, make_graph
from geocalc.graphs.supernodes import Nodes
from geocalc.potentials.network import EnergyModel
from geocalc.train.balance import deal, deal_within
from geocalc.train.recipe import Recipe
from geocalc.train.schedule import Schedule

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Structures that are evaluated together.

    Attributes:
        systems: structures.
        labels: targets; NaN for atoms that are merged to supernodes.
        graph: edges of the network's input.
        levels: (n_systems,) index of the level of theory of each structure.
        draws: (n_systems, N_DRAWS) uniform random numbers for the frames, on the CPU.
        nodes: supernodes that replace atoms; None without supernodes.
    """

    systems: Systems
    labels: BatchLabels
    graph: Graph
    levels: Tensor
    draws: Tensor
    nodes: Nodes | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """Copy the micro-batch to another device."""
        return MicroBatch(
            systems=self.systems.to(device),
            labels=self.labels.to(device),
            graph=self.graph.to(device),
            levels=self.levels.to(device),
            draws=self.draws,
            nodes=None if self.nodes is None else self.nodes.to(device),
        )


Batch = tuple[MicroBatch, ...]  # what one process computes of a step, one part after the other


@dataclass(frozen=True, kw_only=True)
class BatchLoader:
    """Loader of the batches of one process.

    Attributes:
        samples: all samples of the store, training and validation.
        schedule: sample numbers of each step.
        recipe: recipe of the run.
        cutoff: cutoff of the network, Angstrom.
        max_neighbors: largest number of neighbors of an atom; None for no limit.
        graph: graph strategy of the network.
        rewiring: graph rewiring of the network.
        rank: index of this process.
        n_processes: number of processes.
    """

    samples: Samples
    schedule: Schedule
    recipe: Recipe
    cutoff: float
    max_neighbors: int | None
    graph: GraphSettings
    rewiring: Rewiring
    rank: int
    n_processes: int

    def batch(self, step: int) -> Batch:
        """Prepare this process's part of a step, counted from 0."""
        chosen = self.schedule.batch(step)
        balanced = self.recipe.training.balance_by_edges
        sizes = (
            self.samples.sample_index.n_edges[chosen].tolist() if balanced else [1] * len(chosen)
        )
        places = deal(sizes, self.n_processes)[self.rank]
        return self.parts(self.samples.read([chosen[place] for place in places]), places, step)

    def parts(self, samples: Sequence[Sample], places: Sequence[int], step: int) -> Batch:
        """Samples as micro-batches; `places` are theirs in the whole batch, from which their noise
        and frames follow.

        Raises:
            InputError: the network would see nothing of a structure, or no neighbor list can be
                made of it.
        """
        settings = self.recipe.training
        if settings.add_layers_probability:
            samples = add_layers(
                samples,
                settings.add_layers_probability,
                [np.random.default_rng((settings.seed, step, place)) for place in places],
            )
        if settings.noise is not None:
            rngs = [np.random.default_rng((settings.seed, step, place)) for place in places]
            samples = add_noise(samples, settings.noise, rngs)
        generator = torch.Generator().manual_seed((settings.seed << 32) + (step << 8))
        draws = torch.rand(settings.batch_size, N_DRAWS, generator=generator, dtype=torch.float64)[
            list(places)
        ]
        return tuple(
            self._part([samples[k] for k in cut], draws[cut]) for cut in self._cuts(samples)
        )

    def _cuts(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Partition samples into micro-batches with about equal numbers of edges.

        Returns:
            Indices in `samples` of each micro-batch.
        """
        n, limit = (
            min(self.recipe.training.accumulate, len(samples)),
            self.recipe.training.max_edges,
        )
        if n == 1 and limit is None:
            return [list(range(len(samples)))]
        asked = (self.cutoff, self.max_neighbors, self.graph)
        sizes = [
            estimate_edges(sample.positions, sample.cell, sample.pbc, *asked) for sample in samples
        ]
        return deal(sizes, n) if limit is None else deal_within(sizes, n, limit)

    def _part(self, samples: Sequence[Sample], draws: Tensor) -> MicroBatch:
        systems, labels = collate_samples(samples)
        levels, sources = self.recipe.source_levels, self.recipe.data.sources
        learned = torch.tensor([sources[sample.source].energies for sample in samples])
        kept = self.rewiring.atoms(systems)
        systems, forces = keep_atoms(systems, kept), labels.forces[kept]
        nodes = self.rewiring.nodes(systems)
        if nodes is not None:  # merged atoms have no targets of their own
            systems = replace(systems, fixed=systems.fixed | nodes.merged[:, None])
            forces = forces.masked_fill(nodes.merged[:, None], torch.nan)
        seen = systems if nodes is None else nodes.systems
        graph = make_graph(seen, self.cutoff, self.max_neighbors, self.graph)
        return MicroBatch(
            systems=systems,
            labels=BatchLabels(
                energy=torch.where(learned, labels.energy, torch.nan),
                forces=forces,
                displacement=labels.displacement[kept],
            ),
            graph=self.rewiring.edges(graph, seen),
            levels=torch.tensor([levels[sample.source] for sample in samples]),
            draws=draws,
            nodes=nodes,
        )


def batch_loader(
    samples: Samples, recipe: Recipe, model: EnergyModel, fabric: Fabric
) -> BatchLoader:
    """Create the loader of this process."""
    return BatchLoader(
        samples=samples,
        schedule=Schedule(samples.sample_index, recipe),
        recipe=recipe,
        cutoff=model.network.cutoff,
        max_neighbors=model.network.max_neighbors,
        graph=model.graph,
        rewiring=model.rewiring,
        rank=fabric.global_rank,
        n_processes=fabric.world_size,
    )


def batches(loader: BatchLoader, steps: range, workers: int) -> Iterator[tuple[int, Batch]]:
    """Yield steps with their batches.

    Batches are prepared ahead by worker processes, or on request without workers.

    Args:
        loader: loader of this process.
        steps: numbers of the steps.
        workers: number of worker processes.
    Raises:
        InputError: see `BatchLoader.micro_batches`.
        RunFolderError: a worker process was terminated.
    """
    prepared = DataLoader(
        _Steps(loader),
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_they_are,
        generator=torch.Generator(),  # DataLoader draws a seed for its workers, which use none
    )
    ready = iter(prepared)
    for step in steps:
        try:
            found = next(ready)
        except RuntimeError as error:
            if workers and "DataLoader worker" in str(error):
                raise RunFolderError(
                    f"a process that prepares batches died ({error}); continue with --resume,"
                    " perhaps with fewer training.workers"
                ) from None
            raise
        if isinstance(found, GeoCalcError):
            raise found
        yield step, found


class _Steps(Dataset[Batch | GeoCalcError]):
    """Dataset of batches by step.

    Errors are returned instead of raised, since an exception of a worker would arrive as a
    traceback.
    """

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader

    def __getitem__(self, step: int) -> Batch | GeoCalcError:
        try:
            return self._loader.batch(step)
        except GeoCalcError as error:
            return error


def _as_they_are(batch: Any) -> Any:
    return batch
