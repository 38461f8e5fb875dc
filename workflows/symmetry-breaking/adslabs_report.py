"""Write the tables on adslabs: errors against the number of relaxations, and directions of relaxed
weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import matplotlib.pyplot as plt
import numpy as np
from adslabs import MEASURED, NETWORKS, TURNED, Judged, no_force, normal
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from geocalc.symmetry import invariant_projector, point_group, quadrupole_matrix, rotated_group

LABELS = {
    "faenet": "FAENet + SFA",
    "equivariant": "equivariant",
    "relaxed": "relaxed",
    TURNED: "relaxed, slabs askew",
}
COLOURS = {"faenet": "#7a5195", "equivariant": "#2f6690", "relaxed": "#d1495b"}
THETA_HEAD = (
    "layer",
    "0o",
    "1e",
    "1o",
    "2e",
    "2o",
    "fraction allowed by C∞v",
    "angle of 1o to the normal",
    "angle of 2e to it",
)
ABSENT = 1e-3  # of 0e; what is shorter has no direction worth telling
UP = np.array([0.0, 0.0, 1.0])
# turns about the normal and mirrors that hold it, up to degree 2 those of any angle
SURFACE = "C6v"


def read_judged(folder: Path) -> list[Judged]:
    """Every training that was judged, in the order of its network, size and seed."""
    found = [Judged(**json.loads(path.read_text())) for path in folder.glob(f"*/*/{MEASURED}")]
    order = {name: k for k, name in enumerate(LABELS)}
    known = [one for one in found if one.network in order]
    return sorted(known, key=lambda one: (order[one.network], one.size, one.seed))


@dataclass(frozen=True)
class NoForce:
    """Errors of predicting no force, eV/Angstrom: mean components in the axes of the slabs, and
    where slabs lie askew.
    """

    straight: float
    askew: float


def read_no_force(folder: Path) -> NoForce:
    """Of the structures of the test."""
    return NoForce(no_force(folder), no_force(folder, askew=True))


def error_table(judged: Sequence[Judged], nothing: NoForce) -> str:
    """Mean errors of the test over seeds, with their standard errors, and those of predicting no
    force.
    """
    sizes = sorted({one.size for one in judged})
    lines = [
        [
            "network",
            "weights",
            "s per step",
            *(f"{size}: energy (meV)" for size in sizes),
            *(f"{size}: force (meV/Å)" for size in sizes),
        ]
    ]
    for name in (name for name in LABELS if any(one.network == name for one in judged)):
        own = [one for one in judged if one.network == name]
        cells = [
            LABELS[name],
            f"{own[0].weights:,}",
            f"{fmean(one.seconds / one.steps for one in own):.2f}",
        ]
        for quantity in ("energy_mae", "force_mae"):
            for size in sizes:
                cells.append(
                    _mean([1000 * getattr(one, quantity) for one in own if one.size == size])
                )
        lines.append(cells)
    for label, value in (
        ("predicting no force", nothing.straight),
        ("predicting no force, tilted slabs", nothing.askew),
    ):
        lines.append([label, "", "", *("" for _ in sizes), *(f"{1000 * value:.1f}" for _ in sizes)])
    return markdown(lines)


def difference_table(judged: Sequence[Judged]) -> str:
    """The relaxed network against the others with the same relaxations and seed, on the test."""
    lines = [["relaxed minus", "relaxations", "energy (meV)", "force (meV/Å)", "pairs"]]
    by_key = {(one.network, one.size, one.seed): one for one in judged}
    for other in ("equivariant", "faenet"):
        for size in sorted({one.size for one in judged}):
            pairs = [
                (by_key["relaxed", size, seed], by_key[other, size, seed])
                for seed in sorted({one.seed for one in judged})
                if ("relaxed", size, seed) in by_key and (other, size, seed) in by_key
            ]
            if pairs:
                told = [
                    _mean(
                        [1000 * (getattr(a, quantity) - getattr(b, quantity)) for a, b in pairs],
                        sign=True,
                    )
                    for quantity in ("energy_mae", "force_mae")
                ]
                lines.append([LABELS[other], str(size), *told, str(len(pairs))])
    return markdown(lines)


def theta_table(judged: Sequence[Judged]) -> str:
    """Of each layer the lengths of relaxed weights by that of 0e, what of them the surface allows,
    and the angle to its normal.
    """
    lines = [["slabs", "relaxations", "seed", *THETA_HEAD]]
    for one in judged:
        if one.network in ("relaxed", TURNED):
            slabs, axis = ("tilted", normal()) if one.network == TURNED else ("given", UP)
            lines += [
                [slabs, str(one.size), str(one.seed), *cells]
                for cells in theta_cells(one.theta, axis)
            ]
    return markdown(lines)


def theta_cells(thetas: Sequence[dict[str, list[float]]], axis: np.ndarray) -> list[list[str]]:
    """A line of cells for each layer, under THETA_HEAD."""
    found = []
    for number, theta in enumerate(thetas, 1):
        lengths = {
            name: float(np.linalg.norm(theta[name])) / abs(theta["0e"][0])
            for name in THETA_HEAD[1:6]
        }
        polar = f"{_angle(theta['1o'], axis):.0f}°" if lengths["1o"] > ABSENT else "–"
        even = f"{_axis_angle(theta['2e'], axis):.0f}°" if lengths["2e"] > ABSENT else "–"
        told = [f"{length:.3f}" for length in lengths.values()]
        found.append([str(number), *told, f"{allowed_share(theta, axis):.2f}", polar, even])
    return found


def allowed_share(theta: dict[str, list[float]], axis: np.ndarray) -> float:
    """Share of the squared length of all but 0e that turns about `axis` and mirrors that hold it
    leave as it is.
    """
    group = rotated_group(point_group(SURFACE), turn_to(axis))
    kept, total = 0.0, 0.0
    for name, values in theta.items():
        if name != "0e":
            inside = invariant_projector(
                group, int(name[0]), 1 if name[1] == "e" else -1
            ) @ np.array(values)
            kept, total = kept + float(inside @ inside), total + float(np.dot(values, values))
    return kept / total if total else float("nan")


def turn_to(axis: np.ndarray) -> np.ndarray:
    """A rotation (3, 3) that takes z to a unit vector."""
    helper = np.eye(3)[int(np.argmin(np.abs(axis)))]
    first = np.cross(helper, axis)
    first /= np.linalg.norm(first)
    return np.stack((first, np.cross(axis, first), axis), axis=1)


def _angle(values: Sequence[float], axis: np.ndarray) -> float:
    """Degrees between a vector and an axis."""
    return float(
        np.degrees(np.arccos(np.clip(np.dot(values, axis) / np.linalg.norm(values), -1, 1)))
    )


def _axis_angle(values: Sequence[float], axis: np.ndarray) -> float:
    """Degrees between an axis and the principal axis with the largest value."""
    sizes, vectors = np.linalg.eigh(quadrupole_matrix(np.array(values)))
    main = vectors[:, int(np.argmax(np.abs(sizes)))]
    return float(np.degrees(np.arccos(np.clip(abs(main @ axis), 0, 1))))


def draw(judged: Sequence[Judged], nothing: NoForce, path: Path) -> None:
    """Errors of energies and forces against the number of relaxations, a dot for each seed."""
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), layout="constrained")
    _draw_errors(axes[0], judged, "energy_mae", "energy MAE (meV)")
    _draw_errors(axes[1], judged, "force_mae", "force MAE (meV/Å)")
    axes[0].legend(frameon=False)
    axes[1].axhline(1000 * nothing.straight, color="0.5", lw=1, ls="--")
    axes[1].text(
        axes[1].get_xlim()[1],
        1000 * nothing.straight,
        "no force at all",
        ha="right",
        va="bottom",
        color="0.4",
        fontsize=8,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_errors(axis: Axes, judged: Sequence[Judged], quantity: str, label: str) -> None:
    for name, aside in zip(NETWORKS, (0.95, 1.0, 1.05), strict=True):
        own = [one for one in judged if one.network == name]
        sizes = sorted({one.size for one in own})
        means = [
            fmean(1000 * getattr(one, quantity) for one in own if one.size == size)
            for size in sizes
        ]
        axis.plot(sizes, means, "-", color=COLOURS[name], label=LABELS[name])
        axis.plot(
            [aside * one.size for one in own],
            [1000 * getattr(one, quantity) for one in own],
            "o",
            ms=4,
            color=COLOURS[name],
            alpha=0.6,
        )
    axis.set(xscale="log", yscale="log", xlabel="relaxations learned from", ylabel=label)
    sizes = sorted({one.size for one in judged})
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)))
    axis.yaxis.set_major_formatter("{x:.0f}")
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _mean(values: Sequence[float], sign: bool = False) -> str:
    if not values:
        return "–"
    told = f"{fmean(values):+.1f}" if sign else f"{fmean(values):.1f}"
    return told if len(values) < 2 else f"{told} ± {stdev(values) / len(values) ** 0.5:.1f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table, its first line the head."""
    head, *rest = lines
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rest)
    )
