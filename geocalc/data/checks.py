"""What is wrong with a data set as a whole, found before anything is learned from it."""

from __future__ import annotations

import hashlib
import warnings
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np

from geocalc.data.store import Sample
from geocalc.errors import DataWarning, InputError

# info keys under which files tell how they were computed
LEVELS = ("level_of_theory", "level", "functional", "xc", "dft")
PLAIN_WORK = 0.01  # eV; where energy changes and work are less, two frames say nothing about units
ENOUGH = 10  # pairs of frames
# of a ratio; DFT relaxations take steps so long that the trapezoid is off by some percent
NEAR = 0.1
RATIOS = {  # of the energy difference to the work of the forces, and what it comes from
    1 / 51.42208: "forces in eV/Angstrom but energies in Hartree, or forces 51.4 times too large",
    51.42208: "forces in Hartree/Bohr",
    27.21139: "forces in Hartree/Angstrom, or energies times 27.2",
    1 / 27.21139: "energies in Hartree",
    1.889726: "forces in eV/Bohr",
    1 / 0.0433641: "energies in kcal/mol",
    0.0433641: "forces in kcal/mol/Angstrom",
    96.4853: "energies in kJ/mol",
    1 / 96.4853: "forces in kJ/mol/Angstrom",
    13.605693: "forces in Rydberg/Angstrom",
    1 / 13.605693: "energies in Rydberg",
    25.71104: "forces in Rydberg/Bohr",
    -1.0: "gradients in place of forces: their sign is wrong",
}
SHOWN = 3  # names in a message


def check_samples(samples: Sequence[Sample], names: Sequence[str]) -> None:
    """Refuse data whose units do not fit each other; warn of structures on both sides of the split.

    Args:
        samples: of a recipe, in order.
        names: of its sources.
    Raises:
        InputError: the energy does not follow the forces along the relaxations of a source.
    """
    steps, contents, held_out = [array("d") for _ in names], array("Q"), array("B")
    before: Sample | None = None
    for sample in samples:
        contents.append(_content(sample))
        held_out.append(sample.validation)
        if before is not None and _follows(before, sample):
            steps[sample.source].extend(_step(before, sample))
        before = sample
    for found, name in zip(steps, names, strict=True):
        _check_units(np.array(found).reshape(-1, 3), name)
    _warn_of_leaks(samples, np.array(contents), np.array(held_out) > 0)


def check_one_level(values: Sequence[str], name: str) -> None:
    """Refuse a source whose structures were computed in more than one way, as far as they tell.

    Args:
        values: the level of each structure.
        name: of the source.
    Raises:
        InputError: they differ.
    """
    counts = Counter(values)
    if len(counts) > 1:
        told = ", ".join(f"{value} ({n})" for value, n in counts.most_common(SHOWN))
        raise InputError(
            f"{name} mixes levels of theory: {told}; energies of different levels cannot be learned"
            " as one, so make a source of each and name its level in the recipe"
            " (data.sources.level), or choose one"
        )


def _check_units(steps: np.ndarray, name: str) -> None:
    """Compare changes of the energy with the work done; rows as from `_step`, (n, 3)."""
    pairs = steps[(np.abs(steps[:, :2]).max(axis=1, initial=0.0) > PLAIN_WORK) & (steps[:, 1] != 0)]
    if len(pairs) < ENOUGH:
        return
    change, work, size = pairs.T
    ratio = float(np.median(change / work))
    if 1 - 3 * NEAR < ratio < 1 + 3 * NEAR:
        return
    if abs(float(np.median(change / work * size)) - 1) < NEAR:
        raise InputError(
            f"{name}: the energies follow the forces once multiplied by the number of atoms; store"
            " energies, not per atom"
        )
    known = next(
        (meaning for value, meaning in RATIOS.items() if abs(ratio / value - 1) < NEAR), None
    )
    guess = f"this looks like {known}; " if known else ""
    raise InputError(
        f"{name}: between neighboring frames of its relaxations the energy changes by {ratio:.3g}"
        f" times the work of the forces (median of {len(pairs)}), where 1 is expected;"
        f" {guess}convert everything to eV and eV/Angstrom"
    )


def _follows(one: Sample, other: Sample) -> bool:
    """Whether two samples are neighboring frames of a relaxation."""
    same = (one.source, one.group, one.frame + 1) == (other.source, other.group, other.frame)
    return same and np.array_equal(one.numbers, other.numbers)


def _step(one: Sample, other: Sample) -> tuple[float, float, int]:
    """From one frame to the next: change of the energy and work of the mean forces in eV, and the
    number of atoms.
    """
    work = -0.5 * float(np.sum((one.forces + other.forces) * (other.positions - one.positions)))
    return other.energy - one.energy, work, len(one.numbers)


def _warn_of_leaks(samples: Sequence[Sample], contents: np.ndarray, held_out: np.ndarray) -> None:
    leaked = np.flatnonzero(held_out & np.isin(contents, contents[~held_out]))
    if not len(leaked):
        return
    shown = []
    for place in leaked[:SHOWN]:
        twin = np.flatnonzero((contents == contents[place]) & ~held_out)[-1]
        shown.append(f"{samples[int(place)].group} = {samples[int(twin)].group}")
    warnings.warn(
        f"{len(leaked)} held-out structures are also in the training data"
        f" ({', '.join(dict.fromkeys(shown))}); errors on them are too small: give the relaxations"
        " that share structures one name, or remove the copies",
        DataWarning,
        stacklevel=3,
    )


def _content(sample: Sample) -> int:
    """Equal for structures with the same atoms at the same places, to a thousandth of an Angstrom."""
    parts = (sample.numbers, np.round(sample.positions, 3) + 0.0, np.round(sample.cell, 3) + 0.0)
    digest = hashlib.sha256(
        b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    ).digest()
    return int.from_bytes(digest[:8], "big")
