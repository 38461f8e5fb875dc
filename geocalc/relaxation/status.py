"""When a relaxation ends: the statuses, and the limits beyond which a structure cannot be trusted."""

from __future__ import annotations

import math
from enum import StrEnum

# Angstrom from the start; half the vacuum of an OC20 slab: an atom there is bound to nothing any
# more
MOVE_LIMIT = 10.0
STRAIN_LIMIT = 1.0  # of a cell, from the start; one that long or short holds another material
# eV per atom below the start; no element binds stronger (W 8.9), so the surface has a hole or
# atoms overlapped
FALL_LIMIT = 10.0
# eV per atom above the start; several times what melting costs, so the structure is gone
RISE_LIMIT = 1.0
# eV; one long step onto a stiff bond costs a few eV in a molecule, and the next step takes it back
RISE_FLOOR = 10.0
# eV/Angstrom; more than two carbon nuclei repel at 0.1 Angstrom, so no structure but a mistake has
# it
FORCE_LIMIT = 1e5


class Status(StrEnum):
    """How the relaxation of a structure ended; `sentence` says it in words."""

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
        """The status for a human reader."""
        return SENTENCES[self]


SENTENCES = {
    Status.CONVERGED: "The largest force on a free atom fell below fmax.",
    Status.MAX_STEPS: (
        "The steps ran out before the forces fell below fmax; the geometry of lowest energy is"
        " kept."
    ),
    Status.NOISE_FLOOR: (
        "The forces no longer fall, since they are as small as their errors; the geometry of lowest"
        " energy is kept."
    ),
    Status.SINGLE_POINT: "The structure was evaluated as it is; no steps were asked for.",
    Status.PREDICTED: (
        "The relaxed energy and geometry were predicted from the structure as it came; nothing was"
        " relaxed."
    ),
    Status.NON_FINITE: (
        "The model gave an energy or force that is not a number; the geometry of lowest energy"
        " before is kept."
    ),
    Status.EXPLODED: (
        f"An atom moved more than {MOVE_LIMIT:g} Angstrom, a cell was strained by more than"
        f" {STRAIN_LIMIT:g}, a force passed {FORCE_LIMIT:g} eV/Angstrom, or the energy rose or fell"
        " beyond what chemistry allows; the geometry of lowest energy before is kept, but cannot"
        " be trusted."
    ),
    Status.ERROR: "The structure could not be relaxed; its error says why.",
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
        away: how far from its start the farthest atom is, as a share of what is allowed.
        n_atoms: its atoms.
        n_steps: taken.
        fmax: eV/Angstrom.
        max_steps: allowed.
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
