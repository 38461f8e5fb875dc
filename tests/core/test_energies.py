"""Energies of one kind, level of theory and reference combine; others are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from geocalc.core.energies import (
    Energy,
    EnergyBasis,
    EnergyKind,
    Reference,
    adsorption_energy,
)
from geocalc.errors import EnergyKindError, InputError, NonFiniteError

TOTAL = EnergyBasis(EnergyKind.TOTAL, "RPBE")
ADSORPTION = EnergyBasis(EnergyKind.ADSORPTION, "RPBE", "gas molecules")
SLAB = Energy(-312.4, TOTAL, "E(slab)", "relaxed with one model")
ADSLAB = Energy(-326.6, TOTAL, "E(adslab)", "relaxed with another model")
OXYGEN = Energy(-7.0, TOTAL, "mu(O)", "H2O - H2")


def test_energies_of_one_basis_add_up() -> None:
    both = SLAB + OXYGEN
    assert both.value == pytest.approx(-319.4)
    assert both.basis == TOTAL
    assert (2 * OXYGEN).value == (OXYGEN * 2).value == -14.0
    assert [(term.factor, term.name) for term in (SLAB - 2 * OXYGEN).terms] == [
        (1.0, "E(slab)"),
        (-2.0, "mu(O)"),
    ]


def test_a_difference_is_a_relative_energy() -> None:
    difference = ADSLAB - SLAB
    assert difference.value == pytest.approx(-14.2)
    assert difference.basis == replace(TOTAL, kind=EnergyKind.RELATIVE)
    with pytest.raises(EnergyKindError):
        difference + SLAB


@pytest.mark.parametrize(
    ("basis", "differing"),
    [
        (replace(ADSORPTION, kind=EnergyKind.TOTAL), r"kind \('adsorption' and 'total'\)"),
        (replace(ADSORPTION, level="PBE"), r"level of theory \('RPBE' and 'PBE'\)"),
        (replace(ADSORPTION, references=""), r"references \('gas molecules' and 'not given'\)"),
        (TOTAL, "kind and references"),
    ],
)
def test_energies_of_different_bases_are_refused(basis: EnergyBasis, differing: str) -> None:
    one, other = Energy(-0.5, ADSORPTION, "A"), Energy(-0.7, basis, "B")
    with pytest.raises(
        EnergyKindError, match=f"A and B cannot be added: they differ in {differing}"
    ):
        one + other
    with pytest.raises(EnergyKindError, match="A and B cannot be subtracted"):
        one - other


def test_an_adsorption_energy_prints_its_sum() -> None:
    found = adsorption_energy(ADSLAB, SLAB, [Reference("O", 2, OXYGEN)])
    assert found.value == pytest.approx(-0.2)
    assert found.basis.kind is EnergyKind.ADSORPTION
    assert found.basis.level == "RPBE"
    assert found.explain().splitlines() == [
        (
            "E_ads = -0.2000 eV, an adsorption energy at RPBE, relative to the clean slab and 2 O"
            " (H2O - H2)"
        ),
        "       +1 x E(adslab)      -326.6000 eV  relaxed with another model",
        "       -1 x E(slab)        -312.4000 eV  relaxed with one model",
        "       -2 x mu(O)            -7.0000 eV  H2O - H2",
    ]


def test_an_adsorption_energy_is_made_of_total_energies_of_one_level() -> None:
    oxygen = [Reference("O", 1, OXYGEN)]
    with pytest.raises(EnergyKindError, match=r"E\(slab\) is an adsorption energy; an adsorption"):
        adsorption_energy(ADSLAB, replace(SLAB, basis=ADSORPTION), oxygen)
    other = replace(OXYGEN, basis=replace(TOTAL, level="PBE"))
    with pytest.raises(EnergyKindError, match=r"E\(adslab\) and mu\(O\) cannot be combined"):
        adsorption_energy(ADSLAB, SLAB, [Reference("O", 1, other)])
    with pytest.raises(InputError, match="needs a reference for the adsorbate"):
        adsorption_energy(ADSLAB, SLAB, [])
    with pytest.raises(InputError, match="the adsorbate has 0 O; give a positive number"):
        Reference("O", 0, OXYGEN)


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(NonFiniteError, match=r"E\(slab\) \(a broken model\) is nan eV"):
        Energy(math.nan, TOTAL, "E(slab)", "a broken model")
