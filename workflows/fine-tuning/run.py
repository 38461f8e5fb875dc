"""Measure how errors on an unseen metal fall with the number of DFT frames used for fine-tuning.

Usage:
    GEOCALC_DATA=... python workflows/fine-tuning/run.py tune|scratch|page

The base model is the variant `without-pd` of the s2ef-study, which has to be trained first (python
workflows/s2ef-study/run.py train without-pd): the recipe of faenet-sfa on all structures without
palladium. `tune` fine-tunes it on increasing numbers of palladium relaxations; `scratch` trains the
same network on those alone; `page` writes results.json, the table and the plot. Every command
resumes where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import page
from ase.io import write
from lightning_fabric import Fabric

from geocalc import load_model
from geocalc.core import configure_process, read_yaml
from geocalc.data import Data, DataSource, locate, reference_relaxations, structures_of
from geocalc.evaluation import relax_references, single_point_errors, summarize
from geocalc.train import (
    Recipe,
    TrainingProgress,
    parse_recipe,
    register_model,
    train,
    tuned_values,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNS = ROOT / "runs" / "fine-tuning"
METAL, HELD_OUT = "Pd", 0.5  # share of its relaxations that errors are measured on
SIZES = (1, 2, 4, 8, 15)  # relaxations to learn from
DRAWS = 2  # which ones these are; there are 15 in all
SCRATCH_SIZES, SCRATCH_STEPS = (2, 8), 1000
BASE = ROOT / "runs" / "s2ef-study" / "models" / "without-pd"


def own_data(n: int, draw: int = 0, held_out: bool = True) -> Path:
    """A file of `n` relaxations on the metal to learn from, and of those that are held out, always
    the same; `part` says which.
    """
    source = read_yaml(ROOT / "models" / "faenet-sfa" / "recipe.yaml")["data"]["sources"][0]
    groups: dict[str, list[Any]] = {}
    for found in structures_of(locate(Path(source["path"]))):
        atoms = found.atoms
        if atoms.info.get("metal") == METAL and atoms.info["converged"]:
            groups.setdefault(str(atoms.info["sid"]), []).append(atoms)
    names = sorted(groups, key=_shuffled)
    learned = names[: round(len(names) * (1 - HELD_OUT))]
    drawn = sorted(learned, key=lambda name: _shuffled(f"{draw}:{name}"))[:n]
    parts = {
        name: "held-out" for name in names if name not in learned and held_out
    } | dict.fromkeys(drawn, "learn")
    path = RUNS / f"{METAL.lower()}-{n}-{draw}{'' if held_out else '-learn'}.extxyz"
    RUNS.mkdir(parents=True, exist_ok=True)
    frames = []
    for name, part in parts.items():
        for atoms in groups[name]:
            atoms.info = {key: atoms.info[key] for key in ("sid", "e_ads", "e_relaxed")} | {
                "part": part
            }
            frames.append(atoms)
    write(path, frames)
    return path


def _shuffled(name: str) -> int:
    """An order that has nothing to do with the names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def tuned_recipe(n: int, draw: int, begin: bool) -> Recipe:
    """Fine-tuning of the base with its defaults, or without `begin` the same network from random
    weights.
    """
    values, path = tuned_values(str(BASE), own_data(n, draw, held_out=False)), own_data(n, draw)
    values["data"]["sources"] = [
        {"path": str(path), "add_energy": "e_ads", "subtract_energy": "e_relaxed"}
    ]
    values["about"]["energy_kind"] = "adsorption"
    # nothing is chosen by it
    values["data"] |= {"validation_key": "part", "validation_values": ["held-out"]}
    values["fitted_references"] = {"elements": ["C", "H", "N", "O", "S"]}
    if not begin:
        del values["start"]
        values["training"] |= {
            "learning_rate": 1.5e-3,
            "energy_weight": 1.0,
            "steps": SCRATCH_STEPS,
        }
    return parse_recipe(values, path.name)


@click.group()
def main() -> None:
    """Fine-tuning on an unseen metal."""
    configure_process()


def _fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def _say(name: str) -> Any:
    def say(progress: TrainingProgress) -> None:
        if progress.step % 500 == 0:
            print(f"{name} {progress} {progress.seconds:.0f} s", flush=True)

    return say


def errors_of(model: Path) -> dict[str, Any]:
    """Errors on the relaxations that are held out: of their frames, and of relaxations with the
    model from their first frames.

    The model without the metal would refuse it; here it has to answer.
    """
    source = DataSource(path=own_data(0), add_energy="e_ads", subtract_energy="e_relaxed")
    loaded = load_model(model, device="cpu")
    potential = replace(loaded.potential, elements=())
    references = reference_relaxations(
        Data(sources=(source,)), 0, validation=None, use_tags=loaded.card.reads_tags
    )
    frames = [frame for reference in references for frame in reference.images]
    return {
        "errors": asdict(single_point_errors(potential, frames)),
        "relaxed": asdict(summarize(relax_references(potential, references))),
    }


def _fit(kind: str, sizes: tuple[int, ...], draws: int) -> None:
    for n, draw in product(sizes, range(draws)):
        if draw and n == max(SIZES):
            continue  # there are no others to draw
        name = f"{kind}-{n}-{draw}"
        train(
            tuned_recipe(n, draw, kind == "tuned"),
            RUNS / name,
            RUNS / "data",
            _fabric(),
            _say(name),
        )
        if not (RUNS / "models" / name).exists():
            register_model(RUNS / name, name, RUNS / "models", RUNS / "data")
        _measure(name, RUNS / "models" / name, n, draw)


def _measure(name: str, model: Path, n: int, draw: int = 0) -> None:
    """Errors of a model into a file beside its run, once."""
    path = RUNS / f"{name}.json"
    if not path.exists():
        frames = sum(
            found.atoms.info["part"] == "learn" for found in structures_of(own_data(n, draw))
        )
        path.write_text(
            json.dumps({"name": name, "relaxations": n, "frames": frames, **errors_of(model)})
        )
    print(path.read_text()[:400], flush=True)


@main.command("tune")
def tune_command() -> None:
    """Go on from the model without the metal."""
    _measure(BASE.name, BASE, 0)
    _fit("tuned", SIZES, DRAWS)


@main.command("scratch")
def scratch_command() -> None:
    """The same data without the model to begin with."""
    _fit("scratch", SCRATCH_SIZES, 1)


@main.command("page")
def page_command() -> None:
    """Table and picture of what there is."""
    results = [json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))]
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    page.write_page(results, HERE)


if __name__ == "__main__":
    main()
