"""Which frame policy a relaxation can rest on: invariance, continuity along real relaxations,
convergence, cost.

Usage: GEOCALC_DATA=... python workflows/frame-policies/run.py [--model faenet-sfa] [--paths 20]
[--relaxations 24] Writes workflows/frame-policies/results.json and prints the tables of the README
beside this file. Validation relaxations of the model's recipe only (first source), float64, CPU.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from geocalc import load_model
from geocalc.core.process import configure_process
from geocalc.core.systems import Systems, concatenate
from geocalc.data.collate import collate
from geocalc.data.prepare import locate, reference_relaxations
from geocalc.data.store import Sample
from geocalc.evaluation.relaxations import relax_references, summarize
from geocalc.frames import random_rotations
from geocalc.potentials.registry import LoadedModel, find_model
from geocalc.train.recipe import read_recipe

POLICIES = ("averaged", "single", "pca-edges-2d-one", "pca-2d-one", "stochastic")
# Angstrom, largest move of any atom between neighboring points of a path
COARSE, FINE = 0.01, 0.001
JUMP = 0.001  # eV; a larger difference than the forces explain is a jump
AT_ONCE = 48  # structures evaluated together


FINDING = """## Finding

Frames from the lattice alone are the ones to relax with. They do not depend on positions, so the energy is as smooth as the network,
gradient forces are exact, and nothing changes under rotation, translation or re-wrapping. `lattice`, the average over all equivalent
frames, is also free of the choice of basis and keeps the symmetry of a site: an adsorbate on a symmetric site feels no spurious
force, as in DFT. It is the default of the shipped model. `cell`, one of these frames, costs a fraction of it and differs by the few
meV in the last column of the first table; it is the choice for speed.

The shipped model saw random turns while it learned, so it depends little on the frame: an earlier one, which had seen lattice frames
alone, changed by 7 meV with the basis, jumped 12 times by up to 9 meV with edge PCA, and needed 51 calls with `cell` at fmax 0.01.
One random frame for each structure still makes the energy jump from point to point; a seed only makes the jumps repeat. Axes of the
covariance of positions follow the periodic image in which an atom happens to be stored. Axes of the edge covariance do not, but they
are degenerate on fcc(111): with a single frame the energy jumps where the axes swap. PCA in two dimensions is by construction not
invariant under tilting the slab out of the xy plane."""


def between(before: torch.Tensor, after: torch.Tensor, step: float) -> list[torch.Tensor]:
    """Points from `before` (left out) to `after`, (n_atoms, 3) each, no atom moving more than
    `step` Angstrom from one to the next.
    """
    n = max(1, int(np.ceil(float((after - before).norm(dim=1).max()) / step)))
    return [before + (after - before) * (k / n) for k in range(1, n + 1)]


def unexplained(model: LoadedModel, template: Systems, points: list[torch.Tensor]) -> np.ndarray:
    """Change of energy from each point to the next less the work of the mean force, (n - 1,) eV,
    absolute.
    """
    energy, forces = [], []
    for start in range(0, len(points), AT_ONCE):
        told = model(
            concatenate([replace(template, positions=p) for p in points[start : start + AT_ONCE]])
        )
        energy.append(told.energy)
        forces.append(told.forces.reshape(len(told.energy), -1, 3))
    f, x = torch.cat(forces), torch.stack(points)
    work = -0.5 * ((f[1:] + f[:-1]) * (x[1:] - x[:-1])).sum((1, 2))
    return (torch.diff(torch.cat(energy)) - work).abs().numpy()


def jumps_along(model: LoadedModel, frames: tuple[Sample, ...]) -> tuple[int, int, float]:
    """Points looked at, jumps above `JUMP` that remain at `FINE` spacing, and the largest
    unexplained change (eV) at `COARSE`.

    A discontinuity shows at any spacing, so only the intervals that show more than `JUMP` are
    looked at again more closely.
    """
    template, _ = collate(frames[:1])
    places = [torch.from_numpy(f.positions) for f in frames]
    points = [places[0]]
    for before, after in itertools.pairwise(places):
        points += between(before, after, COARSE)
    rest = unexplained(model, template, points)
    jumps, n_points = 0, len(points)
    for k in np.flatnonzero(rest > JUMP):
        fine = [points[k], *between(points[k], points[k + 1], FINE)]
        jumps += int((unexplained(model, template, fine) > JUMP).sum())
        n_points += len(fine) - 2
    return n_points, jumps, float(rest.max(initial=0.0))


def invariance(model: LoadedModel, samples: list[Sample]) -> dict[str, float]:
    """Largest change of energy (eV) under operations that change nothing, over the samples."""
    generator = torch.Generator().manual_seed(0)
    systems, _ = collate(samples)
    energy = model(systems).energy
    worst: dict[str, float] = {"repeated call": float((model(systems).energy - energy).abs().max())}
    for name, dimensions in (("rotation about z", 2), ("rotation", 3)):
        turns = random_rotations(10, dimensions, True, generator).double()
        worst[name] = max(
            float((model(turned(systems, q)).energy - energy).abs().max()) for q in turns
        )
    shift = torch.tensor([0.31, 0.17, 0.0], dtype=torch.float64)
    worst["shift and re-wrap"] = float((model(wrapped(systems, shift)).energy - energy).abs().max())
    basis = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    worst["another lattice basis"] = float(
        (model(replace(systems, cell=basis @ systems.cell)).energy - energy).abs().max()
    )
    return worst


def turned(systems: Systems, rotation: torch.Tensor) -> Systems:
    """The whole batch, cells included, turned."""
    return replace(systems, positions=systems.positions @ rotation, cell=systems.cell @ rotation)


def wrapped(systems: Systems, shift: torch.Tensor) -> Systems:
    """The batch shifted by fractions of the cell and wrapped in the plane."""
    cell = systems.cell[systems.system_idx]
    fractional = (
        torch.linalg.solve(cell.transpose(1, 2), systems.positions[:, :, None])[:, :, 0] + shift
    )
    fractional[:, :2] -= fractional[:, :2].floor()
    return replace(systems, positions=torch.einsum("ai,aij->aj", fractional, cell))


def page(about: dict[str, object], policies: dict[str, dict[str, dict[str, float]]]) -> str:
    """The README beside this file."""
    lines = [
        "# Which frame can a relaxation rest on?",
        "",
        f"Model `{about['model']}`, float64, one CPU thread; held-out relaxations of `{about['data']}` (the recipe's validation split); "
        "`python workflows/frame-policies/run.py`. Numbers are in `results.json`.",
        "",
        "Largest change of the energy (eV) of 8 relaxed adslabs under operations that change nothing:",
        "",
        "| policy | repeated call | rotation about z | any rotation | shift and re-wrap | another basis |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in policies.items():
        e = found["invariance_eV"]
        keys = (
            "repeated call",
            "rotation about z",
            "rotation",
            "shift and re-wrap",
            "another lattice basis",
        )
        lines.append(f"| `{name}` | " + " | ".join(f"{e[key]:.0e}" for key in keys) + " |")
    lines += [
        "",
        f"Along {about['paths']} DFT relaxations, points {COARSE} Å apart, and {FINE} Å where the energy changes by more than 1 meV beyond the work of the forces: jumps that remain, "
        "the largest unexplained change at the coarse spacing, and relaxations "
        f"of {about['relaxations']} structures with BFGS, at most 200 steps:",
        "",
        "| policy | points | jumps > 1 meV | largest (eV) | converged, calls at fmax 0.05 | at fmax 0.01 | seconds for both |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in policies.items():
        path, loose, tight = found["path"], found["relax_fmax_0.05"], found["relax_fmax_0.01"]
        lines.append(
            f"| `{name}` | {path['points']} | {path['jumps_above_1meV']} | {path['largest_unexplained_eV']:.1e} | "
            f"{loose['converged']:.0%}, {loose['model_calls']:.1f} | {tight['converged']:.0%}, {tight['model_calls']:.1f} | "
            f"{loose['seconds'] + tight['seconds']:.0f} |"
        )
    return "\n".join([*lines, "", FINDING, ""])


@click.command()
@click.option("--model", default="faenet-sfa", show_default=True)
@click.option("--paths", default=20, show_default=True)
@click.option("--relaxations", default=24, show_default=True)
@click.option("--policies", default=",".join(POLICIES), show_default=True)
def main(model: str, paths: int, relaxations: int, policies: str) -> None:
    """Measure and write."""
    configure_process()
    recipe = read_recipe(find_model(model) / "recipe.yaml")
    held_out = reference_relaxations(recipe.data, 0)
    references = held_out[:: max(1, len(held_out) // relaxations)][:relaxations]
    chosen = held_out[:: max(1, len(held_out) // paths)][:paths]
    results: dict[str, dict[str, dict[str, float]]] = {}
    for policy in policies.split(","):
        loaded = load_model(model, dtype="float64", frames=policy, seed=0)
        found: dict[str, dict[str, float]] = {
            "invariance_eV": invariance(loaded, [r.frames[-1] for r in held_out[:8]])
        }
        jumps, largest, n_points = 0, 0.0, 0
        for path in chosen:
            looked, more, worst = jumps_along(loaded, path.frames)
            n_points, jumps, largest = n_points + looked, jumps + more, max(largest, worst)
        found["path"] = {
            "points": n_points,
            "jumps_above_1meV": jumps,
            "largest_unexplained_eV": largest,
        }
        for fmax in (0.05, 0.01):
            started = time.perf_counter()
            summary = summarize(
                relax_references(loaded, references, optimizer="bfgs", fmax=fmax, steps=200)
            )
            found[f"relax_fmax_{fmax}"] = {
                "converged": summary.converged,
                "model_calls": summary.model_calls,
                "energy_mae": summary.energy_mae,
                "seconds": round(time.perf_counter() - started, 1),
            }
        results[policy] = found
        print(policy, json.dumps(found), flush=True)
        about = {
            "model": model,
            "data": locate(recipe.data.sources[0].path).name,
            "paths": paths,
            "relaxations": relaxations,
        }
        folder = Path(__file__).parent
        (folder / "results.json").write_text(
            json.dumps({**about, "steps_A": [COARSE, FINE], "policies": results}, indent=1) + "\n"
        )
        (folder / "README.md").write_text(page(about, results))


if __name__ == "__main__":
    main()
