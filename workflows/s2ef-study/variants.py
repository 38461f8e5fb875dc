"""Build the recipes of the variants: a shortened recipe of faenet-sfa with the changes of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geocalc.core import read_yaml
from geocalc.train import Recipe, parse_recipe

ROOT = Path(__file__).parents[2]
STEPS, FINISH = 8_000, 2_000  # about twenty minutes of one core
METAL = "Pd"  # left out of training
RPBE = "RPBE"
SLAB_ID = {
    "subtract_energy": "e_slab",
    "split_key": "slab_id",
    "exclude_key": "adsorbate",
    "level": RPBE,
}
OTHER_SOURCES: list[dict[str, Any]] = [
    {
        "path": "hea-agaucupdpt-co-no-h/hea_cn_relaxed.extxyz.gz",
        "weight": 0.15,
        "exclude_groups": ["none"],
        **SLAB_ID,
    },
    {"path": "hea-orr-oh-o-adsorption/hea_orr_relaxed.extxyz.gz", "weight": 0.05, **SLAB_ID},
    {"path": "oc20-trajectories-sample/oc20_traj.extxyz.gz", "energies": False, "level": RPBE},
    {
        "path": "finetuna-alcohol-adslab-relax/alcohol_traj.extxyz.gz",
        "energies": False,
        "level": RPBE,
    },
]
ABOUT_RPBE = {
    "level": RPBE,
    "energy_kind": "adsorption",
    "level_of_theory": "RPBE: GPAW, 400 eV plane waves (energies and forces); VASP, settings of OC20 (forces)",
    "reference_text": "relaxed clean slab, and the reference atoms of GPAW for those of the adsorbate",
}
ADSORBATE = ["H", "C", "N", "O"]

Values = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A recipe by name; `question` is what it is trained for."""

    name: str
    question: str
    change: Callable[[Values], None]
    steps: int = STEPS


def _alone(values: Values) -> None:
    """BEEF-vdW alone, as shipped."""


def _joint(values: Values) -> None:
    values["about"]["level"] = "BEEF-vdW"
    values["data"]["sources"] += OTHER_SOURCES
    values["other_levels"] = [{**ABOUT_RPBE, "elements": ADSORBATE}]
    values["model"]["settings"]["n_levels"] = 2


def _others(values: Values) -> None:
    values["about"] |= {key: value for key, value in ABOUT_RPBE.items() if key != "level"}
    values["data"]["sources"] = [
        {k: v for k, v in source.items() if k != "level"} for source in OTHER_SOURCES
    ]
    values["fitted_references"] = {"elements": ADSORBATE}


def _direct(values: Values) -> None:
    values["model"]["settings"] |= {
        "direct_forces": True,
        "force_decoder_type": "edges",
        "force_decoder_channels": 64,
    }
    values["training"]["direct_force_weight"] = values["training"]["force_weight"]


def _without_metal(values: Values) -> None:
    for source in values["data"]["sources"]:
        source["exclude_elements"] = [METAL]


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("alone", "the recipe of faenet-sfa, twenty minutes of it", _alone),
        Variant("joint", "does one network of both levels of theory do better than two?", _joint),
        Variant("others", "the other level of theory by itself", _others, steps=1_000),
        Variant(
            "direct",
            "forces of a head of their own beside the gradient of the energy",
            _direct,
            steps=5_000,
        ),
        Variant("without-pd", "what is lost on a metal that training has not seen", _without_metal),
    )
}


def recipe_of(variant: Variant, steps: int | None = None) -> Recipe:
    """The recipe of a variant; `steps` instead of its own for a trial."""
    values: Values = read_yaml(ROOT / "models" / "faenet-sfa" / "recipe.yaml")
    values["name"], total = variant.name, steps or variant.steps
    variant.change(values)
    values["training"] |= {"steps": total, "evaluate_every": max(1, total // 4)}
    values["training"]["final_stage"]["steps"] = max(1, total * FINISH // STEPS)
    return parse_recipe(values, variant.name)
