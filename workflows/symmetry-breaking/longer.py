"""Compare the shipped relaxed model, its equivariant twin and two others, from the cards written by
workflows/model-card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adslabs import theta_of
from adslabs_report import THETA_HEAD, UP, markdown, theta_cells

from geocalc import load_model
from geocalc.potentials import shipped_folder

TWIN, RELAXED = "equivariant", "regnn"
SHIPPED = ("schnet", "faenet-sfa-small", RELAXED)
HEAD = (
    "model",
    "weights",
    "steps",
    "energy (meV)",
    "force (meV/Å)",
    "cosine",
    "clean alloys: force (meV/Å)",
    "e_ads, relaxed (median) (eV)",
    "ADwT",
    "runaways",
    "outside: e_ads (median) (eV)",
    "13 atoms (ms)",
)


@dataclass(frozen=True)
class Carded:
    """A model and what its card says: name, number of weights, figures of metrics.json, relaxed
    weights of each layer by irrep.
    """

    name: str
    weights: int
    measured: Mapping[str, Any]
    theta: Sequence[dict[str, list[float]]]


def carded(name: str, folder: Path) -> Carded:
    """A model in its folder."""
    network = load_model(folder).potential.model.network
    return Carded(
        name=name,
        weights=sum(weight.numel() for weight in network.parameters()),
        measured=json.loads((folder / "metrics.json").read_text()),
        theta=theta_of(network),
    )


def read_longer(folder: Path) -> list[Carded]:
    """The equivariant twin in a folder and the shipped models; none where the twin is not there."""
    if not (folder / TWIN / "metrics.json").is_file():
        return []
    places = {name: shipped_folder() / name for name in SHIPPED} | {TWIN: folder / TWIN}
    return [carded(name, places[name]) for name in (*SHIPPED[:2], TWIN, RELAXED)]


def model_table(models: Sequence[Carded]) -> str:
    """A line for each model."""
    return markdown([HEAD, *(_line(model) for model in models)])


def _line(model: Carded) -> list[str]:
    measured = model.measured
    adslabs, alloys = measured["single_points"].values()
    relaxed, outside = next(iter(measured["relaxations"].values())), measured["outside"]
    return [
        model.name,
        f"{model.weights:,}",
        f"{measured['steps']:,}",
        f"{1000 * adslabs['energy_mae']:.0f}",
        f"{1000 * adslabs['force_mae']:.1f}",
        f"{adslabs['force_cosine']:.2f}",
        f"{1000 * alloys['force_mae']:.1f}",
        f"{relaxed['energy_mae']:.3f} ({relaxed['energy_median']:.3f})",
        f"{relaxed['adwt']:.3f}",
        str(relaxed["runaways"]),
        f"{outside['energy_mae']:.2f} ({outside['energy_median']:.2f})",
        f"{next(iter(measured['milliseconds'].values())):.0f}",
    ]


def normal_table(models: Sequence[Carded]) -> str:
    """The relaxed weights of the relaxed model."""
    (relaxed,) = (model for model in models if model.name == RELAXED)
    return markdown([THETA_HEAD, *theta_cells(relaxed.theta, UP)])
