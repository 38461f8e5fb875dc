"""Make the model folder of the shipped direct model: the networks of the folds together, with the
errors of the cross-validation.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import page
import torch
from ase.build import add_adsorbate, fcc111

from geocalc import from_atoms, load_model
from geocalc.evaluation import draw_panels, energy_distribution, energy_parity
from geocalc.potentials import ModelCard, calibrate, coverage, read_card, write_card
from geocalc.runs import versions
from geocalc.train import Recipe, read_recipe, register_model

ROOT = Path(__file__).parents[2]
NAME = "faenet-is2re"
FOLDER = ROOT / "models" / NAME
PICTURE = "parity.png"


def ship(
    runs: Sequence[Path], results: dict[str, Any], predictions: Sequence[Sequence[page.Predicted]]
) -> None:
    """Make the model folder from finished runs, their results and their predictions for held-out
    structures.
    """
    made = runs[0].parent / "models" / NAME
    shutil.rmtree(made, ignore_errors=True)
    register_model(runs, NAME, made.parent, runs[0].parent / "data")
    recipe = read_recipe(FOLDER / "recipe.yaml")
    about = recipe.about  # may say more of the domain and its limits than when the runs began
    card = read_card(made).model_copy(
        update={"domain": about.domain, "data": about.data, "limits": about.limits}
    )
    shutil.copy(made / "weights.safetensors", FOLDER)
    write_card(FOLDER, card)
    folds = [
        row
        for row in results["rows"]
        if row["target"] == "e_ads" and row["split"].startswith("fold")
    ]
    measured = {
        "machine": f"one thread, float32, torch {torch.__version__}",
        "command": "python workflows/direct-is2re/run.py ship",
        "versions": versions(),
        "seed": recipe.training.seed,
        "steps": recipe.training.steps,
        **json.loads((made / "metrics.json").read_text()),
        "folds": folds,
        "peers": results["peers"],
        "large": results["large"],
        "intervals": crossed_coverage(
            [np.array([one.error for one in fold]) for fold in predictions]
        ),
        "milliseconds": milliseconds(),
    }
    (FOLDER / "metrics.json").write_text(json.dumps(measured, indent=1) + "\n")
    pooled = [one for fold in predictions for one in fold]
    told, wanted = (
        np.array([one.energy for one in pooled]),
        np.array([one.reference for one in pooled]),
    )
    panels = [
        energy_parity(told, wanted, "adsorption energy", "held-out structures"),
        energy_distribution(told - wanted, "adsorption energy"),
    ]
    draw_panels(panels, FOLDER / PICTURE)
    (FOLDER / "README.md").write_text(readme(card, recipe, measured))


def crossed_coverage(errors: Sequence[np.ndarray]) -> dict[str, float]:
    """Shares inside intervals that were calibrated on the other folds, and their half widths (eV),
    means over folds.
    """
    found = []
    for k, here in enumerate(errors):
        others = np.concatenate([one for j, one in enumerate(errors) if j != k])
        found.append(coverage(calibrate(others, None), here, None))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0] if name != "n"}


def milliseconds() -> dict[str, float]:
    """Of one call for an oxygen atom on a slab of 64 atoms, by frames; medians of 15."""
    atoms = fcc111("Pt", (4, 4, 4), vacuum=10.0)
    atoms.set_tags([1 if tag in (1, 2) else 0 for tag in atoms.get_tags()])
    add_adsorbate(atoms, "O", 1.2, "fcc")
    atoms.set_tags([*atoms.get_tags()[:-1], 2])
    systems, times = from_atoms(atoms), {}
    for frames in ("single", "averaged"):
        model, durations = load_model(FOLDER, frames=frames), []
        for _ in range(17):
            start = time.process_time()
            model(systems)
            durations.append(time.process_time() - start)
        times[f"65 atoms, {frames}"] = round(float(np.median(durations[2:])) * 1e3, 1)
    return times


def readme(card: ModelCard, recipe: Recipe, measured: dict[str, Any]) -> str:
    """The README of the model folder."""
    n_weights = sum(
        p.numel() for p in load_model(FOLDER, device="cpu").potential.model.network.parameters()
    )
    training, bars = recipe.training, measured["intervals"]
    rows = [page.Row(**row) for row in measured["folds"]]
    lines = [
        f"# {card.name}",
        "",
        f"{card.members} FAENet networks ({n_weights:,} weights in all) that predict the energy and the positions of the relaxed structure from an "
        "unrelaxed one. The prediction is their mean, `energy_std` their spread. The model has no forces: use it with `geocalc predict`, to "
        "start relaxations (`relax --warm-start`), or as a second opinion on their energies (`--second-opinion`).",
        "",
        f"- **Energy:** {card.energy_kind.value} energy in eV; zero: {card.reference_text}.",
        f"- **Level of theory:** {card.level_of_theory}.",
        f"- **Domain:** {card.domain}.",
        f"- **Elements:** {' '.join(card.elements)}.",
        f"- **Frames:** `{card.frames}`: the mean over the symmetry-equivalent frames of the lattice; `single` is one of them.",
        "- **Tags:** read, in the convention of OC20; atoms with tag 0 are ignored, and so are edges without an adsorbate atom.",
        f"- **License of the weights:** {card.license}.",
        "",
        "## Errors on held-out structures",
        "",
        f"Each network is trained on three folds of the data's authors and tested on the fourth; folds 1 to 4, {training.steps:,} steps, "
        f"seed {training.seed}, {measured['machine']}. Command: `GEOCALC_DATA=... python {measured['command'].removeprefix('python ')}` after "
        "`train`, `predict` and `page` of the same workflow. The shipped mean of the networks cannot be tested on these folds, since "
        "each structure was in the training data of all but one of them.",
        "",
        page.HEAD,
        page.LINE,
        *(page.line(row) for row in rows),
        page.mean_line(rows),
        "",
        "Published for the same folds from the same unrelaxed structures, with the total energy as target: "
        + ", ".join(f"{name} {value:.3f} eV" for name, value in measured["peers"].items())
        + ". Comparable rows, errors by family and metal, and harder splits are in "
        "[`workflows/direct-is2re`](../../workflows/direct-is2re/README.md).",
        "",
        f"![adsorption energies against DFT, and their errors]({PICTURE})",
        "",
        f"Results carry intervals of the energy. Calibrated on three folds and tested on the fourth, the 68 % interval contains {bars['inside_68']:.1%} "
        f"(half-width {bars['half_width_68']:.2f} eV) and the 95 % interval {bars['inside_95']:.1%} ({bars['half_width_95']:.2f} eV), means "
        "over the folds. These figures are for one network; the mean of all should be no worse.",
        "",
        page.large_text(measured["large"]),
        "",
        "Time of one call on one thread: "
        + "; ".join(f"{k}: {v:.0f} ms" for k, v in measured["milliseconds"].items())
        + ".",
        "",
        "## Data",
        "",
        *(f"- {entry}" for entry in card.data),
        "",
        "The data are read from `$GEOCALC_DATA` and are not part of this repository.",
        "",
        "## Limitations",
        "",
        *(f"- {entry}" for entry in card.limits),
        "",
        "## Reproduce",
        "",
        "```bash",
        *(
            f"GEOCALC_DATA=... python workflows/direct-is2re/run.py {verb}"
            for verb in ("train", "predict", "large", "page", "ship")
        ),
        "```",
        "",
    ]
    return "\n".join(lines)
