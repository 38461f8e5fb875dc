"""Checks of a whole data set before training: units, levels of theory and leaks between splits."""

from __future__ import annotations

import hashlib
import warnings
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np

from geocalc.data.store import Sample
from geocalc.errors import DataWarning, InputError

# info keys of the level of theory
LEVEL_KEYS = ("level_of_theory", "level", "functional", "xc", "dft")
MIN_WORK = 0.01  # eV; pairs of images with smaller energy changes and work are ignored
MIN_PAIRS = 10  # smallest number of pairs of images for a check
# relative tolerance of a ratio; the trapezoidal rule is off by a few
# percent for the long steps of DFT relaxations
RATIO_TOLERANCE = 0.1
RATIOS = {  # ratio of the energy difference to the work of the forces, and its probable cause
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
    -1.0: "energy gradients in place of forces, with the opposite sign",
}
MAX_SHOWN = 3  # largest number of names in a message


def check_samples(samples: Sequence[Sample], names: Sequence[str]) -> None:
    """Check the units of energies and forces, and warn about leaks between the splits.

    Args:
        samples: samples of a recipe, in order.
        names: names of its sources.
    Raises:
        InputError: the energy differs from the work of the forces along the relaxations of a
            source.
    """
    steps, contents, held_out = [array("d") for _ in names], array("Q"), array("B")
    previous: Sample | None = None
    for sample in samples:
        contents.append(_content(sample))
        held_out.append(sample.validation)
        if previous is not None and _are_consecutive(previous, sample):
            steps[sample.source].extend(_step(previous, sample))
        previous = sample
    for source_steps, name in zip(steps, names, strict=True):
        _check_units(np.array(source_steps).reshape(-1, 3), name)
    _warn_of_leaks(samples, np.array(contents), np.array(held_out) > 0)


def check_one_level(values: Sequence[str], name: str) -> None:
    """Check that all structures of a source have the same level of theory, if they name it.

    Args:
        values: level of each structure that names one.
        name: name of the source.
    Raises:
        InputError: the levels differ.
    """
    counts = Counter(values)
    if len(counts) > 1:
        levels = ", ".join(f"{value} ({n})" for value, n in counts.most_common(MAX_SHOWN))
        raise InputError(
            f"{name} mixes levels of theory: {levels}; energies of different levels are not"
            " comparable, so split the data into one source per level and set its level in the"
            " recipe (data.sources.level), or use one level"
        )


def _check_units(steps: np.ndarray, name: str) -> None:
    """Compare energy changes with the work of the forces.

    Args:
        steps: (n, 3) rows of `_step`.
        name: name of the source.
    """
    pairs = steps[(np.abs(steps[:, :2]).max(axis=1, initial=0.0) > MIN_WORK) & (steps[:, 1] != 0)]
    if len(pairs) < MIN_PAIRS:
        return
    change, work, size = pairs.T
    ratio = float(np.median(change / work))
    if 1 - 3 * RATIO_TOLERANCE < ratio < 1 + 3 * RATIO_TOLERANCE:
        return
    if abs(float(np.median(change / work * size)) - 1) < RATIO_TOLERANCE:
        raise InputError(
            f"{name}: the energies are consistent with the forces after multiplication by the"
            " number of atoms; store total energies, not energies per atom"
        )
    known = next(
        (meaning for value, meaning in RATIOS.items() if abs(ratio / value - 1) < RATIO_TOLERANCE),
        None,
    )
    guess = f"this looks like {known}; " if known else ""
    raise InputError(
        f"{name}: between consecutive images of its relaxations the energy changes by {ratio:.3g}"
        f" times the work of the forces (median of {len(pairs)} pairs), expected 1;"
        f" {guess}convert everything to eV and eV/Angstrom"
    )


def _are_consecutive(one: Sample, other: Sample) -> bool:
    """Whether two samples are consecutive images of a relaxation."""
    same = (one.source, one.group, one.image + 1) == (other.source, other.group, other.image)
    return same and np.array_equal(one.numbers, other.numbers)


def _step(one: Sample, other: Sample) -> tuple[float, float, int]:
    """Return the energy change and the work of the mean forces in eV, and the number of atoms."""
    work = -0.5 * float(np.sum((one.forces + other.forces) * (other.positions - one.positions)))
    return other.energy - one.energy, work, len(one.numbers)


def _warn_of_leaks(samples: Sequence[Sample], contents: np.ndarray, held_out: np.ndarray) -> None:
    """Warn about held-out structures that are also in the training data."""
    leaked = np.flatnonzero(held_out & np.isin(contents, contents[~held_out]))
    if not len(leaked):
        return
    shown = []
    for number in leaked[:MAX_SHOWN]:
        copy = np.flatnonzero((contents == contents[number]) & ~held_out)[-1]
        shown.append(f"{samples[int(number)].group} = {samples[int(copy)].group}")
    warnings.warn(
        f"{len(leaked)} held-out structures are also in the training data"
        f" ({', '.join(dict.fromkeys(shown))}), so validation errors are too small; give"
        " relaxations with common structures the same name, or remove the copies",
        DataWarning,
        stacklevel=3,
    )


def _content(sample: Sample) -> int:
    """Return a hash of elements, positions and cell, rounded to 0.001 Angstrom."""
    parts = (sample.numbers, np.round(sample.positions, 3) + 0.0, np.round(sample.cell, 3) + 0.0)
    digest = hashlib.sha256(
        b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    ).digest()
    return int.from_bytes(digest[:8], "big")
