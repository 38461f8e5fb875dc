"""Statuses of relaxations, and limits beyond which a structure is no longer plausible."""

from __future__ import annotations

import math
from enum import StrEnum

# Angstrom from the start; half the vacuum of an OC20 slab: an atom that moved so far has desorbed
MOVE_LIMIT = 10.0
STRAIN_LIMIT = 1.0  # of a cell, from the start; a larger one makes it another material
# eV per atom below the start; no element binds more strongly (W 8.9), so the energy surface has a
# hole or atoms overlapped
FALL_LIMIT = 10.0
# eV per atom above the start; several times the energy of melting
RISE_LIMIT = 1.0
# eV; one long step along a stiff bond may cost a few eV, which the next step recovers
RISE_FLOOR = 10.0
# eV/Angstrom; above the repulsion of two carbon nuclei at 0.1 Angstrom, which no real structure has
FORCE_LIMIT = 1e5


class Status(StrEnum):
    """Status at the end of a relaxation; `sentence` explains it."""

    CONVERGED = "CONVERGED"
    MAX_STEPS = "MAX_STEPS"
    SINGLE_POINT = "SINGLE_POINT"
    PREDICTED = "PREDICTED"
    NOISE_FLOOR = "NOISE_FLOOR"
    NON_FINITE = "NON_FINITE"
    EXPLODED = "EXPLODED"
    ERROR = "ERROR"

    @property
    def sentence(self) -> str:
        """The explanation of the status."""
        return SENTENCES[self]


SENTENCES = {
    Status.CONVERGED: "The largest force on a free atom fell below fmax.",
    Status.MAX_STEPS: (
        "The limit of steps was reached before the forces fell below fmax; the geometry of lowest"
        " energy is kept."
    ),
    Status.NOISE_FLOOR: (
        "The forces no longer fall because they are as small as their errors; the geometry of"
        " lowest energy is kept."
    ),
    Status.SINGLE_POINT: "The structure was evaluated once without being relaxed.",
    Status.PREDICTED: (
        "The relaxed energy and geometry were predicted directly from the initial structure;"
        " nothing was relaxed."
    ),
    Status.NON_FINITE: (
        "The model gave an energy or force that is not a finite number; the geometry of lowest"
        " energy before it is kept."
    ),
    Status.EXPLODED: (
        f"An atom moved more than {MOVE_LIMIT:g} Angstrom, a cell was strained by more than"
        f" {STRAIN_LIMIT:g}, a force passed {FORCE_LIMIT:g} eV/Angstrom, or the energy rose or fell"
        " by more than is plausible; the geometry of lowest energy before it is kept, but cannot be"
        " trusted."
    ),
    Status.ERROR: "The structure could not be relaxed; see its error.",
}


def verdict(
    energy: float,
    start_energy: float,
    largest: float,
    away: float,
    n_atoms: float,
    n_steps: float,
    fmax: float,
    max_steps: int,
) -> Status | None:
    """The status of one structure, None if it goes on.

    Args:
        energy, start_energy: eV, here and of the first evaluation.
        largest: eV/Angstrom, largest force along what constraints allow.
        away: largest displacement from the start, divided by its limit.
        n_atoms: number of atoms.
        n_steps: steps taken.
        fmax: eV/Angstrom, convergence criterion.
        max_steps: steps allowed.
    """
    if not (math.isfinite(energy) and math.isfinite(largest)):
        return Status.NON_FINITE
    rise = energy - start_energy
    out_of_range = rise > max(RISE_LIMIT * n_atoms, RISE_FLOOR) or rise < -FALL_LIMIT * n_atoms
    if away > 1 or largest > FORCE_LIMIT or out_of_range:
        return Status.EXPLODED
    if max_steps == 0:
        return Status.SINGLE_POINT
    if largest < fmax:
        return Status.CONVERGED
    return Status.MAX_STEPS if n_steps >= max_steps else None
