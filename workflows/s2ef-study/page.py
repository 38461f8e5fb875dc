"""Write tables and plot of the study between the markers of README.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interpolation import Limit
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from variants import METAL

Found = dict[str, dict[str, Any]]
Speed = dict[str, float]  # structures with forces each second
RESULTS = "results.json"
PURE = "mamun-puremetal-adslab-relax"
OURS, OTHER = "#2f6db3", "#d9822b"
LABELS = {  # results in the order of the tables, and what they are called there
    "faenet-sfa": "faenet-sfa",
    "alone": "its recipe, 20 min",
    "joint": "both levels, 8,000 steps",
    "faenet-sfa-small": "faenet-sfa-small",
    "faenet-sfa-small-ensemble": "faenet-sfa-small-ensemble",
    "schnet": "schnet",
    "mace": "MACE (small), 20 min",
    "chgnet": "CHGNet 0.3, as it comes",
}
PEERS = ("mace", "chgnet")
LEFT = ("faenet-sfa", "alone", "joint")  # labels left of their points, where there is room
NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All there is.

    Attributes:
        errors, tight: by model, as measure.py gives them.
        speed: structures with forces each second, by model.
        interpolation: of adsorption energies between metals.
    """

    errors: Found
    tight: Found
    speed: Speed
    interpolation: Limit


def read_results(folder: Path) -> dict[str, Any]:
    """The content of results.json; empty if there is no such file."""
    path = folder / RESULTS
    return (
        json.loads(path.read_text()) if path.exists() else {"errors": {}, "tight": {}, "speed": {}}
    )


def write_page(measured: Measured, folder: Path) -> None:
    """Renew results.json, the tables and accuracy-speed.png."""
    (folder / RESULTS).write_text(json.dumps(asdict(measured), indent=1) + "\n")
    found = measured.errors
    text = (folder / "README.md").read_text()
    for marker, table in (
        ("models", _models(found, measured.speed)),
        ("tight", _tight(measured.tight)),
        ("levels", _levels(found)),
        ("unseen", f"{_unseen(found)}\n\n{_limit(measured.interpolation)}"),
        ("direct", _direct(found)),
    ):
        head, rest = text.split(f"<!-- {marker} -->\n")
        text = f"{head}<!-- {marker} -->\n{table}\n<!-- /{marker} -->{rest.split(f'<!-- /{marker} -->')[1]}"
    (folder / "README.md").write_text(text)
    _draw(found, measured.speed, folder / "accuracy-speed.png")


def _models(found: Found, speed: Speed) -> str:
    rows = []
    for name in (name for name in LABELS if name in found):
        one = found[name]
        points, relaxed = one["frames"][PURE], one["relaxed"]
        rows.append(
            [
                LABELS[name],
                f"{points['force_mae']:.4f}",
                f"{points['force_cosine']:.2f}",
                f"{points['energy_mae']:.3f}",
                f"{relaxed['energy_mae']:.3f} ({relaxed['energy_median']:.3f})",
                f"{relaxed['position_mae']:.3f}",
                f"{relaxed['adwt']:.3f}",
                f"{relaxed['converged']:.0%}",
                f"{relaxed['runaways']}",
                f"{relaxed['model_calls']:.1f}",
                f"{speed[name]:.0f}" if name in speed else NOTHING,
            ]
        )
    head = [
        "model",
        "force MAE (eV/Å)",
        "cosine",
        "energy MAE (eV)",
        "e_ads MAE, relaxed (median)",
        "position MAE (Å)",
        "ADwT",
    ]
    return _table([*head, "converged", "runaways", "calls", "structures/s"], rows)


def _tight(found: Found) -> str:
    rows = []
    for name in (name for name in LABELS if name in found):
        for part, label in (("held_out", "held out"), ("trained", "from training")):
            one = found[name][part]
            errors = f"{one['energy_mae']:.3f} ({one['energy_median']:.3f})"
            rows.append(
                [
                    name,
                    label,
                    f"{one['n']}",
                    f"{one['converged']:.0%}",
                    f"{one['runaways']}",
                    f"{one['below_all_dft']} ({one['deepest']:.2f} eV)",
                    errors,
                    f"{one['model_calls']:.1f}",
                ]
            )
    return _table(
        [
            "model",
            "relaxations",
            "n",
            "converged",
            "runaways",
            "below all DFT (largest difference)",
            "e_ads MAE (median)",
            "calls",
        ],
        rows,
    )


def _levels(found: Found) -> str:
    rows = []
    sources = dict.fromkeys(
        source
        for name in ("alone", "joint", "others")
        for source in found.get(name, {}).get("frames", {})
    )
    for source in sources:
        nulls = [
            found[n]["frames"][source]["force_null"]
            for n in ("alone", "others", "joint")
            if source in found.get(n, {}).get("frames", {})
        ]
        row = [source, f"{nulls[0]:.4f}"]
        for key in ("force_mae", "energy_mae"):
            for names in (("alone", "others"), ("joint",)):
                known = [
                    found[n]["frames"][source][key]
                    for n in names
                    if key in found.get(n, {}).get("frames", {}).get(source, {})
                ]
                row.append(f"{known[0]:.4f}" if known else NOTHING)
        rows.append(row)
    head = [
        "held-out frames of",
        "predicting zero",
        "force MAE (eV/Å), separate",
        "joint",
        "energy MAE (eV), separate",
        "joint",
    ]
    return _table(head, rows)


def _unseen(found: Found) -> str:
    rows = []
    for name, label in (("without-pd", "without palladium"),):
        if name not in found:
            continue
        for what, frames, relaxed in (
            ("palladium", found[name]["unseen"]["frames"], found[name]["unseen"]["relaxed"]),
            (
                "the other metals, held-out relaxations",
                found[name]["frames"][PURE],
                found[name]["relaxed"],
            ),
        ):
            rows.append([label, what, *_row(frames, relaxed)])
    return _table(["trained", "measured on", *HEAD], rows)


def _limit(limit: Limit) -> str:
    """A sentence on interpolation between metals."""
    return (
        f"A Gaussian process on the metal, the adsorbate and the number of metal atoms that it touches in the relaxed structure has an "
        f"error of {limit.metals[METAL]:.2f} eV on relaxed energies of {METAL} from those of the other metals, and of {limit.mean:.2f} eV over "
        f"all {len(limit.metals)} metals in turn, with the best of twelve kernels (interpolation.py)."
    )


HEAD = (
    "relaxations",
    "force MAE (eV/Å)",
    "energy MAE (eV)",
    "e_ads MAE, relaxed (median)",
    "position MAE (Å)",
    "ADwT",
    "runaways",
)


def _row(frames: dict[str, Any], relaxed: dict[str, Any]) -> list[str]:
    return [
        f"{relaxed['n']}",
        f"{frames['force_mae']:.4f}",
        f"{frames['energy_mae']:.3f}",
        f"{relaxed['energy_mae']:.3f} ({relaxed['energy_median']:.3f})",
        f"{relaxed['position_mae']:.3f}",
        f"{relaxed['adwt']:.3f}",
        f"{relaxed['runaways']}",
    ]


def _direct(found: Found) -> str:
    rows = []
    if "direct" in found:
        one = found["direct"]
        for label, frames, relaxed in (
            ("gradient of the energy", one["frames"][PURE], one["relaxed"]),
            ("direct head", one["direct"]["frames"], one["direct"]["relaxed"]),
        ):
            rows.append(
                [
                    label,
                    *_row(frames, relaxed),
                    f"{relaxed['converged']:.0%}",
                    f"{relaxed['model_calls']:.1f}",
                ]
            )
    return _table(["forces", *HEAD, "converged", "calls"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "Not measured yet."
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _draw(found: Found, speed: Speed, path: Path) -> None:
    """Accuracy against speed: force errors of frames left, relaxed energies right."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    columns = (
        ("frames", "force_mae", "force MAE, held-out frames (eV/Å)"),
        ("relaxed", "energy_mae", "e_ads MAE after relaxation (eV)"),
    )
    for axis, (part, key, label) in zip(figure.subplots(1, 2), columns, strict=True):
        for name in (name for name in LABELS if name in found and name in speed):
            one = found[name]
            value = one["frames"][PURE][key] if part == "frames" else one["relaxed"][key]
            axis.plot(speed[name], value, "o", ms=7, color=OTHER if name in PEERS else OURS)
            across, side = (-6, "right") if name in LEFT else (6, "left")
            axis.annotate(
                LABELS[name],
                (speed[name], value),
                (across, 4),
                textcoords="offset points",
                fontsize=8,
                ha=side,
            )
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="structures with forces each second, one core",
            ylabel=label,
        )
        for direction in (axis.xaxis, axis.yaxis):
            direction.set_major_locator(LogLocator(subs=(1, 2, 5)))
            direction.set_major_formatter("{x:g}")
            direction.set_minor_formatter(NullFormatter())
        axis.margins(x=0.35, y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
