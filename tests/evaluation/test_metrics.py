"""Metrics against what their definitions say by hand; those that others compute too are in
test_fairchem_metrics.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from helpers.structures import rattled

from geocalc.core.systems import Prediction, Systems
from geocalc.data.prepare import ReferenceRelaxation
from geocalc.data.store import Sample
from geocalc.errors import InputError
from geocalc.evaluation import metrics
from geocalc.evaluation.relaxations import reference_forces_below, relaxed_pair, summarize
from geocalc.evaluation.single_points import Predictions, errors_of
from geocalc.optim import make_optimizer
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.loop import relax_systems
from geocalc.structures.convert import from_atoms

SKEWED = np.array([[4.0, 0.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 15.0]])
SLAB = np.array([True, True, False])
REFERENCE = AsePotential(calculator=EMT())


def test_thresholds_are_strict() -> None:
    assert metrics.energy_within_threshold(np.array([0.0, -0.0199, 0.02, 0.3])) == 0.5
    assert (
        metrics.energy_forces_within_threshold(
            np.array([0.0, 0.0, 0.0, 0.02]), np.array([0.0, 0.0299, 0.03, 0.0])
        )
        == 0.5
    )
    assert metrics.distance_within_threshold(np.array([0.1, 0.0999]), 0.1) == 0.5
    assert metrics.forces_below_threshold(np.array([0.05, 0.0499])) == 0.5


def test_averages_run_over_the_thresholds_they_name() -> None:
    assert len(metrics.DISTANCE_THRESHOLDS) == 490
    assert metrics.DISTANCE_THRESHOLDS[[0, -1]] == pytest.approx([0.010, 0.499])
    assert metrics.average_distance_within_threshold(np.array([0.0])) == 1.0
    assert metrics.average_distance_within_threshold(np.array([0.0095, 0.4995])) == 0.5
    # 0.101 to 0.499
    assert metrics.average_distance_within_threshold(np.array([0.1005])) == 399 / 490
    assert metrics.RELAXED_THRESHOLDS[[0, -1]] == pytest.approx([0.010, 0.400])
    assert len(metrics.RELAXED_THRESHOLDS) == 391
    assert metrics.average_forces_below_threshold(np.array([0.0, 0.4])) == 0.5
    assert metrics.average_forces_below_threshold(np.array([0.3005])) == 100 / 391  # 0.301 to 0.400


def test_a_force_that_is_no_number_is_not_below() -> None:
    fmax = np.array([0.0, np.nan])
    assert (
        metrics.forces_below_threshold(fmax) == metrics.average_forces_below_threshold(fmax) == 0.5
    )


def test_the_largest_component_is_that_of_free_atoms_in_each_structure() -> None:
    error = np.array([[0.1, -0.4, 0.2], [5.0, 5.0, 5.0], [0.0, 0.0, 0.3], [9.0, 0.0, 0.0]])
    largest = metrics.largest_component(
        error, np.array([True, False, True, False]), np.array([2, 1, 1])
    )
    np.testing.assert_array_equal(largest, [0.4, 0.3, 0.0])


def test_a_lattice_vector_is_no_way_at_all() -> None:
    whole = np.array([[1, -2, 0], [0, 3, 0]]) @ SKEWED
    assert metrics.position_mae(whole, np.zeros((2, 3))) > 1.0
    assert metrics.position_mae_minimum_image(
        whole, np.zeros((2, 3)), SKEWED, SLAB
    ) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(
        metrics.fractional_minimum_image(whole, SKEWED, SLAB), 0.0, atol=1e-12
    )
    across = SKEWED[2:]
    for image in (metrics.minimum_image, metrics.fractional_minimum_image):
        np.testing.assert_allclose(image(across, SKEWED, SLAB), across)
        np.testing.assert_array_equal(image(across, SKEWED, np.zeros(3, bool)), across)


def test_the_nearest_image_of_a_skewed_cell_is_not_that_of_the_nearest_fractions() -> None:
    way = 0.45 * (SKEWED[0] - SKEWED[1])[None]  # fractions 0.45 and -0.45; Angstrom 0.45 and -0.9
    np.testing.assert_allclose(metrics.minimum_image(way, SKEWED, SLAB), way, atol=1e-12)
    further = 0.45 * (SKEWED[0] + SKEWED[1])[None]
    np.testing.assert_allclose(
        metrics.fractional_minimum_image(further, SKEWED, SLAB), further, atol=1e-12
    )
    np.testing.assert_allclose(
        metrics.minimum_image(further, SKEWED, SLAB), further - SKEWED[1], atol=1e-12
    )


def test_a_slab_without_a_third_vector_has_images_too() -> None:
    cell = SKEWED * [[1.0], [1.0], [0.0]]
    way = SKEWED[:1] + [[0.1, 0.2, 3.0]]
    for image in (metrics.minimum_image, metrics.fractional_minimum_image):
        np.testing.assert_allclose(image(way, cell, SLAB), [[0.1, 0.2, 3.0]], atol=1e-12)


def predictions(energy: list[float], forces: np.ndarray) -> Predictions:
    """Two structures of two and one atoms, the second atom fixed, beside zeros."""
    free = np.array([True, False, True])
    zero = np.zeros(2), np.zeros((3, 3))
    return Predictions(
        energy=np.array(energy),
        energy_reference=zero[0],
        n_atoms=np.array([2, 1]),
        forces=forces,
        forces_reference=zero[1],
        free=free,
    )


@pytest.mark.parametrize(
    ("energy", "force", "share"),
    [
        ([0.01, -0.01], 0.0, 1.0),
        ([0.01, 0.05], 0.0, 0.5),
        ([0.01, 0.01], 0.04, 0.5),
        ([0.05, 0.01], 0.04, 0.0),
    ],
)
def test_errors_of_frames_hold_the_share_within_both_thresholds(
    energy: list[float], force: float, share: float
) -> None:
    forces = np.array([[0.0, 0.0, 0.029], [7.0, 0.0, 0.0], [0.0, -force, 0.0]])
    assert errors_of(predictions(energy, forces)).efwt == share


def test_without_energies_there_is_no_share() -> None:
    assert math.isnan(errors_of(predictions([math.nan, 0.0], np.zeros((3, 3)))).efwt)


def sample(positions: np.ndarray, frame: int) -> Sample:
    """Two free atoms and a fixed one in a skewed slab."""
    return Sample(
        numbers=np.array([8, 6, 29]),
        tags=np.array([2, 2, 0]),
        positions=positions,
        forces=np.zeros((3, 3)),
        relaxed=np.full((3, 3), np.nan),
        fixed=np.array([[False], [False], [True]]).repeat(3, 1),
        cell=SKEWED,
        pbc=SLAB,
        energy=-1.0,
        group="r",
        image=frame,
        source=0,
        validation=True,
    )


def test_relaxed_geometries_are_compared_with_and_without_minimum_image() -> None:
    last = np.array([[0.0, 0.0, 5.0], [1.0, 1.0, 6.0], [0.0, 0.0, 0.0]])
    reference = ReferenceRelaxation(images=(sample(last + [0.3, 0.0, 0.4], 0), sample(last, 1)))
    near, far = last + [[0.0, 0.0, 0.09], [0.0, 0.0, 0.09], [0.0, 0.0, 7.0]], last + [0.0, 0.0, 0.2]
    near[0] += SKEWED[0]
    pairs = [
        relaxed_pair(
            reference, p, energy=-0.99, status="CONVERGED", n_evaluations=1, at_reference=-1.0
        )
        for p in (near, far)
    ]
    np.testing.assert_allclose(
        [pairs[0].distance, pairs[0].null_distance, pairs[1].distance], [0.09, 0.5, 0.2], atol=1e-12
    )
    assert pairs[0].position_mae == pytest.approx((4.0 + 2 * 0.09) / 6)
    assert pairs[0].position_mae_mic == pytest.approx(2 * 0.09 / 6)
    errors = summarize(pairs)
    assert (errors.dwt_0p1, errors.within_0p02) == (0.5, 1.0)
    assert errors.position_mae_mic == pytest.approx((0.03 + 0.2 / 3) / 2)
    # thresholds above 0.09 and above 0.2
    assert errors.adwt == pytest.approx((410 + 300) / 2 / 490, abs=2 / 490)


def relaxable(seed: int) -> Systems:
    slab = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.set_constraint(FixAtoms(range(4)))
    slab.set_tags([0] * 4 + [1] * 4 + [2])
    return from_atoms(rattled(slab, 0.1, seed))


def test_what_the_reference_relaxed_itself_is_relaxed_for_it() -> None:
    ended = relax_systems(relaxable(0), REFERENCE, make_optimizer("bfgs"), fmax=0.03)
    found = reference_forces_below(ended, REFERENCE)
    assert (found.n, found.fbt) == (1, 1.0)
    assert found.fmax_mean == found.fmax_median == pytest.approx(ended[0].fmax, abs=1e-12)
    assert found.afbt == np.mean(ended[0].fmax < metrics.RELAXED_THRESHOLDS)

    started = relax_systems(relaxable(1), REFERENCE, make_optimizer("bfgs"), fmax=1e3)
    both = reference_forces_below([*ended, *started], REFERENCE)
    assert (both.n, both.fbt) == (2, 0.5)
    assert both.afbt == found.afbt / 2


def test_a_reference_without_forces_is_refused() -> None:
    ended = relax_systems(relaxable(0), REFERENCE, make_optimizer("bfgs"), fmax=1e3)

    def silent(systems: Systems) -> Prediction:
        return Prediction(energy=torch.zeros(systems.n_systems, dtype=torch.float64))

    with pytest.raises(InputError, match="the reference potential gave no forces"):
        reference_forces_below(ended, silent)
    with pytest.raises(InputError, match="no relaxations were given"):
        reference_forces_below([], REFERENCE)
