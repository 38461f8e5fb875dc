"""Measure a shipped model: errors, relaxations, intervals, an outside set, and time per call."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from scipy.stats import spearmanr

from geocalc import LoadedModel, from_atoms, load_model, relax
from geocalc.data import prepare_store, read_store, reference_relaxations
from geocalc.evaluation import (
    errors_of,
    known_numbers,
    predictions,
    relax_references,
    summarize,
)
from geocalc.potentials import calibrate, coverage, find_model, write_card
from geocalc.structures import Source, read_structures
from geocalc.train import Recipe

ROOT = Path(__file__).parents[2]

HALVES = 200  # random divisions of the held-out relaxations
OUTSIDE = "wwlgpr-simple-adsorbates"
OPTIMIZERS = {"quasi-newton": "quasi-Newton", "bfgs": "BFGS", "fire": "FIRE"}
# adsorbates of both the training set and the outside set
KNOWN = {"C", "CH", "CH2", "CH3", "H", "O", "OH"}


def single_points(model: LoadedModel, recipe: Recipe) -> dict[str, Any]:
    """Energy and force errors on the held-out frames of each source."""
    held_out = read_store(prepare_store(recipe, ROOT / "runs" / "data")).held_out
    found = {}
    for number, source in enumerate(recipe.data.sources):
        samples = held_out.where(held_out.sample_index.source == number)
        if not len(samples):
            continue
        at_level = replace(model.potential, level=recipe.source_levels[number])
        told = predictions(at_level, samples, energies=source.energies)
        found[str(source.path)] = known_numbers(errors_of(told))
    return found


def ways(default: str) -> list[tuple[str, str, str, float]]:
    """Label, frames, optimizer and fmax (eV/Angstrom) of the relaxations, the defaults of a model
    with such frames first.
    """
    chosen = [
        (default, "quasi-newton", 0.05),
        (default, "bfgs", 0.05),
        (default, "quasi-newton", 0.01),
    ]
    if default == "averaged":
        chosen += [
            ("single", "bfgs", 0.05),
            ("single", "quasi-newton", 0.05),
            ("single", "fire", 0.05),
            ("single", "bfgs", 0.01),
        ]
    if default == "single":
        chosen += [("averaged", "quasi-newton", 0.05), ("averaged", "quasi-newton", 0.01)]
    found = []
    for frames, optimizer, fmax in chosen:
        words = [*([] if frames == "none" else [frames]), OPTIMIZERS[optimizer], f"fmax {fmax:g}"]
        found.append((", ".join(words), frames, optimizer, fmax))
    return [(f"{found[0][0]} (the defaults)", *found[0][1:]), *found[1:]]


def relaxations(name: str, recipe: Recipe) -> dict[str, Any]:
    """Held-out relaxations of the first source, at its level, from their first frames, under several
    settings.
    """
    references = reference_relaxations(recipe.data, 0)
    level, found = recipe.data.sources[0].level, {}
    for label, frames, optimizer, fmax in ways(load_model(name).card.frames):
        pairs = relax_references(
            load_model(name, frames=frames, level=level),
            references,
            optimizer=optimizer,
            fmax=fmax,
            steps=300,
        )
        found[label] = asdict(summarize(pairs))
        print(label, found[label], flush=True)
    return found


def intervals(name: str, recipe: Recipe) -> dict[str, Any]:
    """How wide intervals around relaxed energies must be, and what they cover: halves of the
    held-out relaxations against each other.

    The calibration on all of them goes into the card.
    """
    model = load_model(name)
    pairs = relax_references(model, reference_relaxations(recipe.data, 0))
    errors, rng = (
        np.array([pair.energy - pair.reference for pair in pairs]),
        np.random.default_rng(0),
    )
    spreads = np.array([pair.energy_std for pair in pairs]) if model.card.members > 1 else None
    novelties = np.array([pair.novelty for pair in pairs])
    found = []
    for _ in range(HALVES):
        first, second = np.array_split(rng.permutation(len(errors)), 2)
        made = calibrate(errors[first], _of(spreads, first), novelties[first])
        found.append(coverage(made, errors[second], _of(spreads, second), novelties[second]))
    made = calibrate(errors, spreads, novelties)
    write_card(find_model(name), model.card.model_copy(update={"calibration": made}))
    told = {key: float(np.mean([one[key] for one in found])) for key in found[0]} | {
        "halves": HALVES
    }
    if spreads is None:
        return told | {"widths": made.half_widths(None)}
    return told | {
        "spread": float(np.median(spreads)),
        "rank_correlation": float(spearmanr(spreads, np.abs(errors)).statistic),
    }


def _of(spreads: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if spreads is None else spreads[rows]


def outside(name: str) -> dict[str, Any]:
    """Relaxed adsorption energies on an outside set against its DFT values."""
    chosen: list[Atoms] = []
    for item in read_structures(Path(os.environ["GEOCALC_DATA"]) / OUTSIDE):
        if (
            isinstance(item, Source)
            and item.atoms.constraints
            and str(item.atoms.info["facet"]) == "111"
        ):
            metals = {a.symbol for a in item.atoms if a.tag != 2}
            if len(metals) == 1 and item.atoms.info["adsorbate"] in KNOWN:
                chosen.append(item.atoms)
    wanted = np.array([float(a.info["e_ads"]) for a in chosen])
    results = relax(
        chosen, name, frames="none" if load_model(name).card.frames == "none" else "single"
    )
    energies = np.array([r.record.energy for r in results], dtype=float)
    error = energies - wanted
    return {
        "n": len(chosen),
        "energy_mae": float(np.abs(error).mean()),
        "energy_median": float(np.median(np.abs(error))),
        "energy_mean_error": float(error.mean()),
        "converged": float(np.mean([r.record.converged for r in results])),
        "inside_95": float(
            np.mean(
                [
                    abs(e) <= (r.record.energy_error_95 or 0.0)
                    for e, r in zip(error, results, strict=True)
                ]
            )
        ),
    }


def speed(name: str) -> dict[str, float]:
    """Milliseconds of one call with forces, 13 and 65 atoms, medians of 15."""
    from ase.build import add_adsorbate, fcc111

    times = {}
    for size, label in (((2, 2, 3), "13 atoms"), ((4, 4, 4), "65 atoms")):
        atoms = fcc111("Pt", size, vacuum=10.0)
        atoms.set_tags([1 if tag == 1 else 0 for tag in atoms.get_tags()])
        add_adsorbate(atoms, "O", 1.2, "fcc")
        atoms.set_tags([*atoms.get_tags()[:-1], 2])
        systems = from_atoms(atoms)
        for frames in (
            ("none",) if load_model(name).card.frames == "none" else ("single", "averaged")
        ):
            model, durations = load_model(name, frames=frames), []
            for _ in range(17):
                start = time.process_time()
                model(systems)
                durations.append(time.process_time() - start)
            times[label if frames == "none" else f"{label}, {frames}"] = round(
                float(np.median(durations[2:])) * 1e3, 1
            )
    return times


def processor() -> str:
    """Name of the CPU."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
