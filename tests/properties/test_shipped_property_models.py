"""Shipped property models load and do not depend on how a structure is stored."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.glasses import glass

from geocalc.potentials.registry import model_task, shipped_folder
from geocalc.properties.card import PropertyCard
from geocalc.properties.glass.configuration import glass_atoms
from geocalc.properties.load import load_property_model

SHIPPED = sorted(
    card.parent
    for card in shipped_folder().glob("*/model.yaml")
    if model_task(card.parent) in PropertyCard.tasks
)


@pytest.mark.slow
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_it_says_the_same_of_a_configuration_that_is_turned_moved_and_wrapped(folder):
    model, atoms = load_property_model(folder, device="cpu"), glass_atoms(glass(0))
    lattice = atoms.cell.lengths()[0] / 5
    nearest = lattice * np.round(atoms.positions / lattice)
    atoms.positions = nearest + 0.2 * (atoms.positions - nearest)  # no two particles overlap
    expected = model(atoms)
    counted = np.isin(atoms.arrays["types"], model.card.counted)
    assert np.isfinite(expected[counted]).all()
    assert np.isnan(expected[~counted]).all()
    assert expected[counted].std() > 0
    other = atoms.copy()
    other.positions = other.positions[:, [1, 2, 0]] * [1, -1, 1] + [0.4, 9.0, -2.0]
    other.wrap()
    # minima are found to a finite force
    np.testing.assert_allclose(model(other), expected, rtol=0, atol=2e-3)
