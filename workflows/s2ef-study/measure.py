"""Measure errors of a model on held-out frames and relaxations, errors on the metal absent from
training, and speed.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from frames import held_out_relaxations
from variants import METAL

from geocalc import Potential, load_model
from geocalc.core import symbols
from geocalc.data import (
    ReferenceRelaxation,
    Sample,
    Samples,
    collate_samples,
    prepare_store,
    read_store,
    reference_relaxations,
)
from geocalc.evaluation import (
    RUNAWAY,
    Predictions,
    errors_of,
    known_numbers,
    predictions,
    relax_references,
    relaxed_pair,
    summarize,
)
from geocalc.evaluation import single_point_errors as errors_on
from geocalc.potentials import ForceMode, ModelCard, NetworkPotential
from geocalc.train import Recipe

UNSEEN = symbols().index(METAL)
TIGHT, MANY = 0.01, 200  # eV/Angstrom; relaxations


def measure(model: str | Path, recipe: Recipe, data: Path) -> dict[str, Any]:
    """Errors by source at its level, of relaxations of pure metals, and of those on the unseen
    metal where it is unseen.

    Args:
        model: name or folder.
        recipe: with all sources, whose split is everyone's.
        data: where prepared data are kept.
    """
    loaded = load_model(model, device="cpu")
    store = read_store(prepare_store(recipe, data))
    held_out = store.held_out
    found: dict[str, Any] = {"name": loaded.card.name, "frames": {}}
    for number, source in enumerate(recipe.data.sources):
        level = _level(loaded.card, recipe, number)
        if level is not None:
            one = replace(loaded.potential, level=level)
            told = predictions(
                one,
                _answerable(held_out.where(held_out.sample_index.source == number), one),
                energies=source.energies,
            )
            found["frames"][Path(str(source.path)).parent.name] = known_numbers(errors_of(told))
    if _level(loaded.card, recipe, 0) is None:
        return found
    references = held_out_relaxations(recipe)
    if METAL not in loaded.card.elements:
        unseen = [
            r
            for r in reference_relaxations(recipe.data, 0, validation=None)
            if UNSEEN in r.last.numbers
        ]
        # it would refuse them; here it has to answer
        answering = replace(loaded.potential, elements=())
        found["unseen"] = {
            "frames": asdict(
                errors_on(
                    answering, [s for part in (store.training, held_out) for s in _of_metal(part)]
                )
            ),
            "relaxed": _relaxed(answering, unseen),
        }
        references = [r for r in references if UNSEEN not in r.last.numbers]
    found["relaxed"] = _relaxed(loaded.potential, references)
    if loaded.card.settings.get("direct_forces"):
        direct = replace(loaded.potential, force_mode=ForceMode.DIRECT)
        points = held_out.where(held_out.sample_index.source == 0)
        found["direct"] = {
            "frames": asdict(errors_on(direct, points)),
            "relaxed": _relaxed(direct, references),
        }
    return found


def _of_metal(samples: Samples) -> Samples:
    """Those of the first source on the metal that a variant has not seen."""
    return samples.where(
        np.array([sample.source == 0 and UNSEEN in sample.numbers for sample in samples])
    )


def _answerable(samples: Samples, potential: NetworkPotential) -> Samples:
    """Those of elements that training has seen; the potential refuses the others."""
    return samples.where(
        np.array([bool(np.isin(sample.numbers, potential.elements).all()) for sample in samples])
    )


def _level(card: ModelCard, recipe: Recipe, source: int) -> int | None:
    """The number of a source's level in a model, None where it does not answer at that level."""
    theories = [
        recipe.about.level_of_theory,
        *(other.level_of_theory for other in recipe.other_levels),
    ]
    theory = theories[recipe.source_levels[source]]
    there = [card.level_of_theory, *(other.level_of_theory for other in card.other_levels)]
    return there.index(theory) if theory in there else None


def _relaxed(potential: Potential, references: list[ReferenceRelaxation]) -> dict[str, Any]:
    return asdict(summarize(relax_references(potential, references)))


def tight(model: str | Path, recipe: Recipe) -> dict[str, Any]:
    """Relaxations to `TIGHT`, all that are held out and as many of training as make `MANY`; where
    the surface has holes, they fall in.

    An adsorbate that leaves a site where DFT has kept it may run away from its reference and still
    be right, so energies are compared with the lowest DFT energy of the same atoms too: `deepest`
    is how far below that the lowest one ends, eV.
    """
    held_out, trained = (
        held_out_relaxations(recipe),
        reference_relaxations(recipe.data, 0, validation=False),
    )
    lowest: dict[bytes, float] = {}
    for reference in (*held_out, *trained):
        lowest[_atoms(reference)] = min(
            lowest.get(_atoms(reference), np.inf), reference.last.energy
        )
    drawn = np.random.default_rng(0).permutation(len(trained))[: MANY - len(held_out)]
    potential, found = load_model(model, device="cpu"), {}
    for name, part in (("held_out", held_out), ("trained", [trained[k] for k in drawn])):
        pairs = relax_references(potential, part, fmax=TIGHT)
        below = np.array(
            [
                lowest[_atoms(reference)] - pair.energy
                for reference, pair in zip(part, pairs, strict=True)
            ]
        )
        holes = {"below_all_dft": int((below > RUNAWAY).sum()), "deepest": float(below.max())}
        found[name] = asdict(summarize(pairs)) | holes
    return found


def _atoms(reference: ReferenceRelaxation) -> bytes:
    """The elements of a structure."""
    return np.sort(reference.last.numbers).tobytes()


def seconds_of(model: str | Path, recipe: Recipe) -> float:
    """Processor seconds of a structure with forces, one after the other on one thread; median of
    the starts of held-out relaxations.
    """
    potential, seconds = load_model(model, device="cpu"), []
    for reference in held_out_relaxations(recipe):
        systems, _ = collate_samples([reference.first])
        start = time.process_time()
        potential(systems)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


def of_peer(path: Path, recipe: Recipe, data: Path) -> dict[str, Any]:
    """Errors of a peer from what it answered; see peer_answers.py."""
    told = dict(np.load(path))
    samples = read_store(prepare_store(recipe, data))
    points = list(samples.held_out.where(samples.held_out.sample_index.source == 0))
    references = held_out_relaxations(recipe)
    energy, relaxed = told["energies"], told["relaxed_energy"]
    if "slab_energies" in told:
        ended = [r.last for r in reference_relaxations(recipe.data, 0, validation=False)]
        of_elements = _adsorbate_energies(told, ended, recipe)
        energy = energy - _zero(told, points, of_elements)
        relaxed = relaxed - _zero(told, [r.last for r in references], of_elements)
    _, labels = collate_samples(points)
    free = np.concatenate([~s.fixed.all(1) for s in points])
    frames = Predictions(
        energy=energy,
        energy_reference=labels.energy.numpy(),
        n_atoms=np.array([len(s.numbers) for s in points]),
        forces=told["forces"],
        forces_reference=labels.forces.numpy(),
        free=free,
    )
    ends = np.split(
        told["relaxed_positions"], np.cumsum([len(r.last.numbers) for r in references])[:-1]
    )
    pairs = [
        relaxed_pair(r, p, energy=e, status=str(s), n_evaluations=int(n))
        for r, e, p, s, n in zip(
            references, relaxed, ends, told["relaxed_status"], told["relaxed_calls"], strict=True
        )
    ]
    return {
        "name": path.stem,
        "frames": {Path(str(recipe.data.sources[0].path)).parent.name: asdict(errors_of(frames))},
        "relaxed": asdict(summarize(pairs)),
    }


def _adsorbate_energies(
    told: dict[str, np.ndarray], samples: list[Sample], recipe: Recipe
) -> np.ndarray:
    """Energy of each adsorbate element that makes a peer's total energies adsorption energies,
    fitted on what training sees, (119,).
    """
    elements = [symbols().index(name) for name in recipe.fitted_references.elements]
    counts = np.array(
        [[np.count_nonzero(s.numbers == z) for z in elements] for s in samples], dtype=float
    )
    missing = (
        told["training_energies"]
        - _zero(told, samples, np.zeros(len(symbols())))
        - [s.energy for s in samples]
    )
    table = np.zeros(len(symbols()))
    table[elements] = np.linalg.lstsq(counts, missing, rcond=None)[0]
    return table


def _zero(
    told: dict[str, np.ndarray], samples: list[Sample], of_elements: np.ndarray
) -> np.ndarray:
    """What a peer's energies are counted from: its relaxed clean slab and its energies of the
    adsorbate's elements, (n,) eV.
    """
    slabs = dict(zip(told["slab_metals"].tolist(), told["slab_energies"].tolist(), strict=True))
    adsorbate = [of_elements[s.numbers[s.tags == 2]].sum() for s in samples]
    return np.array([slabs[symbols()[int(s.numbers[s.tags != 2][0])]] for s in samples]) + adsorbate
