"""Figures of a card from measured test structures: errors by set, adsorbate, metal and facet, and what
the domain is worth.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import FORCES, GROSS, LEVELS, NEAR, Relaxed, auroc
from parents import BEEF

FEWEST = 4  # structures of a row


def figures(measured: Path, panel: Path, lights: Path) -> dict[str, Any]:
    """Everything that a card tells.

    Args:
        measured: file of `measure`.
        panel: file of `measure_panel`.
        lights: file of `measure_lights`.
    """
    found = json.loads(measured.read_text())
    relaxed = {
        name: [Relaxed(**values) for values in found[name]] for name in LEVELS if name in found
    }
    default = [one for name, some in relaxed.items() if LEVELS[name] == BEEF for one in some]
    lines = [json.loads(line) for line in panel.read_text().splitlines()]
    return {
        "relaxed": [
            {"set": name, "level": LEVELS[name], "part": part} | errors(some)
            for name, all_of_them in relaxed.items()
            for part, some in grouped(all_of_them, lambda one: one.part).items()
        ],
        "by_adsorbate": by(default, lambda one: one.adsorbate),
        "by_metal": by(default, lambda one: one.surface.partition("(")[0]),
        "by_facet": by(default, lambda one: one.surface.partition("(")[2].rstrip(")")),
        "forces": {name: found[name] | {"level": FORCES[name][0]} for name in FORCES},
        "barriers": found["barriers"],
        "domain": domain(default),
        "lights": json.loads(lights.read_text()),
        "panel": panel_figures(lines),
    }


def errors(some: Sequence[Relaxed]) -> dict[str, float]:
    """Mean figures of relaxed structures; energies in eV."""
    off = np.abs([one.error for one in some])
    known = off[np.isfinite(off)]
    return {
        "n": len(some),
        "mae": float(known.mean()),
        "median": float(np.median(known)),
        "site_mae": float(
            np.mean([abs(one.error_of_site) for one in some if one.told is not None])
        ),
        "near": float(np.mean([one.moved < NEAR for one in some])),
        "exploded": float(np.mean([one.status == "EXPLODED" for one in some])),
        "green": float(np.mean([one.domain == "green" for one in some])),
    }


def grouped(
    some: Sequence[Relaxed], key: Callable[[Relaxed], str]
) -> Mapping[str, Sequence[Relaxed]]:
    """Structures by a name."""
    found: dict[str, list[Relaxed]] = defaultdict(list)
    for one in some:
        found[key(one)].append(one)
    return dict(sorted(found.items()))


def by(some: Sequence[Relaxed], key: Callable[[Relaxed], str]) -> dict[str, list[float]]:
    """Number of structures and mean absolute error (eV) by a name."""
    return {
        name: [len(there), round(errors(there)["mae"], 3)]
        for name, there in grouped(some, key).items()
        if len(there) >= FEWEST
    }


def domain(some: Sequence[Relaxed]) -> dict[str, float]:
    """How far lights and error bars can be trusted. For lights an adsorbate that has gone to another
    site is compared with the site whose energy is nearest; error bars must hold it all the same.
    """
    off = np.abs([one.error_of_site for one in some])
    flagged = np.array([one.domain != "green" for one in some])
    novelty = np.array([np.inf if one.novelty is None else one.novelty for one in some])
    gross = off > GROSS
    barred = [one for one in some if one.error_95 is not None]
    return {
        "n": len(some),
        "gross": int(gross.sum()),
        "flagged_of_gross": float(flagged[gross].mean()) if gross.any() else 1.0,
        "flagged_of_others": float(flagged[~gross].mean()),
        "auroc": auroc(novelty, gross),
        "barred": len(barred),
        "inside_95": float(np.mean([abs(one.error) <= (one.error_95 or 0.0) for one in barred])),
    }


def panel_figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of the newcomer's panel."""
    green = [line for line in lines if line["domain"] == "green"]
    return {
        "n": len(lines),
        "exploded": sum(line["status"] == "EXPLODED" for line in lines),
        "green": len(green),
        "wrong": sum(line["wrong"] for line in lines),
        "green_and_wrong": [line["sid"] for line in green if line["wrong"]],
    }
