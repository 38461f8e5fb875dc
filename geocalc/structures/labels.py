"""Energies and forces that a structure carries as labels.

`REF_energy` and `REF_forces` come first, because ASE takes plain `energy` and `forces` out of an
extxyz file and hands them to a calculator. Forces are always raw: ASE sets those of fixed atoms to
zero unless told otherwise, and a network trained on such zeros learns them.
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
class Labels:
    """Labels of one structure.

    Attributes:
        energy: eV, None if there is none.
        forces: (n_atoms, 3) eV/Angstrom, constraints not applied; None if there are none.
        energy_source, forces_source: the key each was found under, or "calculator"; None where
            there is none.
    """

    energy: float | None = None
    forces: np.ndarray | None = None
    energy_source: str | None = None
    forces_source: str | None = None


def labels(atoms: Atoms, energy_key: str = "REF_energy", forces_key: str = "REF_forces") -> Labels:
    """Labels of a structure: its own keys first, then the results stored with it; nothing is
    computed.

    Args:
        atoms: structure; `info` and `arrays` are searched for the keys, `calc.results` for "energy"
            and "forces".
        energy_key: name of the energy, in eV.
        forces_key: name of the forces, in eV/Angstrom.
    Raises:
        InputError: a label is not a number, or has another shape than (n_atoms, 3).
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
    return Labels(
        energy=None if energy is None else _energy(energy, energy_source),
        forces=None if forces is None else _forces(forces, len(atoms), forces_source),
        energy_source=energy_source,
        forces_source=forces_source,
    )


def constraint_zeroed(
    frames: Iterable[Atoms], energy_key: str = "REF_energy", forces_key: str = "REF_forces"
) -> bool:
    """Whether the forces of a data set were stored after constraints had set those of fixed atoms
    to zero.

    Args:
        frames: structures of the whole set; one pass, so they may be streamed.
        energy_key, forces_key: as in `labels`.
    Returns:
        True if every fixed component of every force is exactly zero while some force on a free one
        is not. False where nothing is fixed or no forces are found.
    Raises:
        InputError: a label or a constraint cannot be read.
    """
    any_fixed = any_free = False
    for atoms in frames:
        forces = labels(atoms, energy_key, forces_key).forces
        if forces is None:
            continue
        fixed = fixed_mask(atoms)
        if (forces[fixed] != 0).any():
            return False
        any_fixed |= bool(fixed.any())
        any_free |= bool((forces[~fixed] != 0).any())
    return any_fixed and any_free


def _first(*candidates: tuple[Any, str]) -> tuple[Any, str | None]:
    """The first value that is there, and where it came from."""
    return next(
        ((value, source) for value, source in candidates if value is not None), (None, None)
    )


def _energy(value: Any, source: str | None) -> float:
    array = _numbers(value, f"the energy under {source}")
    if array.size != 1:
        raise InputError(
            f"the energy under {source} has shape {array.shape}; expected one number in eV"
        )
    return float(array.reshape(-1)[0])


def _forces(value: Any, n_atoms: int, source: str | None) -> np.ndarray:
    array = _numbers(value, f"the forces under {source}")
    if array.shape != (n_atoms, 3):
        raise InputError(
            f"the forces under {source} have shape {array.shape}; expected ({n_atoms}, 3) in eV/Å"
        )
    return array


def _numbers(value: Any, what: str) -> np.ndarray:
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise InputError(
            f"{what} is {str(value)[:40]!r}, which is not a number; remove it or correct the file"
        ) from None
    if not np.isfinite(array).all():
        raise InputError(
            f"{what} holds values that are not finite; remove the structure or correct the file"
        )
    return array
