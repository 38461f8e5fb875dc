"""Properties of the chemical elements, read from a static table.

The table `data/elements.csv` was compiled from the mendeleev package (MIT license), version 1.3.0
(atomic volumes: version 0.15.0, the last one that contains them). It gives radii in pm, volumes in
cm^3/mol, densities in g/cm^3, polarizabilities in bohr^3, and electron affinities, Allen
electronegativities and ionization energies in eV.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np

N_ELEMENTS = 118
# the published tables cover Z = 1..85; mean and standard deviation are taken over the same rows
LAST_STANDARDIZED = 85


@cache
def _rows() -> list[dict[str, str]]:
    text = (files("geocalc") / "data" / "elements.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


@cache
def symbols() -> tuple[str, ...]:
    """Return the chemical symbols indexed by atomic number; index 0 is 'X'."""
    return ("X", *(row["symbol"] for row in _rows()))


@cache
def periods() -> np.ndarray:
    """Return the period (1..7) indexed by atomic number, (119,) int64; row 0 is 0."""
    return np.array([0, *(int(row["period"]) for row in _rows())])


@cache
def groups() -> np.ndarray:
    """Return the group (1..18, or 19 for lanthanides and actinides), (119,) int64; row 0 is 0."""
    return np.array([0, *(int(row["group"]) for row in _rows())])


@cache
def covalent_radii() -> np.ndarray:
    """Return the single-bond covalent radii of Pyykko in Angstrom, (119,); row 0 is 0."""
    return np.array([0.0, *(float(row["covalent_radius_pyykko"]) / 100 for row in _rows())])


@cache
def element_properties() -> np.ndarray:
    """Return the standardized physical properties of the elements, (119, 14) float64.

    Each column is shifted by its mean and divided by its sample standard deviation over Z = 1..85,
    ignoring missing values. Row 0 and missing values are zero.

    Source: PhAST (Duval et al. 2022), the list of properties tested there.
    """
    names = [name for name in _rows()[0] if name not in ("number", "symbol", "period", "group")]
    table = np.array([[float(row[name] or "nan") for name in names] for row in _rows()])
    covered = table[:LAST_STANDARDIZED]
    table = (table - np.nanmean(covered, axis=0)) / np.nanstd(covered, axis=0, ddof=1)
    return np.vstack([np.zeros(len(names)), np.nan_to_num(table)])
