from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.constraints import FixAtoms, FixCartesian
from helpers.structures import adslab, systems_of
from helpers.training import make_recipe, relaxation

from geocalc.core.systems import Prediction, Systems, free_atoms
from geocalc.data.collate import BatchLabels, collate_samples
from geocalc.data.store import Sample
from geocalc.errors import RecipeError
from geocalc.evaluation.is2re import pair_errors, pair_predictions
from geocalc.structures.convert import from_atoms
from geocalc.train.loss import disagreement, loss, pair_loss
from geocalc.train.references import fit_scales
from geocalc.train.settings import Training


def settings(**weights: float) -> Training:
    return make_recipe(
        Path("d"), **({"energy_weight": 0.0, "force_weight": 0.0} | weights)
    ).training


@pytest.fixture
def case():
    """Two slabs of nine atoms, the lower layers fixed: errors of 0.5 and 1.5 eV, and of (0.3, 0,
    0.4) eV/A on every atom.
    """
    systems = systems_of(adslab("O", size=(2, 2, 2)), adslab("O", size=(2, 2, 2)))
    systems = replace(systems, fixed=(systems.tags == 0)[:, None].expand(-1, 3).clone())
    labels = BatchLabels(
        energy=torch.tensor([1.0, 2.0]).double(),
        forces=torch.ones(18, 3).double(),
        displacement=torch.zeros(18, 3),
    )
    error = torch.tensor([0.3, 0.0, 0.4]).double()
    prediction = Prediction(
        energy=labels.energy + torch.tensor([0.5, -1.5]).double(), forces=labels.forces + error
    )
    return systems, labels, prediction


def test_the_energy_term_is_the_mean_absolute_error_in_units_of_the_scale(case):
    systems, labels, prediction = case
    found = loss(prediction, None, systems, labels, settings(energy_weight=2.0), scale=4.0)
    assert float(found.total) == pytest.approx(2.0 * 1.0 / 4.0)
    assert float(found.energy) == pytest.approx(1.0)


def test_the_force_term_is_the_mean_norm_of_the_error(case):
    systems, labels, prediction = case
    found = loss(prediction, None, systems, labels, settings(force_weight=3.0), scale=2.0)
    assert float(found.total) == pytest.approx(3.0 * 0.5 / 2.0)
    assert float(found.vectors) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(0.0, 0.5), (1.0, 4 * 2.0 / 9 + 5 * 0.5 / 9), (0.25, (1 * 2.0 + 5 * 0.5) / 6)],
)
def test_fixed_atoms_count_as_much_as_they_are_told_to(case, weight, expected):
    systems, labels, prediction = case
    wrong = prediction.forces.clone()
    wrong[systems.fixed.all(1)] = (
        labels.forces[systems.fixed.all(1)] + torch.tensor([0.0, 2.0, 0.0]).double()
    )
    chosen = settings(force_weight=1.0, fixed_force_weight=weight)
    found = loss(replace(prediction, forces=wrong), None, systems, labels, chosen, scale=1.0)
    assert float(found.total) == pytest.approx(expected)


def test_predictions_under_two_frames_are_compared_as_the_losses_weigh_them(case):
    systems, labels, prediction = case
    other = replace(
        prediction,
        energy=prediction.energy + torch.tensor([0.2, -0.4]).double(),
        forces=prediction.forces + torch.tensor([0.0, 0.3, 0.4]).double(),
    )
    chosen = settings(energy_weight=2.0, force_weight=3.0)
    apart = disagreement(prediction, other, systems, labels, chosen, scale=4.0)
    assert float(apart) == pytest.approx((2.0 * 0.3 + 3.0 * 0.5) / 4.0)
    same = disagreement(prediction, prediction, systems, labels, chosen, scale=4.0)
    assert float(same) == pytest.approx(0.0, abs=1e-5)


def test_a_batch_of_fixed_atoms_alone_is_a_number(case):
    systems, labels, prediction = case
    systems = replace(systems, fixed=torch.ones_like(systems.fixed))
    found = loss(
        prediction,
        None,
        systems,
        labels,
        settings(force_weight=1.0, fixed_force_weight=0.0),
        scale=1.0,
    )
    assert float(found.total) == 0.0


def test_the_gradient_of_the_force_term_is_finite_where_the_error_is_zero(case):
    systems, labels, prediction = case
    forces = labels.forces.clone().requires_grad_()
    loss(
        replace(prediction, forces=forces),
        None,
        systems,
        labels,
        settings(force_weight=1.0),
        scale=1.0,
    ).total.backward()
    assert forces.grad.isfinite().all()


def test_direct_forces_have_their_own_term_and_are_the_ones_reported(case):
    systems, labels, prediction = case
    direct = labels.forces + torch.tensor([0.0, 0.6, 0.8]).double()
    chosen = settings(direct_force_weight=2.0)
    found = loss(replace(prediction, forces=None), direct, systems, labels, chosen, scale=1.0)
    assert float(found.total) == pytest.approx(2.0)
    assert float(found.vectors) == pytest.approx(1.0)


def test_the_gradient_target_pulls_the_head_and_never_the_gradient(case):
    systems, labels, prediction = case
    gradient = prediction.forces.clone().requires_grad_()
    direct = (prediction.forces + torch.tensor([0.0, 0.6, 0.8]).double()).requires_grad_()
    chosen = settings(gradient_target_weight=0.5)
    found = loss(replace(prediction, forces=gradient), direct, systems, labels, chosen, scale=1.0)
    assert float(found.total.detach()) == pytest.approx(0.5)
    found.total.backward()
    assert direct.grad.abs().max() > 0
    assert gradient.grad is None or not gradient.grad.any()


def test_the_substrate_term_holds_shares_below_the_surface_and_of_clean_slabs_at_zero(case):
    _, _, prediction = case
    systems = systems_of(adslab("O", size=(2, 2, 2)), adslab("", size=(2, 2, 2)))
    labels = BatchLabels(
        energy=prediction.energy,
        forces=torch.zeros(17, 3).double(),
        displacement=torch.zeros(17, 3),
    )
    shares = torch.where(
        systems.tags == 2, 100.0, torch.where(systems.tags == 1, 10.0, 1.0)
    ).double()
    told = replace(prediction, forces=None, atom_energies=shares)
    found = loss(
        told, None, systems, labels, settings(energy_weight=0.0, substrate_weight=1.0), scale=1.0
    )
    below, clean = 4 * [1.0], 4 * [1.0] + 4 * [10.0]
    assert float(found.total) == pytest.approx(np.mean(below + clean))
    with pytest.raises(RecipeError, match="substrate_weight"):
        loss(
            replace(told, atom_energies=None),
            None,
            systems,
            labels,
            settings(substrate_weight=1.0),
            scale=1.0,
        )


def with_energies(energy_of) -> list[Sample]:
    found = []
    for n in range(4):
        atoms = relaxation("a", n_frames=1)[0][: 5 + n]
        if n == 3:
            atoms.numbers[:2] = 8
        found.append(
            Sample(
                numbers=atoms.numbers.astype(np.int64),
                tags=atoms.get_tags(),
                positions=atoms.positions,
                forces=np.zeros((len(atoms), 3)),
                relaxed=atoms.positions,
                fixed=np.zeros((len(atoms), 3), dtype=bool),
                cell=np.array(atoms.cell),
                pbc=atoms.pbc,
                energy=energy_of(atoms, n),
                group=str(n),
                image=0,
                source=0,
                validation=False,
            )
        )
    return found


def test_references_are_found_where_energies_are_sums_over_atoms():
    samples = with_energies(
        lambda atoms, n: -3.0 * np.sum(atoms.numbers == 29) + 2.0 * np.sum(atoms.numbers == 8)
    )
    scales = fit_scales(samples)
    assert scales.references[0, [29, 8]].tolist() == pytest.approx([-3.0, 2.0])
    assert scales.energy == 1.0  # nothing is left to scale
    assert not scales.references[0, [1, 6, 47]].any()


def test_the_scale_is_the_spread_that_references_leave():
    samples = with_energies(lambda atoms, n: float(n))
    assert fit_scales(samples, [("O",)]).references[0, 29] == 0.0
    left = np.array([0.0, 1.0, 2.0, 0.0])  # O takes the last one whole
    assert fit_scales(samples, [("O",)]).energy == pytest.approx(left.std())


def test_references_of_what_is_no_element_are_refused():
    with pytest.raises(RecipeError, match="Xx, which are not chemical symbols"):
        fit_scales(with_energies(lambda atoms, n: 0.0), [("O", "Xx")])


def test_the_pair_loss_counts_moves_of_free_atoms_alone_each_term_in_its_own_unit():
    systems, labels = collate_samples(with_energies(lambda atoms, n: float(n))[:2])
    fixed = torch.zeros_like(systems.fixed)
    fixed[:3] = True
    systems = replace(systems, fixed=fixed)
    wrong = labels.displacement + torch.tensor([0.0, 0.3, 0.4]).double()
    wrong[:3] += 100.0
    prediction = Prediction(
        energy=labels.energy + torch.tensor([0.5, -1.5]).double(), displacement=wrong
    )
    settings = Training(steps=1, energy_weight=2.0, displacement_weight=3.0)
    found = pair_loss(prediction, systems, labels, settings, 4.0, 0.1)
    assert float(found.energy) == pytest.approx(1.0)
    assert float(found.vectors) == pytest.approx(0.5)
    assert float(found.total) == pytest.approx(2.0 * 1.0 / 4.0 + 3.0 * 0.5 / 0.1)


def test_loss_and_errors_count_the_same_free_atoms_also_where_one_axis_is_fixed():
    atoms = relaxation("x", n_frames=1)[0]
    atoms.set_constraint([FixAtoms([0, 1]), FixCartesian(4, mask=(True, False, False))])
    systems = from_atoms(atoms)
    n = systems.n_atoms
    sample = Sample(
        numbers=atoms.numbers,
        tags=systems.tags.numpy(),
        positions=atoms.positions,
        forces=np.full((n, 3), np.nan),
        relaxed=atoms.positions + 0.2,
        fixed=systems.fixed.numpy(),
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        energy=1.0,
        group="x",
        image=0,
        source=0,
        validation=False,
    )
    errors = torch.linspace(0.1, 0.9, n, dtype=torch.float64)[:, None].expand(n, 3)
    errors = torch.where((torch.arange(n) == 4)[:, None], 5.0, errors)

    def potential(seen: Systems) -> Prediction:
        return Prediction(energy=torch.ones(1).double(), displacement=0.2 + errors)

    batch, labels = collate_samples([sample])
    weights = Training(steps=1, displacement_weight=1.0)
    found = pair_loss(potential(batch), batch, labels, weights, 1.0, 1.0)
    measured = pair_errors(pair_predictions(potential, [sample]))
    free = [k for k in range(n) if k not in (0, 1)]
    assert free_atoms(batch.fixed).nonzero().flatten().tolist() == free
    assert measured.position_mae == pytest.approx(float(errors[free].mean()))
    # the length of an error with three equal components is sqrt(3) times one of them
    assert float(found.vectors) == pytest.approx(3**0.5 * measured.position_mae)
