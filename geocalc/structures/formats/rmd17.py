"""Files of rMD17: frames of one molecule, with energies in kcal/mol and forces in
kcal/mol/Angstrom.

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
_NUMBER_OF_FRAME = "old_indices"  # in MD17, of each frame; not every copy of the set has it


def rmd17_frames(path: Path) -> Iterator[Atoms]:
    """The frames of a file, in order; nothing pickled is loaded.

    Args:
        path: .npz with nuclear_charges (n,), coords (m, n, 3) in Angstrom, energies (m,) in
            kcal/mol, forces (m, n, 3) in kcal/mol/Angstrom and, perhaps, old_indices (m,).
    Yields:
        A molecule without cell: `info["REF_energy"]` in eV, `arrays["REF_forces"]` in eV/Angstrom,
        `info["old_index"]`.
    Raises:
        InputError: the arrays have other names or shapes.
    """
    arrays = _arrays(path)
    numbers, positions, ev = arrays["nuclear_charges"], arrays["coords"].astype(float), in_ev(UNIT)
    energies, forces = arrays["energies"].astype(float) * ev, arrays["forces"].astype(float) * ev
    old = arrays.get(_NUMBER_OF_FRAME)
    for k in range(len(energies)):
        atoms = Atoms(numbers, positions[k], info={"REF_energy": float(energies[k])})
        atoms.set_array("REF_forces", forces[k])
        if old is not None:
            atoms.info["old_index"] = int(old[k])
        yield atoms


def read_rmd17(path: Path) -> Iterator[Load]:
    """Frames of a file, see `rmd17_frames`, one function each; the file is read whole."""
    return map(ready, rmd17_frames(path))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file by name, in shapes that fit each other."""
    with path.open("rb") as stream:
        opened = np.load(stream, allow_pickle=False)
        if not isinstance(opened, NpzFile):
            raise InputError(
                f"it is a single array, not the named arrays of rMD17: {', '.join(_NAMES)}"
            )
        missing = [name for name in _NAMES if name not in opened]
        if missing:
            raise InputError(
                f"it has no {' and no '.join(missing)} but {', '.join(opened) or 'nothing'}; a .npz"
                " is read where it is one of rMD17, others have to be converted to extxyz"
            )
        arrays = {name: opened[name] for name in (*_NAMES, _NUMBER_OF_FRAME) if name in opened}
    m, n = arrays["energies"].size, arrays["nuclear_charges"].size
    wanted = {
        "nuclear_charges": (n,),
        "coords": (m, n, 3),
        "energies": (m,),
        "forces": (m, n, 3),
        _NUMBER_OF_FRAME: (m,),
    }
    for name, array in arrays.items():
        if array.shape != wanted[name]:
            raise InputError(
                f"{name} has shape {array.shape}; expected {wanted[name]} for {m} energies of {n}"
                " atoms"
            )
    return arrays
