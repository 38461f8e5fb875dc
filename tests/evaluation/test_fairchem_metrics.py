"""Our metrics give what the evaluator of fairchem-core gives, and differ where we say so.

The record is written by `tests/reference/make_fairchem_metrics.py` (fairchem-core 2.24.0).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from geocalc.evaluation import metrics

RECORD = Path(__file__).parents[1] / "reference" / "fairchem_metrics.npz"
PBC = {"bulk": np.array([True, True, True]), "slab": np.array([True, True, False])}
AGREEMENT = 1e-12
FLOAT32 = 1e-6  # the evaluator computes cosines in single precision


@cache
def record() -> dict[str, np.ndarray]:
    with np.load(RECORD) as stored:
        return dict(stored)


def error(name: str) -> np.ndarray:
    return record()[name] - record()[f"{name}_target"]


def owner() -> np.ndarray:
    return np.repeat(np.arange(len(record()["n_atoms"])), record()["n_atoms"])


def moved(image: Callable[..., np.ndarray], kind: str) -> np.ndarray:
    """Ways from the true to the predicted positions, by one of our conventions, (n_atoms, 3)."""
    cells, of = record()["cell"], owner()
    return np.concatenate(
        [image(error("positions")[of == k], cell, PBC[kind]) for k, cell in enumerate(cells)]
    )


def mean_distances(ways: np.ndarray) -> np.ndarray:
    """Mean over the free atoms of each structure, (n_systems,)."""
    free, of = record()["free"], owner()
    return np.array(
        [
            np.linalg.norm(ways[free & (of == k)], axis=1).mean()
            for k in range(len(record()["n_atoms"]))
        ]
    )


def test_energies_agree() -> None:
    assert metrics.mae(error("energy")) == pytest.approx(record()["told/energy_mae"], abs=AGREEMENT)
    assert metrics.rmse(error("energy")) ** 2 == pytest.approx(
        record()["told/energy_mse"], abs=AGREEMENT
    )
    assert (
        metrics.energy_within_threshold(error("energy")) == record()["told/energy_within_threshold"]
    )
    assert 0.2 < record()["told/energy_within_threshold"] < 0.8


def test_forces_agree() -> None:
    free = record()["free"]
    assert metrics.mae(error("forces")[free]) == pytest.approx(
        record()["told/forces_mae"], abs=AGREEMENT
    )
    cosine = metrics.force_cosine(record()["forces"][free], record()["forces_target"][free])
    assert cosine == pytest.approx(record()["told/forces_cosine_similarity"], abs=FLOAT32)


def test_energies_and_forces_together_agree() -> None:
    largest = metrics.largest_component(error("forces"), record()["free"], record()["n_atoms"])
    share = metrics.energy_forces_within_threshold(error("energy"), largest)
    assert share == record()["told/energy_forces_within_threshold"]
    every = metrics.largest_component(
        error("forces"), np.ones(len(error("forces")), bool), record()["n_atoms"]
    )
    shares = (
        metrics.energy_forces_within_threshold(error("energy"), every),
        metrics.energy_within_threshold(error("energy")),
    )
    assert shares[0] < share < shares[1]  # fixed atoms count for nothing, forces for something


def test_positions_agree() -> None:
    free = record()["free"]
    plain = metrics.position_mae(record()["positions"][free], record()["positions_target"][free])
    assert plain == pytest.approx(record()["told/positions_mae"], abs=AGREEMENT)


@pytest.mark.parametrize("kind", PBC)
def test_distances_agree_by_their_convention(kind: str) -> None:
    ways, theirs = moved(metrics.fractional_minimum_image, kind), record()[f"told/min_diff/{kind}"]
    same = slice(None) if kind == "bulk" else slice(-1)
    np.testing.assert_allclose(ways[same], theirs[same], rtol=0.0, atol=1e-11)
    share = metrics.average_distance_within_threshold(mean_distances(ways))
    assert share == pytest.approx(
        record()[f"told/average_distance_within_threshold/{kind}"], abs=AGREEMENT
    )


def test_an_atom_that_leaves_a_slab_is_not_taken_back() -> None:
    """Theirs takes off a cell where a fraction is above a half, on axes that are not periodic too,
    but puts none on below.
    """
    ours, theirs = (
        moved(metrics.fractional_minimum_image, "slab")[-1],
        record()["told/min_diff/slab"][-1],
    )
    np.testing.assert_allclose(ours - theirs, record()["cell"][-1, 2], rtol=0.0, atol=1e-11)
    assert np.linalg.norm(ours) > 10.0 > np.linalg.norm(theirs)


@pytest.mark.parametrize("kind", PBC)
def test_the_true_minimum_image_is_shorter_in_skewed_cells_only(kind: str) -> None:
    """Theirs rounds fractions, which is the nearest image where the cell is nearly orthogonal, and
    may not be elsewhere.
    """
    true, rounded = (
        np.linalg.norm(moved(f, kind), axis=1)
        for f in (metrics.minimum_image, metrics.fractional_minimum_image)
    )
    skewed = owner() % 2 == 1
    assert (true <= rounded + AGREEMENT).all()
    shorter = true < rounded - 1e-6
    assert shorter[skewed].sum() >= 3
    assert not shorter[~skewed].any()
