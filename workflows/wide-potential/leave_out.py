"""The wide potential without a metal in all real data: what it knows of it comes from the teacher.

The recipe is that of the last stage, shorter, with the default level and the teacher's alone, from the
network of the first stage, which has seen the teacher only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from measure import HOP, evenly, moved, of, start_of
from parents import ADSORBATE, BEEF, GBRV, SETS
from real import PBE

import geocalc

STEPS, LEARNING_RATE = 3000, 0.008
TEACHER_ONLY = ("runs/wide/clean.extxyz", "runs/wide/slabs.extxyz", "runs/wide/lifts.extxyz")
CORRECTED = "runs/wide/corrected.extxyz"
STAGE = "workflows/wide-potential/stages/wide-pretrain"
SETS_OF_LEVEL = ("mamun", "wwl-simple", "wwl-complex", "cathub")
N_STRUCTURES = 80  # of a set at most


def write_recipe(finish: Path, metal: str, target: Path) -> None:
    """Write the recipe without a metal.

    Args:
        finish: recipe of the last stage.
        metal: chemical symbol.
        target: file that is written.
    """
    recipe = yaml.safe_load(finish.read_text())
    recipe["name"] = f"wide-without-{metal}"
    recipe["start"] = {"model": STAGE, "hash": geocalc.load_model(STAGE, device="cpu").hash}
    sources = [
        one
        for one in recipe["data"]["sources"]
        if one["level"] in (BEEF, GBRV) or one["path"] == "runs/wide/teacher-wide"
    ]
    for one in sources:
        if one["path"] == CORRECTED:
            one["path"] = f"runs/wide/corrected-without-{metal}.extxyz"
        elif one["level"] != PBE and one["path"] not in TEACHER_ONLY:
            one["exclude_elements"] = [metal]
    recipe["data"]["sources"] = sources
    recipe["other_levels"] = [one for one in recipe["other_levels"] if one["level"] in (GBRV, PBE)]
    recipe["model"]["settings"]["n_levels"] = 3
    recipe["training"] |= {"steps": STEPS, "learning_rate": LEARNING_RATE, "evaluate_every": STEPS}
    target.write_text(yaml.safe_dump(recipe, sort_keys=False))


def measure_left_out(model: str, metal: str) -> dict[str, dict[str, float]]:
    """Errors of adsorption energies (eV) on the pure metal after relaxation, by set."""
    found = {}
    for name in SETS_OF_LEVEL:
        known = [
            one
            for one in SETS[name]()
            if _is_pure(one.atoms.get_chemical_symbols(), metal)
            and (one.atoms.get_tags() == ADSORBATE).any()
        ]
        if not known:
            continue
        parents = evenly(known, N_STRUCTURES)
        level = of(model, parents[0].level)
        results = geocalc.relax([start_of(one) for one in parents], model, level=level)
        errors, stays = [], []
        for parent, result in zip(parents, results, strict=True):
            if result.record.energy is not None:
                errors.append(result.record.energy - parent.energy)
                stays.append(moved(parent.atoms, result) < HOP)
        off, at_site = np.abs(errors), np.array(stays)
        found[name] = {
            "n": len(parents),
            "mae": float(off.mean()),
            "median": float(np.median(off)),
            "mean": float(np.mean(errors)),
            "mae_at_site": float(off[at_site].mean()),
        }
        print(name, found[name], flush=True)
    return found


def _is_pure(symbols: Sequence[str], metal: str) -> bool:
    """Whether the metal is the only one."""
    return set(symbols) - {"H", "C", "N", "O", "S"} == {metal}
