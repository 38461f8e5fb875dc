"""Properties of the elements from a static table.

The table `data/elements.csv` holds facts compiled by the mendeleev package (MIT), version 1.3.0
(atomic volumes: 0.15.0, the last that stores them): radii in pm, volumes in cm^3/mol, density in
g/cm^3, polarizability in bohr^3, electron affinity, Allen electronegativity and ionization energies
in eV.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np

N_ELEMENTS = 118
# the published tables cover Z = 1..85; statistics are taken over the same rows
LAST_STANDARDISED = 85


@cache
def _rows() -> list[dict[str, str]]:
    text = (files("geocalc") / "data" / "elements.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


@cache
def symbols() -> tuple[str, ...]:
    """Chemical symbols by atomic number; index 0 is 'X'."""
    return ("X", *(row["symbol"] for row in _rows()))


@cache
def periods() -> np.ndarray:
    """Period 1..7 by atomic number, (119,) int64; row 0 is 0."""
    return np.array([0, *(int(row["period"]) for row in _rows())])


@cache
def groups() -> np.ndarray:
    """Group 1..18 by atomic number, 19 for elements without one, (119,) int64; row 0 is 0."""
    return np.array([0, *(int(row["group"]) for row in _rows())])


@cache
def covalent_radii() -> np.ndarray:
    """Single-bond covalent radii of Pyykko in Angstrom, (119,); row 0 is 0."""
    return np.array([0.0, *(float(row["covalent_radius_pyykko"]) / 100 for row in _rows())])


@cache
def element_properties() -> np.ndarray:
    """Standardised physical properties, (119, 14) float64; row 0 is zero, a missing value is zero.

    Each column is shifted by its mean and divided by its sample standard deviation over Z = 1..85,
    missing values skipped.
    Source: PhAST (Duval et al. 2022), the list of properties tried there.
    """
    names = [name for name in _rows()[0] if name not in ("number", "symbol", "period", "group")]
    table = np.array([[float(row[name] or "nan") for name in names] for row in _rows()])
    head = table[:LAST_STANDARDISED]
    table = (table - np.nanmean(head, axis=0)) / np.nanstd(head, axis=0, ddof=1)
    return np.vstack([np.zeros(len(names)), np.nan_to_num(table)])
