"""Whether lights tell right from wrong: errors of energies and lights on sets that no training saw.

Zeros of energies that a set does not document are taken out: for adsorption energies the median
difference of each adsorbate, for relaxations the last structure of each.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from measure import GROSS, Relaxed, auroc, evenly, plain
from parents import read_file
from real import alcohols, oc20

import geocalc

N_STRUCTURES = 150  # of a set at most, evenly spaced
# relaxed test structures of known sets, on surfaces of the training and on others
KNOWN = {"known": "structure", "surfaces": "surface"}
RELAXATIONS = ("oxides", "oc20", "alcohols")
INSIDE = ("wwl-simple", "wwl-complex", "cathub")


@dataclass(frozen=True)
class Judged:
    """A structure; `error` in eV, `light` of the model, and its novelty."""

    error: float
    light: str
    novelty: float

    @property
    def gross(self) -> bool:
        """Whether the error is one that the light has to tell."""
        return abs(self.error) > GROSS

    @property
    def flagged(self) -> bool:
        """Whether the light is not green."""
        return self.light != "green"


@dataclass(frozen=True)
class LightRates:
    """How lights do on a set.

    Attributes:
        n: structures.
        gross: share of errors above 0.5 eV.
        flagged: share of those that are amber or red; None where there are none.
        false_alarms: share of the others that are amber or red; None where there are none.
        auroc: of novelty against an error above 0.5 eV; None where one side is missing.
    """

    n: int
    gross: float
    flagged: float | None
    false_alarms: float | None
    auroc: float | None


def rates(judged: Sequence[Judged]) -> LightRates:
    """How lights do on some structures."""
    gross = np.array([one.gross for one in judged])
    flagged = np.array([one.flagged for one in judged])
    novelty = np.array([one.novelty for one in judged])
    return LightRates(
        n=len(judged),
        gross=float(gross.mean()),
        flagged=float(flagged[gross].mean()) if gross.any() else None,
        false_alarms=float(flagged[~gross].mean()) if not gross.all() else None,
        auroc=auroc(novelty, gross) if gross.any() and not gross.all() else None,
    )


def _adsorption(path: str, key: str) -> Iterator[tuple[Atoms, str, float]]:
    """Structures of a file, the zero that they share, and their adsorption energies."""
    for atoms in read_file(path):
        if atoms.info["adsorbate"] != "clean" and key in atoms.info:
            yield atoms, str(atoms.info["adsorbate"]), float(atoms.info[key])


def _relative(frames: Callable[[], Iterator[Atoms]]) -> Iterator[tuple[Atoms, str, float]]:
    """Frames of relaxations, their relaxation, and their energies."""
    for atoms in frames():
        info = atoms.info
        energy = info["REF_energy"] if "REF_energy" in info else atoms.calc.results["energy"]
        yield atoms, str(info.get("parent", info["sid"])), float(energy)


UNSEEN: dict[str, Callable[[], Iterator[tuple[Atoms, str, float]]]] = {
    "agra": partial(_adsorption, "agra-hea-co2rr/relaxed_eads.extxyz.gz", "e_ads"),
    "hea-orr": partial(
        _adsorption, "hea-orr-oh-o-adsorption/hea_orr_relaxed.extxyz.gz", "de_ads_vs_Pt111"
    ),
    "tinnet": partial(_adsorption, "tinnet-oh-alloys/ideal_geometry_eads.extxyz.gz", "e_ads"),
    "oxides": partial(
        _relative, partial(read_file, "finetuna-oxide-adslab-relax/oxide_traj.extxyz.gz")
    ),
    "oc20": partial(_relative, partial(oc20, "test")),
    "alcohols": partial(_relative, partial(alcohols, "test")),
}


def judge(model: str, known: Sequence[tuple[Atoms, str, float]], last: bool) -> list[Judged]:
    """Errors and lights of single points.

    Args:
        model: name or folder.
        known: structures, the zero that they share, and their energies in eV.
        last: whether the zero is the last structure, not the median.
    """
    results = geocalc.predict([plain(atoms) for atoms, _, _ in known], model)
    off, zeros = [], defaultdict(list)
    for (_, zero, energy), result in zip(known, results, strict=True):
        told = result.record.energy
        off.append(np.nan if told is None else told - energy)
        if told is not None:
            zeros[zero].append(off[-1])
    judged = []
    for (_, zero, _), result, error in zip(known, results, off, strict=True):
        if np.isnan(error):
            continue  # elements that the model refuses
        middle = zeros[zero][-1] if last else float(np.median(zeros[zero]))
        novelty = result.record.novelty
        assert novelty is not None
        judged.append(Judged(error - middle, str(result.record.domain), novelty))
    return judged


def measure_lights(model: str, measured: Path, target: Path) -> None:
    """Write how the lights of a model do, on sets that it never saw and on the test parts.

    Args:
        model: name or folder.
        measured: file of `measure` with the relaxed test structures of the model.
        target: file that is written.
    """
    found: dict[str, list[Judged]] = {}
    for name, read in UNSEEN.items():
        some, last = list(read()), name in RELAXATIONS
        if last:
            chosen = [one for group in _groups(some) for one in (*evenly(group, 12), group[-1])]
        else:
            chosen = evenly(some, N_STRUCTURES)
        found[name] = judge(model, chosen, last)
        print(name, rates(found[name]), flush=True)
    tests = json.loads(measured.read_text())
    for name, part in KNOWN.items():
        some = [Relaxed(**one) for key in INSIDE for one in tests[key]]
        found[name] = [
            Judged(one.error_of_site, str(one.domain), one.novelty)
            for one in some
            if one.part == part and one.told is not None and one.novelty is not None
        ]
        print(name, rates(found[name]), flush=True)
    every = [one for some in found.values() for one in some]
    found["all"] = every
    print("all", rates(every), flush=True)
    target.write_text(json.dumps({k: asdict(rates(v)) for k, v in found.items()}, indent=1))


def _groups(some: Sequence[tuple[Atoms, str, float]]) -> list[list[tuple[Atoms, str, float]]]:
    """Structures by the zero that they share."""
    groups = defaultdict(list)
    for one in some:
        groups[one[1]].append(one)
    return list(groups.values())
