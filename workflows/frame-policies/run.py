"""Compare frame policies for relaxations: invariance, continuity along real relaxations,
convergence, cost.

Usage:
    GEOCALC_DATA=... python workflows/frame-policies/run.py [--model faenet-sfa] [--paths 20]
        [--relaxations 24]

Writes results.json and README.md in this folder. Uses the validation relaxations of the model's
recipe (first source), float64, CPU.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import page
import torch

from geocalc import LoadedModel, Systems, load_model
from geocalc.core import concatenate, configure_process
from geocalc.data import Sample, collate_samples, locate, reference_relaxations
from geocalc.evaluation import relax_references, summarize
from geocalc.frames import random_rotations
from geocalc.potentials import find_model
from geocalc.train import read_recipe

POLICIES = ("averaged", "single", "pca-edges-2d-one", "pca-2d-one", "stochastic")
# Angstrom, largest move of any atom between neighboring points of a path
COARSE, FINE = 0.01, 0.001
JUMP = 0.001  # eV; a larger difference than the forces explain is a jump
AT_ONCE = 48  # structures evaluated together


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
    template, _ = collate_samples(frames[:1])
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
    """Largest change of energy (eV) under operations that change nothing physical, over the
    samples.
    """
    generator = torch.Generator().manual_seed(0)
    systems, _ = collate_samples(samples)
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
            "invariance_eV": invariance(loaded, [r.images[-1] for r in held_out[:8]])
        }
        jumps, largest, n_points = 0, 0.0, 0
        for path in chosen:
            looked, more, worst = jumps_along(loaded, path.images)
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
            "steps_A": [COARSE, FINE],
        }
        folder = Path(__file__).parent
        (folder / "results.json").write_text(
            json.dumps({**about, "policies": results}, indent=1) + "\n"
        )
        (folder / "README.md").write_text(page.text(about, results))


if __name__ == "__main__":
    main()
