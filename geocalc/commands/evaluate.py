"""`geocalc evaluate`: errors of a model, into metrics.json and parity plots."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geocalc.campaign import versions
from geocalc.errors import InputError
from geocalc.evaluate import RelaxedPair, relax_references, summarise
from geocalc.plots import parity
from geocalc.registry import LoadedModel, load_model
from geocalc.train.metrics import measure, predictions
from geocalc.train.prepare import prepare, reference_relaxations, samples_of_file
from geocalc.train.recipe import Recipe, read_recipe
from geocalc.train.store import Sample, read_store


def evaluate_command(
    model: str,
    data: Path,
    out: Path,
    *,
    task: str = "s2ef",
    source: int | None = None,
    frames: str | None = None,
    optimizer: str = "bfgs",
    fmax: float = 0.05,
    steps: int = 300,
    device: str = "auto",
    dtype: str = "float32",
) -> dict[str, Any]:
    """Measure and write; returns what metrics.json holds.

    Args:
        model: name or folder. data: a recipe (its validation split) or labelled structures. out: folder to write.
        task: s2ef (energies and forces of frames) or relax (from the first frame of each relaxation to its last).
        source: only this source of the recipe. frames: policy other than the model's.
        optimizer, fmax, steps: for relax. device, dtype: of the model.
    Raises:
        InputError: the data hold nothing to measure.
    """
    torch.set_num_threads(1)
    loaded = load_model(model, device=device, dtype=dtype, frames=frames)
    recipe = read_recipe(data) if data.suffix in (".yaml", ".yml") else None
    out.mkdir(parents=True, exist_ok=True)
    about = {
        "model": loaded.card.name,
        "model_hash": loaded.hash,
        "data": str(data),
        "task": task,
        "frames": frames or loaded.card.frames,
        "dtype": dtype,
        "device": loaded.device.type,
        "versions": versions(),
    }
    if task == "relax":
        if recipe is None:
            raise InputError(f"--task relax needs a recipe, which says what the frames of a relaxation are; got {data}")
        about |= {"optimizer": optimizer, "fmax": fmax, "steps": steps}
        results = _relax(loaded, recipe, source, out, optimizer, fmax, steps)
    else:
        results = _single_points(loaded, recipe, data, source, out)
    summary = {**about, "results": results}
    (out / "metrics.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _single_points(model: LoadedModel, recipe: Recipe | None, data: Path, source: int | None, out: Path) -> dict[str, Any]:
    if recipe is None:
        groups = {data.name: samples_of_file(data)}
    else:
        held_out = [s for s in read_store(prepare(recipe, Path("runs") / "data")) if s.validation]
        groups = {str(recipe.data.sources[k].path): [s for s in held_out if s.source == k] for k in _chosen(recipe, source)}
    results = {}
    for name, samples in groups.items():
        if not samples:
            raise InputError(f"{name} holds no frame to measure; choose other data or a larger validation share")
        results[name] = asdict(measure(model, samples))
        _plot_single_points(model, samples, out, _stem(name))
    return results


def _plot_single_points(model: LoadedModel, samples: list[Sample], out: Path, stem: str) -> None:
    if find_spec("matplotlib") is None:
        return
    told = predictions(model, samples)
    parity(told.energy, told.energy_reference, "energy (eV)", out / f"{stem}-energy.png")
    parity(told.forces[told.free].ravel(), told.forces_reference[told.free].ravel(), "force (eV/Å)", out / f"{stem}-forces.png")


def _relax(
    model: LoadedModel, recipe: Recipe, source: int | None, out: Path, optimizer: str, fmax: float, steps: int
) -> dict[str, Any]:
    results = {}
    for k in _chosen(recipe, source):
        references = reference_relaxations(recipe.data, k)
        if not references:
            raise InputError(f"source {k} of the recipe holds no relaxation of two frames or more in its validation split")
        pairs = relax_references(model, references, optimizer=optimizer, fmax=fmax, steps=steps)
        name = str(recipe.data.sources[k].path)
        results[name] = asdict(summarise(pairs))
        _write_pairs(pairs, out / f"{_stem(name)}-relaxed.csv")
        if find_spec("matplotlib") is not None:
            energies = np.array([[p.energy, p.reference] for p in pairs])
            parity(energies[:, 0], energies[:, 1], "relaxed energy (eV)", out / f"{_stem(name)}-relaxed.png")
    return results


def _write_pairs(pairs: list[RelaxedPair], path: Path) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([f.name for f in fields(RelaxedPair)])
        for pair in pairs:
            writer.writerow([f"{v:.6f}" if isinstance(v, float) else v for v in asdict(pair).values()])


def _chosen(recipe: Recipe, source: int | None) -> list[int]:
    n = len(recipe.data.sources)
    if source is None:
        return list(range(n))
    if not 0 <= source < n:
        raise InputError(f"source {source} was asked for, the recipe has {n}, counted from 0")
    return [source]


def _stem(name: str) -> str:
    return Path(name).parent.name or Path(name).name.split(".")[0]
