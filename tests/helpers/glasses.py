"""Configurations of a made-up glass, and recipes of networks that learn from them in a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.spatial import cKDTree

from geocalc.properties.glass.configuration import GlassConfiguration, write_configuration
from geocalc.properties.recipe import PropertyRecipe, read_property_recipe

SIDE, DENSITY, CUTOFF = 5, 1.2, 1.3  # particles along an edge of the box; of sigma_AA^-3; of edges
NAMES = ("g0", "g1", "g2", "g3", "g4", "g5")


def glass(seed: int, n_times: int = 1) -> GlassConfiguration:
    """125 particles on a shaken lattice, a fifth of them B; the propensity grows with the
    neighbors and is larger for B.
    """
    rng = np.random.default_rng(seed)
    n, length = SIDE**3, SIDE / DENSITY ** (1 / 3)
    lattice = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = length / SIDE * (lattice + rng.uniform(-0.2, 0.2, (n, 3)))
    types = (rng.permutation(n) < n // 5).astype(np.int64)
    tree = cKDTree(positions % length, boxsize=length)
    neighbors = np.array(
        [len(found) - 1 for found in tree.query_ball_point(positions % length, CUTOFF)]
    )
    propensity = np.stack([(k + 1) * (0.1 * neighbors + types) + 0.3 * k for k in range(n_times)])
    times, box = 10.0 ** np.arange(n_times), np.full(3, length)
    return GlassConfiguration(
        name=f"g{seed}",
        positions=positions,
        types=types,
        box=box,
        times=times,
        propensity=propensity,
    )


def write_glasses(folder: Path, names: Sequence[str] = NAMES, n_times: int = 1) -> Path:
    """A file for each name, whose number is the seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_configuration(folder / f"{name}.npz", glass(int(name[1:]), n_times))
    return folder


def recipe_values(folder: Path, **training: Any) -> dict[str, Any]:
    """Values of a recipe: 12 steps of a tiny network, changed by `training`."""
    return {
        "name": "tiny-glass",
        "task": "node",
        "about": {
            "target": "propensity",
            "unit": "sigma_AA",
            "domain": "tests",
            "data": ["made up"],
            "limits": ["no physics"],
            "citation": ["A. Author, J. Tests 1, 1 (2026)"],
        },
        "model": {
            "architecture": "graph-network",
            "settings": {"hidden_channels": 8, "num_layers": 1},
        },
        "data": {
            "kind": "glass",
            "folder": str(folder),
            "validation": ["g4"],
            "test": ["g5"],
            "graph": {"cutoff": CUTOFF},
        },
        "training": {
            "steps": 12,
            "learning_rate": 0.003,
            "log_every": 1,
            "evaluate_every": 6,
            "checkpoint_every": 3,
            "ema_decay": 0.9,
            **training,
        },
    }


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    """A recipe file."""
    path.write_text(yaml.safe_dump(values))
    return path


def make_recipe(folder: Path, **training: Any) -> PropertyRecipe:
    """The recipe of `recipe_values`, read from a file beside the configurations."""
    return read_property_recipe(
        write_recipe(folder / "recipe.yaml", recipe_values(folder, **training))
    )
