"""rMD17 files: structures of one molecule with energies and forces.

Energies are in kcal/mol and forces in kcal/mol/Angstrom.

Source: Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.lib.npyio import NpzFile

from geocalc.core.units import in_ev
from geocalc.errors import InputError
from geocalc.structures.formats.base import Load, ready

SUFFIX = ".npz"
UNIT = "kcal/mol"
_NAMES = ("nuclear_charges", "coords", "energies", "forces")
_OLD_INDICES = "old_indices"  # index of each structure in MD17; missing in some copies of the set


def rmd17_structures(path: Path) -> Iterator[Atoms]:
    """Generate the structures of a file, in order, without loading pickled data.

    Args:
        path: .npz file with nuclear_charges (n,), coords (m, n, 3) in Angstrom, energies (m,) in
            kcal/mol, forces (m, n, 3) in kcal/mol/Angstrom and optionally old_indices (m,).
    Yields:
        A molecule without a cell, with `info["REF_energy"]` in eV, `arrays["REF_forces"]` in
        eV/Angstrom and `info["old_index"]`.
    Raises:
        InputError: the arrays have other names or shapes.
    """
    arrays = _arrays(path)
    numbers, positions, ev = arrays["nuclear_charges"], arrays["coords"].astype(float), in_ev(UNIT)
    energies, forces = arrays["energies"].astype(float) * ev, arrays["forces"].astype(float) * ev
    old = arrays.get(_OLD_INDICES)
    for k in range(len(energies)):
        atoms = Atoms(numbers, positions[k], info={"REF_energy": float(energies[k])})
        atoms.set_array("REF_forces", forces[k])
        if old is not None:
            atoms.info["old_index"] = int(old[k])
        yield atoms


def read_rmd17(path: Path) -> Iterator[Load]:
    """Frames of a file, see `rmd17_structures`, one function each; the file is read whole."""
    return map(ready, rmd17_structures(path))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the file by name, with consistent shapes."""
    with path.open("rb") as stream:
        opened = np.load(stream, allow_pickle=False)
        if not isinstance(opened, NpzFile):
            raise InputError(
                f"it contains a single array, expected the named arrays of rMD17:"
                f" {', '.join(_NAMES)}"
            )
        missing = [name for name in _NAMES if name not in opened]
        if missing:
            raise InputError(
                f"it has no {' and no '.join(missing)} but {', '.join(opened) or 'nothing'}; only"
                " .npz files of rMD17 are supported, convert others to extxyz"
            )
        arrays = {name: opened[name] for name in (*_NAMES, _OLD_INDICES) if name in opened}
    m, n = arrays["energies"].size, arrays["nuclear_charges"].size
    expected = {
        "nuclear_charges": (n,),
        "coords": (m, n, 3),
        "energies": (m,),
        "forces": (m, n, 3),
        _OLD_INDICES: (m,),
    }
    for name, array in arrays.items():
        if array.shape != expected[name]:
            raise InputError(
                f"{name} has the shape {array.shape}; expected {expected[name]} for {m} energies"
                f" of {n} atoms"
            )
    return arrays
