"""Graphs of glass configurations, with inherent structures cached on disk."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from geocalc.errors import InputError, RunFolderError
from geocalc.properties.glass.configuration import GlassConfiguration
from geocalc.properties.glass.inherent import inherent_structure
from geocalc.properties.glass.neighborhood import Neighborhood, build_neighborhood
from geocalc.properties.recipe import GlassData, GlassGraph, Structure
from geocalc.properties.samples import GraphSample
from geocalc.relaxation.status import Status

log = logging.getLogger(__name__)


def glass_graph(
    configuration: GlassConfiguration, graph: GlassGraph, folder: Path | None
) -> Neighborhood:
    """Build the edges of a configuration.

    Args:
        configuration: thermal configuration.
        graph: structure, cutoff and self-loops of the graph.
        folder: cache of inherent structures, or None.
    Raises:
        InputError: the cutoff does not fit the box, or the minimization does not converge.
    """
    configuration = replace(configuration, positions=graph_positions(configuration, graph, folder))
    return build_neighborhood(configuration, graph.cutoff, graph.self_loops)


def graph_positions(
    configuration: GlassConfiguration, graph: GlassGraph, folder: Path | None
) -> np.ndarray:
    """Return the positions (n, 3) that define the edges: thermal or of the inherent structure.

    Arguments and errors are those of `glass_graph`.
    """
    return (
        _inherent(configuration, folder)
        if graph.structure is Structure.INHERENT
        else configuration.positions
    )


def sample_of(configuration: GlassConfiguration, data: GlassData, folder: Path) -> GraphSample:
    """Build the graph of a configuration with its propensities as targets.

    Args:
        configuration: thermal configuration.
        data: graph, times and evaluated types of the recipe.
        folder: cache of inherent structures.
    Raises:
        InputError: see `glass_graph`; also if a requested time does not exist, or no particle has
            an evaluated type.
    """
    n_times = len(configuration.propensity)
    missing = [k for k in data.times if not 0 <= k < n_times]
    if missing:
        raise InputError(
            f"{configuration.name} has propensities at {n_times} times, so data.times cannot name"
            f" {missing[0]}"
        )
    if not np.isin(configuration.types, data.counted).any():
        raise InputError(
            f"{configuration.name} has no particle of the types {list(data.counted)}; correct"
            " data.counted"
        )
    rows = list(data.times) if data.times else list(range(n_times))
    targets = torch.from_numpy(configuration.propensity[rows].T.astype(np.float32))
    return labeled(
        configuration, glass_graph(configuration, data.graph, folder), targets, data.counted
    )


def labeled(
    configuration: GlassConfiguration,
    edges: Neighborhood,
    targets: torch.Tensor,
    counted: Sequence[int],
) -> GraphSample:
    """Build a sample from edges and targets.

    Args:
        configuration: name and types of the particles.
        edges: edges of the configuration.
        targets: (n, n_targets).
        counted: types of the particles that enter the loss and the errors.
    """
    types = torch.from_numpy(configuration.types)
    return GraphSample(
        name=configuration.name,
        types=types,
        senders=edges.senders,
        receivers=edges.receivers,
        edge_vec=edges.edge_vec.float(),
        targets=targets,
        counted=torch.isin(types, torch.tensor(list(counted))),
    )


def _inherent(configuration: GlassConfiguration, folder: Path | None) -> np.ndarray:
    """Return the positions of the inherent structure; with a folder they are computed only once."""
    if folder is None:
        return _minimum(configuration)
    content = b"".join(
        np.ascontiguousarray(x).tobytes()
        for x in (configuration.positions, configuration.types, configuration.box)
    )
    path = folder / f"inherent-{hashlib.sha256(content).hexdigest()[:16]}.npy"
    kept = _kept(path)
    if kept is not None:
        return kept
    positions = _minimum(configuration)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.npy")
        np.save(part, positions)
        part.replace(path)
    except OSError as error:
        raise RunFolderError(
            f"cannot keep inherent structures in {folder}: {error.strerror or error}"
        ) from None
    return positions


def _kept(path: Path) -> np.ndarray | None:
    """Read a cached array; None if it is missing or damaged."""
    try:
        return np.asarray(np.load(path))
    except (OSError, ValueError, EOFError):
        return None


def _minimum(configuration: GlassConfiguration) -> np.ndarray:
    found = inherent_structure(configuration)
    if found.status is not Status.CONVERGED:
        raise InputError(
            f"no minimum was found near {configuration.name}: {found.n_steps} steps left a force of"
            f" {found.fmax:.2g}"
        )
    log.info("%s: inherent structure after %d steps", configuration.name, found.n_steps)
    return found.positions
