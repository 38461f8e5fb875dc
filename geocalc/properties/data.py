"""Graphs of a recipe's data, split into training and validation sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geocalc.data.read import locate
from geocalc.errors import InputError
from geocalc.properties.glass.configuration import GlassConfiguration, read_configuration
from geocalc.properties.glass_graphs import sample_of
from geocalc.properties.recipe import GlassData, ZincData
from geocalc.properties.samples import GraphSample
from geocalc.properties.zinc import MoleculeGraph, read_zinc


@dataclass(frozen=True)
class Split:
    """Training and validation samples."""

    training: tuple[GraphSample, ...]
    validation: tuple[GraphSample, ...]


def read_split(data: GlassData | ZincData, folder: Path) -> Split:
    """Read the training and validation graphs of a recipe.

    Args:
        data: data section of a recipe.
        folder: folder for quantities computed from configurations.
    Raises:
        InputError: a file is missing or damaged, a set is empty, or targets differ in number or are
            constant.
    """
    split = _zinc(data) if isinstance(data, ZincData) else _glass(data, folder)
    held_out = torch.cat([sample.targets[sample.counted] for sample in split.validation])
    flat = [k for k, column in enumerate(held_out.unbind(1)) if bool((column == column[0]).all())]
    if flat:
        raise InputError(
            f"target {flat[0]} is the same in all that is held out, so nothing can be judged by it;"
            " hold out more"
        )
    return split


def read_test(data: GlassData, folder: Path) -> tuple[GraphSample, ...]:
    """Read the test configurations.

    Raises:
        InputError: there are none, or one is missing or damaged.
    """
    if not data.test:
        raise InputError("the recipe keeps no configuration for the test; name them in data.test")
    return _samples(data, data.test, folder)


def configurations(data: GlassData, names: Iterable[str]) -> list[GlassConfiguration]:
    """Read configurations by name.

    Raises:
        InputError: one is missing or damaged; the message lists the existing ones.
    """
    place, found = locate(data.folder), []
    for name in names:
        if not (place / f"{name}.npz").is_file():
            there = ", ".join(sorted(path.stem for path in place.glob("*.npz"))) or "no npz file"
            raise InputError(f"{place} has no {name}.npz; it has {there}")
        found.append(read_configuration(place / f"{name}.npz"))
    return found


def _glass(data: GlassData, folder: Path) -> Split:
    elsewhere = {*data.validation, *data.test}
    names = data.training or tuple(
        path.stem
        for path in sorted(locate(data.folder).glob("*.npz"))
        if path.stem not in elsewhere
    )
    sides = Counter(name for side in (names, data.validation, data.test) for name in set(side))
    both = sorted(name for name, n in sides.items() if n > 1)
    if both or not names:
        said = (
            f"{', '.join(both)}: on two sides of the split"
            if both
            else "no configuration is left to learn from"
        )
        raise InputError(f"{said}; correct data.training, data.validation and data.test")
    split = Split(_samples(data, names, folder), _samples(data, data.validation, folder))
    first, *others = (*split.training, *split.validation)
    for other in others:
        if other.targets.shape[1] != first.targets.shape[1]:
            told = " and ".join(f"{one.name} at {one.targets.shape[1]}" for one in (first, other))
            raise InputError(
                f"propensities of {told} times cannot be learned together; name those that all have"
                " in data.times"
            )
    return split


def _samples(data: GlassData, names: Sequence[str], folder: Path) -> tuple[GraphSample, ...]:
    return tuple(
        sample_of(configuration, data, folder) for configuration in configurations(data, names)
    )


def _zinc(data: ZincData) -> Split:
    path = locate(data.path)
    graphs = [
        (part, k, graph) for part in data.parts for k, graph in enumerate(read_zinc(path, part))
    ]
    folds = np.random.default_rng(data.shuffle).permutation(len(graphs)) % data.folds
    samples = [_molecule(f"{part}-{k}", graph) for part, k, graph in graphs]
    training = tuple(
        sample for sample, fold in zip(samples, folds, strict=True) if fold != data.fold
    )
    validation = tuple(
        sample for sample, fold in zip(samples, folds, strict=True) if fold == data.fold
    )
    if not training or not validation:
        raise InputError(
            f"{path} has {len(samples)} molecules, too few for {data.folds} folds; choose fewer"
        )
    return Split(training, validation)


def _molecule(name: str, graph: MoleculeGraph) -> GraphSample:
    senders, receivers = graph.edge_index
    order = torch.argsort(receivers, stable=True)
    return GraphSample(
        name=name,
        types=graph.types,
        senders=senders[order],
        receivers=receivers[order],
        targets=torch.tensor([[graph.target]], dtype=torch.float32),
        counted=torch.ones(1, dtype=torch.bool),
    )
