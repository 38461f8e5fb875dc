"""Write the card of a potential as text and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import picture
import wide_text

from geocalc import LoadedModel
from geocalc.train import Recipe

ARCHITECTURES = {"faenet": "FAENet", "schnet": "SchNet", "regnn": "relaxed equivariant"}
FRAMES = {
    "averaged": "`averaged` (average over the symmetry-equivalent lattice frames: exactly invariant under rotation, reflection, "
    "translation, permutation, re-wrapping and choice of in-plane basis); `single` is one of them, several times faster, and exact "
    "except for the choice of basis.",
    "single": "`single` (one lattice frame: exactly invariant under rotation, reflection, translation, permutation and re-wrapping, but not "
    "under the choice of in-plane basis); `averaged`, on request, averages over all of them and is exact under that too, at several "
    "times the cost.",
    "none": "none needed: energies are invariant under rotation, reflection and translation by construction.",
}
TRAINED = {
    "none": "no frames",
    "stochastic": "stochastic frame averaging over lattice frames",
    "rotations-2d": "random rotations about the surface normal and reflections",
}


def card(model: LoadedModel, recipe: Recipe, measured: dict[str, Any]) -> str:
    """The README of the model folder."""
    c = model.card
    lines = [
        f"# {c.name}",
        "",
        _first_line(model, recipe),
        "",
        f"- **Energy:** {c.energy_kind.value} energy in eV; zero: {c.reference_text}.",
        f"- **Level of theory:** {c.level_of_theory}.",
        *(
            f'- **Another level, `level="{o.level}"`:** {o.level_of_theory}; zero: {o.reference_text}.'
            for o in c.other_levels
        ),
        f"- **Domain:** {c.domain}.",
        f"- **Elements:** {' '.join(c.elements)}.",
        "- **Forces:** exact gradient of the energy (`conservative: true`). No stress: cell relaxation is refused.",
        f"- **Frames:** {FRAMES[c.frames]}",
        f"- **Tags:** {'read, in the convention of OC20' if c.reads_tags else 'ignored; relabeling atoms changes nothing'}.",
        f"- **License of the weights:** {c.license}.",
        "",
        "## Errors on held-out relaxations",
        "",
        f"{measured['machine']}; {_seeds(c.members, recipe)}. {recipe.data.validation_fraction:.0%} of the relaxations, chosen by name, are held "
        f"out: never trained on, but used to choose the settings. Command: `GEOCALC_DATA=... python workflows/model-card/run.py {c.name}`.",
        "",
        "| held-out frames | n | energy MAE (eV) | force MAE, free atoms (eV/Å) | predicting zero | cosine |",
        "|---|---|---|---|---|---|",
        *(
            _frames_row(_set_name(Path(name)), errors)
            for name, errors in measured["single_points"].items()
        ),
    ]
    lines += [
        "",
        f"Relaxations from the first frame of each held-out relaxation on pure metals{_level(recipe)}, at most 300 steps, compared with the "
        "relaxed DFT geometry:",
        "",
        "| settings | n | e_ads MAE (eV) | median | within 0.1 eV | EwT | mean distance (Å) | ADwT | converged | runaways | calls |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label, r in measured["relaxations"].items():
        lines.append(
            f"| {label} | {r['n']} | {r['energy_mae']:.3f} | {r['energy_median']:.3f} | {r['within_0p1']:.2f} | {r['within_0p02']:.2f} | "
            f"{r['distance']:.3f} | {r['adwt']:.3f} | {r['converged']:.1%} | {r['runaways']} | {r['model_calls']:.1f} |"
        )
    first = next(iter(measured["relaxations"].values()))
    lines += [
        "",
        f"![energies, forces and relaxed energies against DFT]({picture.PICTURE})",
        "",
        f"Predictions for the first of the two sets against DFT: `python workflows/model-card/picture.py {c.name}`.",
        "",
        f"Baseline (unrelaxed geometry): mean distance {first['distance_null']:.3f} Å, ADwT {first['adwt_null']:.3f}. At the DFT "
        f"geometries the model has an e_ads MAE of {first['energy_mae_at_reference']:.3f} eV. A runaway is a relaxed energy more than 1 eV below the "
        "reference.",
        "",
        *(_outside(measured["outside"], measured["intervals"]) if "outside" in measured else []),
        "Time of one call with forces on one thread: "
        + "; ".join(f"{k}: {v:.0f} ms" for k, v in measured["milliseconds"].items())
        + ".",
        "",
        *(wide_text.sections(measured["wide"]) if "wide" in measured else []),
        "## Data",
        "",
        *(f"- {entry}" for entry in c.data),
        "",
        "The data are read from `$GEOCALC_DATA` and are not part of this repository. Left out are "
        f"frames with a force above {recipe.data.max_force:g} eV/Å, unconverged relaxations, and frames before an energy "
        f"jump of more than {recipe.data.max_jump:g} eV against the work of the forces (spin flips).",
        "",
        "## Limitations",
        "",
        *(f"- {entry}" for entry in c.limits),
        "",
        "## Reproduce",
        "",
        "```bash",
        *_training(c.name, c.members, recipe),
        f"GEOCALC_DATA=... python workflows/model-card/run.py {c.name}",
        "```",
        "",
    ]
    return "\n".join(lines)


def _level(recipe: Recipe) -> str:
    """The level of theory of the first source, where it is not the model's first."""
    level = recipe.data.sources[0].level
    return "" if level in (None, recipe.levels[0]) else f", at the level {level}"


def _outside(out: dict[str, Any], bars: dict[str, Any]) -> list[str]:
    """What error bars cover, and errors on slabs unlike those of the training."""
    return [
        f"{_intervals(bars)} On the outside set below the 95 % interval contains {out['inside_95']:.0%}.",
        "",
        f"Outside the training distribution: {out['n']} adsorbates on (111) slabs of nine metals, 3x3x4 instead of 2x2x3 (WWL-GPR, "
        f"BEEF-vdW): e_ads MAE {out['energy_mae']:.2f} eV, median {out['energy_median']:.2f} eV, mean error "
        f"{out['energy_mean_error']:+.2f} eV, {out['converged']:.0%} converged. This set is not an untouched test: it was used to decide on tags and the substrate "
        "term.",
        "",
    ]


def _first_line(model: LoadedModel, recipe: Recipe) -> str:
    members, training = model.card.members, recipe.training
    n_weights = sum(p.numel() for p in model.potential.model.network.parameters())
    schemes = [
        TRAINED[frames]
        for frames in dict.fromkeys([training.frames_at(0), training.frames_at(training.steps - 1)])
    ]
    name = ARCHITECTURES[model.card.architecture]
    what = (
        f"{name} potential"
        if members == 1
        else f"ensemble of {members} {name} potentials with error bars"
    )
    return (
        f"A conservative {what} ({n_weights:,} weights) for relaxing {_scope(recipe)} metal surfaces, trained with "
        f"{' and then '.join(schemes)}."
    )


def _frames_row(name: str, errors: Mapping[str, float]) -> str:
    energy = f"{errors['energy_mae']:.3f}" if "energy_mae" in errors else "–"
    forces = (
        f"{errors['force_mae']:.4f} | {errors['force_null']:.4f} | {errors['force_cosine']:.2f}"
    )
    return f"| {name} | {errors['n']:.0f} | {energy} | {forces} |"


def _intervals(bars: Mapping[str, Any]) -> str:
    """Sentences on the intervals of relaxed energies."""
    widths = bars.get("widths") or [bars["half_width_68"], bars["half_width_95"]]
    held = (
        f"Calibrated on one half of these relaxations, they contain {bars['inside_68']:.0%} and {bars['inside_95']:.0%} of the other half "
        f"(mean of {bars['halves']} random divisions)."
    )
    if "spread" not in bars:
        return f"Results carry intervals of relaxed energies, with half-widths of {widths[0]:.2f} eV for 68 % and {widths[1]:.2f} eV for 95 %. {held}"
    return (
        f"Results carry the spread of the networks, `energy_std` (median {bars['spread']:.3f} eV here; rank correlation with the error "
        f"{bars['rank_correlation']:.2f}), and intervals of relaxed energies that grow with it, with mean half-widths of {widths[0]:.2f} eV "
        f"for 68 % and {widths[1]:.2f} eV for 95 %. {held}"
    )


def _seeds(members: int, recipe: Recipe) -> str:
    seeds = [str(recipe.training.seed + k) for k in range(members)]
    return f"seed {seeds[0]}" if members == 1 else f"seeds {', '.join(seeds)}"


def _training(name: str, members: int, recipe: Recipe) -> list[str]:
    """Commands that train the weights."""
    train = f"GEOCALC_DATA=... geocalc train models/{name}/recipe.yaml --out runs/{name}"
    if members == 1:
        return [train, f"geocalc register runs/{name} --name {name}"]
    numbers = range(members)
    runs = [f"{train}-{k} --set training.seed={recipe.training.seed + k}" for k in numbers]
    return [
        *runs,
        f"geocalc register {' '.join(f'runs/{name}-{k}' for k in numbers)} --name {name}",
    ]


def is_wide(recipe: Recipe) -> bool:
    """Whether a model has learned from WWL-GPR, the outside set of the others."""
    return any(source.path.name.startswith("wwl") for source in recipe.data.sources)


def _scope(recipe: Recipe) -> str:
    """What kinds of adsorbates and surfaces the training data hold."""
    return "adsorbates on" if is_wide(recipe) else "small adsorbates on close-packed"


def _set_name(path: Path) -> str:
    """Name of a set: that of its folder, or of the file that workflows/wide-potential has made."""
    return path.stem if path.parts[0] == "runs" else path.parent.name
