"""Sections of a card about test structures of several sets, made by workflows/wide-potential."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETS = {
    "wwl-simple": "small adsorbates, several facets, metals and alloys (WWL-GPR)",
    "wwl-complex": "C1 and C2 oxygenates (WWL-GPR)",
    "cathub": "intermediates of CO2 reduction (Catalysis-Hub)",
    "gamenet": "organic molecules (GAME-Net FG, fold 1)",
    "hea": "CO, NO, H on a high-entropy alloy",
    "co2-ni": "CO2 on Ni(100), hot and reacting",
    "co-on-pt": "Pt crowded with CO, structures of other kinds",
    "paths": "NEB paths on Cu, dry",
    "paths-forces": "NEB paths on Cu under water",
    "oc20": "OC20 relaxations of systems left out",
    "alcohols": "alcohols on OC20 slabs, systems left out",
    "oxides": "oxides",
}
LIGHTS = {
    "known": "test structures, surfaces in training",
    "surfaces": "test structures, surfaces left out",
    "agra": "CO, CHO, COOH on Fe-Co-Ni-Cu-Mo",
    "hea-orr": "O, OH on Ag-Ir-Pd-Pt-Ru",
    "tinnet": "OH put 2 Å above bimetallic alloys",
    "oxides": "oxides, frames of relaxations",
    "oc20": "OC20, frames of relaxations left out",
    "alcohols": "alcohols, frames of relaxations left out",
    "all": "all",
}
PARTS = {"structure": "other structures", "surface": "other surfaces"}


def sections(wide: Mapping[str, Any]) -> list[str]:
    """Tables of errors on test structures that chose nothing."""
    return [
        "",
        "## Errors on test structures",
        "",
        "None of these structures was trained on or used to choose. Relaxed from DFT geometries with all free atoms rattled by 0.05 Å and "
        "the adsorbate lifted and pushed aside by 0.25 Å each. `near` is the share whose adsorbate ends within 0.3 Å of DFT; `to the site` "
        "compares adsorbates that have moved by more than 1 Å with the DFT energy of the site that is nearest in energy. "
        "Command: `python workflows/wide-potential/run.py measure`.",
        "",
        "| set | level | held out | n | e_ads MAE (eV) | median | to the site | near | exploded | green |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {SETS[row['set']]} | {row['level']} | {PARTS[row['part']]} | {row['n']} | {row['mae']:.3f} | {row['median']:.3f} | {row['site_mae']:.3f} | "
            f"{row['near']:.2f} | {row['exploded']:.1%} | {row['green']:.0%} |"
            for row in wide["relaxed"]
        ),
        "",
        "| forces of DFT frames | level | n | refused | MAE, free atoms (eV/Å) | predicting zero | cosine | amber or red |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {SETS[name]} | {row['level']} | {row['n']} | {row['refused']} | {row['mae']:.3f} | {row['null']:.3f} | {row['cosine']:.2f} | "
            f"{row['flagged']:.0%} |"
            for name, row in wide["forces"].items()
        ),
        "",
        f"Barriers of {wide['barriers']['n']} NEB paths at the DFT images: mean error {wide['barriers']['mean']:+.2f} eV, mean absolute error "
        f"{wide['barriers']['mae']:.2f} eV.",
        "",
        *_by("adsorbate", wide["by_adsorbate"]),
        *_by("metal", wide["by_metal"]),
        *_by("facet", wide["by_facet"]),
        *_domain(wide["domain"], wide["panel"]),
        *_lights(wide["lights"]),
    ]


def _by(what: str, rows: Mapping[str, list[float]]) -> list[str]:
    """e_ads MAE by a name, in one line."""
    told = ", ".join(f"{name} {mae:.2f} ({n:.0f})" for name, (n, mae) in rows.items())
    return [
        f"By {what}, e_ads MAE in eV at the first level (number of structures): {told}.",
        "",
    ]


def _domain(domain: Mapping[str, float], panel: Mapping[str, Any]) -> list[str]:
    """What lights and error bars are worth."""
    wrong = ", ".join(panel["green_and_wrong"]) or "none"
    return [
        "## Domain",
        "",
        "![adsorbates and metals of the training data](domain.png)",
        "",
        f"Of {domain['n']} relaxed test structures of the first level {domain['gross']} have an error above 0.5 eV, "
        "where one that slid is compared with the site that it went to; "
        f"{domain['flagged_of_gross']:.0%} of these are amber or red, and {domain['flagged_of_others']:.0%} of the others "
        f"(area under the curve {domain['auroc']:.2f}). The 95 % intervals of {domain['barred']} green and amber structures hold {domain['inside_95']:.0%}.",
        "",
        f"The newcomer's panel, {panel['n']} adsorbates on (111) faces built with ase.build: {panel['exploded']} exploded, {panel['green']} green, "
        f"{panel['wrong']} wrong (an e_ads off by more than 0.25 eV from BEEF-vdW at such a site, or a bond by more than 3 % from the teacher); green and wrong: "
        f"{wrong}.",
        "",
    ]


def _lights(lights: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whether lights tell right from wrong, set by set."""
    return [
        "Errors above 0.5 eV and lights, on these test structures and on sets of which the training had nothing. Zeros of energies that a set does not "
        "document are taken out: the median of each adsorbate, or the last frame of each relaxation. "
        "Command: `python workflows/wide-potential/run.py lights`.",
        "",
        "| structures | n | errors above 0.5 eV | of these amber or red | of the others amber or red | area under the curve |",
        "|---|---|---|---|---|---|",
        *(
            f"| {LIGHTS[name]} | {row['n']} | {row['gross']:.0%} | {_share(row['flagged'])} | {_share(row['false_alarms'])} | {_area(row['auroc'])} |"
            for name, row in lights.items()
        ),
        "",
    ]


def _share(value: float | None) -> str:
    """A share, or a dash where there is none."""
    return "–" if value is None else f"{value:.0%}"


def _area(value: float | None) -> str:
    """An area under the curve, or a dash where there is none."""
    return "–" if value is None else f"{value:.2f}"
