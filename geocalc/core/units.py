"""Units of energy in files of labeled structures."""

from __future__ import annotations

from ase import units

from geocalc.core.nearest import nearest
from geocalc.errors import InputError

EV = "eV"
IN_EV = {  # CODATA 2014, the values of ASE
    EV: 1.0,
    "meV": 1e-3,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
    "Hartree": units.Hartree,
}


def in_ev(name: str) -> float:
    """Return the size of a unit of energy in eV.

    Raises:
        InputError: the unit is unknown; the message lists similar names.
    """
    if name in IN_EV:
        return IN_EV[name]
    raise InputError(f"no unit of energy is called {name!r}; {nearest(name, IN_EV)}")
