"""The work of `geocalc evaluate`: errors of a model, into metrics.json and parity plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from geocalc.cli import symmetry_probe as probes
from geocalc.cli.progress import progress_line
from geocalc.cli.warnings import collect_warnings
from geocalc.core.files import write_atomically
from geocalc.core.process import configure_process
from geocalc.core.systems import Systems
from geocalc.data.prepare import (
    ReferenceRelaxation,
    prepare_store,
    reference_relaxations,
    samples_of_file,
)
from geocalc.data.settings import Data, DataSource
from geocalc.data.store import Sample, read_store
from geocalc.errors import EnergyKindError, InputError
from geocalc.evaluation.figures import pair_panels, relaxed_panels, single_point_panels
from geocalc.evaluation.is2re import pair_errors, pair_predictions
from geocalc.evaluation.plots import Panel, draw_panels
from geocalc.evaluation.relaxations import RelaxedPair, relax_references, summarize
from geocalc.evaluation.settings import EvaluateSettings
from geocalc.evaluation.single_points import errors_of, known_numbers, predictions
from geocalc.optim.catalog import optimizer_settings
from geocalc.potentials.card import Task
from geocalc.potentials.load import LoadedModel, load_model
from geocalc.potentials.network import ForceMode
from geocalc.runs.runner import versions
from geocalc.train.recipe import Recipe, read_recipe
from geocalc.train.run_files import METRICS, make_folder


def evaluate_command(
    model: str, data: Path, out: Path, settings: EvaluateSettings
) -> dict[str, Any]:
    """Measure a model and write metrics.json and figures; returns what metrics.json holds.

    Args:
        model: name or folder.
        data: a recipe (its validation split) or structures, labeled but for symmetry and
            oversmoothing.
        out: folder to write.
        settings: what is measured and how; see `geocalc.evaluation.symmetry_errors` and
            `geocalc.evaluation.oversmoothing` for these tasks.
    Raises:
        InputError: the data hold nothing to measure.
        EnergyKindError: the labels are energies of another kind than the model's.
    """
    configure_process()
    recipe = read_recipe(data) if data.suffix in (".yaml", ".yml") else None
    loaded = load_model(
        model,
        device=settings.device,
        dtype=settings.dtype,
        frames=settings.frames,
        level=settings.level,
        seed=settings.seed,
    )
    if recipe is not None and settings.task not in (probes.SYMMETRY, probes.OVERSMOOTHING):
        _check_kind(loaded, recipe, settings.source)
    about: dict[str, Any] = {
        "model": loaded.card.name,
        "model_hash": loaded.hash,
        "data": str(data),
        "task": settings.task,
        "level_of_theory": loaded.card.level_of_theory,
        "frames": settings.frames or loaded.card.frames,
        "dtype": settings.dtype,
        "device": loaded.device.type,
        "versions": versions(),
    }
    task, source, seed = settings.task, settings.source, settings.seed
    with collect_warnings():
        if task == "is2re":
            results = _pairs(loaded, recipe, data, source, out)
        elif task == "relax":
            about |= {
                "optimizer": optimizer_settings(settings.optimizer),
                "fmax": settings.fmax,
                "steps": settings.steps,
            }
            results = _relax(loaded, recipe, data, settings, out)
        elif task in (probes.SYMMETRY, probes.OVERSMOOTHING):
            about |= {"limit": settings.limit, "seed": seed or 0}
            measure = probes.symmetry_task if task == probes.SYMMETRY else probes.oversmoothing_task
            some = _some(loaded, recipe, data, source, settings.limit)
            results = measure(loaded, some, seed or 0)
            make_folder(out)
        else:
            results = _single_points(loaded, recipe, data, source, out)
    summary = {**about, "results": results}
    write_atomically(out / METRICS, [json.dumps(summary, indent=1) + "\n"])
    return summary


def _check_kind(model: LoadedModel, recipe: Recipe, source: int | None) -> None:
    """Refuse to compare energies of a model with labels of another kind."""
    for k in _chosen(recipe.data, source):
        level = recipe.energy_levels[k]
        if level is None or recipe.bases[level].kind is model.card.energy_kind:
            continue
        raise EnergyKindError(
            f"{model.card.name} gives {model.card.energy_kind.value} energies and"
            f" {recipe.data.sources[k].path} has {recipe.bases[level].kind.value} energies, which"
            " cannot be compared; choose a model and data of one kind, or one source with --source"
        )


def _single_points(
    model: LoadedModel, recipe: Recipe | None, data: Path, source: int | None, out: Path
) -> dict[str, Any]:
    """Measure errors by source, and draw them."""
    groups = _held_out(model, recipe, data, source)
    empty = [name for name, samples in groups.items() if not samples]
    if empty:
        raise InputError(
            f"{empty[0]} holds no frame to measure; choose other data or a larger validation share"
        )
    told = {name: predictions(model, samples) for name, samples in groups.items()}
    make_folder(out)
    for name, one in told.items():
        _draw(single_point_panels(one, model.card, _stem(name)), out)
    return {name: known_numbers(errors_of(one)) for name, one in told.items()}


def _pairs(
    model: LoadedModel, recipe: Recipe | None, data: Path, source: int | None, out: Path
) -> dict[str, Any]:
    """Measure errors of relaxed energies and positions by source; write a table of structures and
    figures.
    """
    if recipe is None or recipe.task is not Task.IS2RE:
        raise InputError(
            f"{data} is not a recipe with task: is2re, which names the files of unrelaxed and"
            " relaxed structures"
        )
    if model.card.task is not Task.IS2RE:
        raise InputError(
            f"{model.card.name} predicts no relaxed energies; evaluate it with --task s2ef or relax"
        )
    results = {}
    for name, samples in _held_out(model, recipe, data, source).items():
        told = pair_predictions(model, samples)
        results[name] = asdict(pair_errors(told))
        make_folder(out)
        with (out / f"{_stem(name)}-is2re.csv").open("w", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(["group", "energy", "reference"])
            rows = zip(samples, told.energy, told.energy_reference, strict=True)
            writer.writerows(
                [sample.group, f"{energy:.6f}", f"{wanted:.6f}"] for sample, energy, wanted in rows
            )
        _draw(pair_panels(told, model.card, _stem(name)), out)
    return results


def _some(
    model: LoadedModel, recipe: Recipe | None, data: Path, source: int | None, limit: int
) -> dict[str, Systems]:
    """At most `limit` structures of each source; those of files need no labels."""
    if recipe is None:
        return {data.name: probes.of_file(data, limit, model.card.reads_tags)}
    groups = _held_out(model, recipe, data, source)
    return {name: probes.of_samples(samples, limit, name) for name, samples in groups.items()}


def _held_out(
    model: LoadedModel, recipe: Recipe | None, data: Path, source: int | None
) -> dict[str, Sequence[Sample]]:
    if recipe is None:
        return {
            data.name: samples_of_file(
                data, model.card.reads_tags, model.card.force_mode != ForceMode.NONE
            )
        }
    held_out = read_store(prepare_store(recipe, Path("runs") / "data")).held_out
    chosen = _chosen(recipe.data, source)
    return {
        str(recipe.data.sources[k].path): held_out.where(held_out.sample_index.source == k)
        for k in chosen
    }


def _draw(figures: Mapping[str, Sequence[Panel]], out: Path) -> None:
    """Draw figures by file name; none where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return
    for name, panels in figures.items():
        draw_panels(panels, out / name)


def _relax(
    model: LoadedModel,
    recipe: Recipe | None,
    data: Path,
    settings: EvaluateSettings,
    out: Path,
) -> dict[str, Any]:
    rules = recipe.data if recipe is not None else Data(sources=(DataSource(path=data),))
    references = {
        str(rules.sources[k].path): _references(model, rules, k, recipe is None)
        for k in _chosen(rules, settings.source)
    }
    results = {}
    for name, some in references.items():
        with progress_line("relax") as show:
            done = partial(_show_done, show, len(some))
            pairs = relax_references(
                model,
                some,
                optimizer=settings.optimizer,
                fmax=settings.fmax,
                steps=settings.steps,
                progress=done,
            )
        results[name] = asdict(summarize(pairs))
        make_folder(out)
        _write_pairs(pairs, out / f"{_stem(name)}-relaxed.csv")
        _draw(relaxed_panels(pairs, model.card, _stem(name)), out)
    return results


def _show_done(show: Callable[[str], None], total: int, n: int) -> None:
    show(f"relax: {n} of {total}")


def _references(
    model: LoadedModel, rules: Data, source: int, whole: bool
) -> list[ReferenceRelaxation]:
    """The relaxations of a source that are held out, or all of them."""
    split = None if whole else True
    references = reference_relaxations(
        rules, source, validation=split, use_tags=model.card.reads_tags
    )
    if not references:
        where = "" if whole else " in the validation split"
        raise InputError(
            f"{rules.sources[source].path} holds no relaxation of two frames or more{where}; the"
            " frames of a relaxation follow each other and share the info key"
            f" {rules.sources[source].group_key!r}"
        )
    return references


def _write_pairs(pairs: list[RelaxedPair], path: Path) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([f.name for f in fields(RelaxedPair)])
        for pair in pairs:
            writer.writerow(
                [f"{v:.6f}" if isinstance(v, float) else v for v in asdict(pair).values()]
            )


def _chosen(rules: Data, source: int | None) -> list[int]:
    n = len(rules.sources)
    if source is None:
        return list(range(n))
    if not 0 <= source < n:
        raise InputError(f"source {source} was asked for, there are {n}, counted from 0")
    return [source]


def _stem(name: str) -> str:
    return Path(name).parent.name or Path(name).name.split(".")[0]
