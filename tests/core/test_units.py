"""Units of energy, against their definitions."""

from __future__ import annotations

import pytest
from scipy import constants

from geocalc.core.units import IN_EV, in_ev
from geocalc.errors import InputError

JOULE = {
    "eV": constants.e,
    "meV": constants.e / 1000,
    "kcal/mol": 4184 / constants.N_A,
    "kJ/mol": 1000 / constants.N_A,
    "Hartree": constants.physical_constants["Hartree energy"][0],
}


@pytest.mark.parametrize("name", IN_EV)
def test_every_unit_is_what_its_definition_says(name: str) -> None:
    # constants are known that well since 2014
    assert in_ev(name) == pytest.approx(JOULE[name] / constants.e, rel=1e-7)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("ev", "eV"), ("kcal", "kcal/mol"), ("KJ/mol", "kJ/mol"), ("hartrees", "Hartree")],
)
def test_a_misspelled_unit_names_the_near_ones(name: str, meant: str) -> None:
    with pytest.raises(
        InputError,
        match=(rf"no unit of energy is called '{name}'; did you mean `{meant}`\?"),
    ):
        in_ev(name)


def test_an_unknown_unit_names_all() -> None:
    with pytest.raises(InputError, match=r"'Ry'; known are eV, meV, kcal/mol, kJ/mol, Hartree"):
        in_ev("Ry")
