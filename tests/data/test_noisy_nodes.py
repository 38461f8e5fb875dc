"""Noisy Nodes: what the network receives is the disturbed structure, with edges and frames of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from data.test_pairs import values_of
from helpers.training import cpu_fabric
from torch import Tensor

from geocalc.architectures.base import Network, NetworkInput, NetworkOutput
from geocalc.core.systems import Systems
from geocalc.data.augment import add_noise
from geocalc.data.collate import collate_samples
from geocalc.data.prepare import prepare_store
from geocalc.data.settings import Noise
from geocalc.data.store import Sample, read_store
from geocalc.errors import RecipeError
from geocalc.frames import frame_policy, make_frames
from geocalc.graphs.neighbors import Graph, build_graph, edge_vectors
from geocalc.potentials.network import ForceMode, evaluate
from geocalc.train.loader import BatchLoader, batch_loader
from geocalc.train.recipe import Recipe, parse_recipe
from geocalc.train.run import Run, start_training

POLICY = "pca-2d-one"


@dataclass
class Listener:
    """Remembers what a network is given."""

    network: Network
    seen: list[NetworkInput] = field(default_factory=list)

    def listen(self) -> None:
        forward = self.network.forward

        def heard(inputs: NetworkInput) -> NetworkOutput:
            self.seen.append(inputs)
            return forward(inputs)

        self.network.forward = heard  # type: ignore[method-assign]


def recipe_with(folder: Path, noise: dict | None, **training: object) -> Recipe:
    values = values_of(folder, frames=POLICY, batch_size=8, **training)
    values["training"]["noise"] = noise
    values["model"] |= {"drop_subsurface": False, "adsorbate_edges": False}
    return parse_recipe(values, "test")


def begun(folder: Path, recipe: Recipe) -> tuple[Run, BatchLoader]:
    samples = read_store(prepare_store(recipe, folder / "data"))
    run = start_training(recipe, samples.training)
    return run, batch_loader(samples, recipe, run.model, cpu_fabric())


def received(folder: Path, noise: dict | None) -> tuple[NetworkInput, Systems, Graph]:
    """What the network gets in the first step, and the structures and edges of that step."""
    run, loader = begun(folder, recipe_with(folder, noise))
    listener = Listener(run.model.network)
    listener.listen()
    (part,) = loader.batch(0)
    evaluate(
        run.model,
        part.systems,
        part.graph,
        part.levels,
        frame_policy(POLICY),
        ForceMode.NONE,
        training=True,
        generator=part.draws,
    )
    (inputs,) = listener.seen
    return inputs, part.systems, part.graph


def in_frames(systems: Systems, graph: Graph) -> Tensor:
    """Edge vectors in the frames of the structures as they are."""
    vectors = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    frames = make_frames(
        systems.positions, systems.cell, systems, graph, vectors, frame_policy(POLICY)
    )
    assert len(frames.rotations) == systems.n_systems
    return torch.einsum(
        "ei,eij->ej", vectors, frames.rotations[systems.system_idx[graph.receivers]]
    )


def test_the_network_receives_the_noise(tmp_path: Path) -> None:
    noisy, systems, _ = received(tmp_path, {"probability": 1.0, "sigma": 0.2})
    plain, still, _ = received(tmp_path, None)
    moved = (systems.positions - still.positions).abs()
    assert (moved[~systems.fixed] > 0).all()
    assert moved[systems.fixed].max() == 0
    assert float(moved[~systems.fixed].mean()) > 0.1  # Angstrom
    assert noisy.edge_vec.shape != plain.edge_vec.shape or not torch.allclose(
        noisy.edge_vec, plain.edge_vec
    )


def test_edges_and_frames_are_those_of_the_disturbed_structure(tmp_path: Path) -> None:
    inputs, systems, graph = received(tmp_path, {"probability": 1.0, "sigma": 0.2})
    anew = build_graph(systems, recipe_with(tmp_path, None).model.settings["cutoff"])
    assert torch.equal(anew.senders, graph.senders)
    assert torch.equal(anew.shifts, graph.shifts)
    expected = in_frames(systems, graph).to(inputs.edge_vec)
    assert torch.equal(inputs.edge_vec, expected)


def read_as_published(sample: Sample, noise: Noise, seed: int) -> tuple[Tensor, np.ndarray]:
    """Input and target of the published data set: the pose is part of the transform, and the noise
    comes after the transform.
    """
    pose = pose_of(sample)
    (noisy,) = add_noise([sample], noise, [np.random.default_rng(seed)])
    return pose, noisy.relaxed - noisy.positions


def pose_of(sample: Sample) -> Tensor:
    systems, _ = collate_samples([sample])
    return in_frames(systems, build_graph(systems, 4.0))


def test_noise_after_the_frames_never_reached_the_network(tmp_path: Path) -> None:
    sample = begun(tmp_path, recipe_with(tmp_path, None))[1].samples[0]
    quiet, loud = Noise(probability=0.0), Noise(probability=1.0, sigma=0.3)
    plain, noisy = read_as_published(sample, quiet, 0), read_as_published(sample, loud, 0)
    assert np.abs(noisy[1] - plain[1]).max() > 0.3  # Angstrom: the target moves ...
    assert torch.equal(noisy[0], plain[0])  # ... and the input does not
    (ours,) = add_noise([sample], loud, [np.random.default_rng(0)])
    shorter = min(len(pose_of(ours)), len(plain[0]))
    assert float((pose_of(ours)[:shorter] - plain[0][:shorter]).abs().max()) > 0.3


def test_targets_are_what_is_left_of_the_way(tmp_path: Path) -> None:
    _, loader = begun(tmp_path, recipe_with(tmp_path, {"probability": 1.0, "sigma": 0.2}))
    (part,) = loader.batch(0)
    quiet_run, quiet = begun(tmp_path, recipe_with(tmp_path, None))
    (still,) = quiet.batch(0)
    free = ~part.systems.fixed.all(1)
    ends = part.systems.positions + part.labels.displacement
    assert torch.allclose(
        ends[free], (still.systems.positions + still.labels.displacement)[free], atol=1e-12
    )
    assert quiet_run.model.displaces


def test_noise_without_interpolation_has_its_width_alone(tmp_path: Path) -> None:
    _, loader = begun(tmp_path, recipe_with(tmp_path, None))
    sample = loader.samples[0]
    moves = []
    for k in range(200):
        (one,) = add_noise(
            [sample],
            Noise(probability=1.0, sigma=0.1, interpolate=False),
            [np.random.default_rng(k)],
        )
        moves.append((one.positions - sample.positions)[~sample.fixed])
    assert abs(np.mean(moves)) < 0.01
    assert np.std(moves) == pytest.approx(0.1, rel=0.05)


def test_the_weight_of_displacements_goes_along_a_line(tmp_path: Path) -> None:
    training = recipe_with(
        tmp_path, None, steps=11, displacement_weight=15.0, displacement_weight_end=1.0
    ).training
    assert [training.displacement_weight_at(k) for k in (0, 5, 10)] == [15.0, 8.0, 1.0]
    assert (
        recipe_with(tmp_path, None, displacement_weight=3.0).training.displacement_weight_at(7)
        == 3.0
    )
    with pytest.raises(
        RecipeError, match=r"displacement_weight_end is where displacement_weight goes"
    ):
        recipe_with(tmp_path, None, displacement_weight=0.0, displacement_weight_end=1.0)
