"""Energies and forces stored with a structure as labels.

`REF_energy` and `REF_forces` have precedence, because ASE moves plain `energy` and `forces` of an
extxyz file to a calculator. Forces are always raw, without constraints: by default ASE sets the
forces on fixed atoms to zero, and a network trained on these values would learn zeros.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from geocalc.errors import InputError
from geocalc.structures.convert import fixed_mask

CALCULATOR = "calculator"


@dataclass(frozen=True, kw_only=True)
class StoredLabels:
    """Labels of one structure.

    Attributes:
        energy: eV, or None.
        forces: (n_atoms, 3) eV/Angstrom, constraints not applied, or None.
        energy_source: key of the energy, or "calculator"; None without an energy.
        forces_source: key of the forces, or "calculator"; None without forces.
    """

    energy: float | None = None
    forces: np.ndarray | None = None
    energy_source: str | None = None
    forces_source: str | None = None


def read_labels(
    atoms: Atoms, energy_key: str = "REF_energy", forces_key: str = "REF_forces"
) -> StoredLabels:
    """Read the labels of a structure without computing anything.

    The keys of the structure have precedence over the results of its calculator.

    Args:
        atoms: structure; the keys are looked up in `info` and `arrays`, "energy" and "forces" in
            `calc.results`.
        energy_key: key of the energy, in eV.
        forces_key: key of the forces, in eV/Angstrom.
    Raises:
        InputError: a label is not a number, or the shape of the forces is not (n_atoms, 3).
    """
    results: dict[str, Any] = getattr(atoms.calc, "results", None) or {}
    energy, energy_source = _first(
        (atoms.info.get(energy_key), energy_key), (results.get("energy"), CALCULATOR)
    )
    forces, forces_source = _first(
        (atoms.arrays.get(forces_key), forces_key),
        (atoms.info.get(forces_key), forces_key),
        (results.get("forces"), CALCULATOR),
    )
    return StoredLabels(
        energy=None if energy is None else _energy(energy, energy_source),
        forces=None if forces is None else _forces(forces, len(atoms), forces_source),
        energy_source=energy_source,
        forces_source=forces_source,
    )


def has_zeroed_forces(
    structures: Iterable[Atoms], energy_key: str = "REF_energy", forces_key: str = "REF_forces"
) -> bool:
    """Whether the forces on fixed atoms were set to zero by constraints before they were stored.

    Args:
        structures: structures of the whole data set; iterated once, so they may be streamed.
        energy_key: as in `read_labels`.
        forces_key: as in `read_labels`.
    Returns:
        True if the forces on all fixed components are exactly zero, and some force on a free
        component is not. False without fixed atoms or forces.
    Raises:
        InputError: a label or a constraint cannot be read.
    """
    any_fixed = any_free = False
    for atoms in structures:
        forces = read_labels(atoms, energy_key, forces_key).forces
        if forces is None:
            continue
        fixed = fixed_mask(atoms)
        if (forces[fixed] != 0).any():
            return False
        any_fixed |= bool(fixed.any())
        any_free |= bool((forces[~fixed] != 0).any())
    return any_fixed and any_free


def _first(*candidates: tuple[Any, str]) -> tuple[Any, str | None]:
    """Return the first value that is not None, and its source."""
    return next(
        ((value, source) for value, source in candidates if value is not None), (None, None)
    )


def _energy(value: Any, source: str | None) -> float:
    """Return an energy as a float."""
    array = _numbers(value, f"the energy under {source}")
    if array.size != 1:
        raise InputError(
            f"the energy under {source} has the shape {array.shape}; expected one number in eV"
        )
    return float(array.reshape(-1)[0])


def _forces(value: Any, n_atoms: int, source: str | None) -> np.ndarray:
    """Return forces as an array of the expected shape."""
    array = _numbers(value, f"the forces under {source}")
    if array.shape != (n_atoms, 3):
        raise InputError(
            f"the forces under {source} have the shape {array.shape}; expected ({n_atoms}, 3) in"
            " eV/Å"
        )
    return array


def _numbers(value: Any, what: str) -> np.ndarray:
    """Return an array of finite numbers."""
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise InputError(
            f"expected numbers for {what}, got {str(value)[:40]!r}; remove it or correct the file"
        ) from None
    if not np.isfinite(array).all():
        raise InputError(f"NaN or infinity in {what}; remove the structure or correct the file")
    return array
