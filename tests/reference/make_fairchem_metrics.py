"""Record what the evaluator of fairchem-core computes, for `tests/test_fairchem_metrics.py`.

The evaluator is one file that needs numpy and torch alone, so the rest of the package is not
installed:

    pip download --no-deps fairchem-core==2.24.0
    python tests/reference/make_fairchem_metrics.py fairchem_core-2.24.0-py3-none-any.whl

Random structures in orthogonal and in skewed cells, with errors on both sides of every threshold
and atoms that were wrapped to other images. The evaluator takes the axes that are periodic once for
a whole batch: positions are compared once with all three, once as slabs. What it is given are atoms
free to move, as its users are told to.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

OUTPUT = Path(__file__).with_name("fairchem_metrics.npz")
SOURCE = "fairchem/core/modules/evaluator.py"
N_SYSTEMS = 40
PBC = {"bulk": [True, True, True], "slab": [True, True, False]}


def evaluator(wheel: Path) -> ModuleType:
    """The evaluator's module, run from the wheel."""
    module = ModuleType("evaluator")
    with zipfile.ZipFile(wheel) as archive:
        exec(compile(archive.read(SOURCE), SOURCE, "exec"), module.__dict__)
    return module


def made_up(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Made-up predicted and true energies, forces and positions."""
    n_atoms = rng.integers(3, 13, size=N_SYSTEMS)
    total = int(n_atoms.sum())
    cell = np.tile(np.diag([5.0, 6.0, 20.0]), (N_SYSTEMS, 1, 1)) + rng.normal(
        scale=0.3, size=(N_SYSTEMS, 3, 3)
    )
    # every second cell is so skewed that the nearest image is not the one of nearest fractions
    cell[1::2, 1, 0] += 2.4
    owner = np.repeat(np.arange(N_SYSTEMS), n_atoms)
    size = np.geomspace(0.003, 2.0, N_SYSTEMS)[owner, None]  # Angstrom
    positions_target = np.einsum("ai,aij->aj", rng.random((total, 3)) * [1, 1, 0.4], cell[owner])
    images = rng.integers(-2, 3, size=(total, 3)) * [1, 1, 0]
    moved = positions_target + size * rng.normal(size=(total, 3))
    moved[-1, 2] += 13.0  # more than half the height of the cell
    forces_target = rng.normal(scale=0.5, size=(total, 3))
    forces_target[0] = 0.0
    free = rng.random(total) < 0.7
    # the evaluator has no answer for a structure without free atoms
    free[np.cumsum(n_atoms) - 1] = True
    size_of_force_errors = rng.choice([0.005, 0.012, 0.05], size=N_SYSTEMS)[owner, None]
    size_of_force_errors[~free] = 0.3
    energy_target = rng.normal(scale=3.0, size=N_SYSTEMS)
    return {
        "n_atoms": n_atoms,
        "free": free,
        "cell": cell,
        "energy": energy_target + rng.normal(scale=0.02, size=N_SYSTEMS),
        "energy_target": energy_target,
        "forces": forces_target + size_of_force_errors * rng.normal(size=(total, 3)),
        "forces_target": forces_target,
        "positions": moved + np.einsum("ai,aij->aj", images.astype(float), cell[owner]),
        "positions_target": positions_target,
    }


def format_error(module: ModuleType, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the evaluator says of free atoms."""
    free, owner = made["free"], np.repeat(np.arange(N_SYSTEMS), made["n_atoms"])
    count = torch.from_numpy(np.bincount(owner[free], minlength=N_SYSTEMS))
    theirs, target = ({"natoms": count} for _ in range(2))
    for name in ("energy", "forces", "positions"):
        rows = slice(None) if name == "energy" else free
        theirs[name] = torch.from_numpy(made[name][rows])
        target[name] = torch.from_numpy(made[f"{name}_target"][rows])
    target["cell"] = torch.from_numpy(made["cell"])
    found: dict[str, float] = {
        "energy_mae": module.mae(theirs, target, "energy")["metric"],
        "energy_mse": module.mse(theirs, target, "energy")["metric"],
        "energy_within_threshold": module.energy_within_threshold(theirs, target)["metric"],
        "forces_mae": module.mae(theirs, target, "forces")["metric"],
        "forces_cosine_similarity": module.cosine_similarity(theirs, target, "forces")["metric"],
        "energy_forces_within_threshold": module.energy_forces_within_threshold(theirs, target)[
            "metric"
        ],
        "positions_mae": module.mae(theirs, target, "positions")["metric"],
    }
    arrays = {f"told/{name}": np.array(value) for name, value in found.items()}
    predicted, wanted, cell = made["positions"], made["positions_target"], made["cell"]
    for kind, pbc in PBC.items():
        target["pbc"] = torch.tensor(pbc)
        share = module.average_distance_within_threshold(theirs, target)["metric"]
        arrays[f"told/average_distance_within_threshold/{kind}"] = np.array(share)
        parts = [
            module.min_diff(predicted[owner == k], wanted[owner == k], cell[k], pbc)
            for k in range(N_SYSTEMS)
        ]
        arrays[f"told/min_diff/{kind}"] = np.concatenate(parts)
    return arrays


if __name__ == "__main__":
    inputs = made_up(np.random.default_rng(20))
    np.savez_compressed(OUTPUT, **inputs, **format_error(evaluator(Path(sys.argv[1])), inputs))
    sys.stdout.write(f"{OUTPUT.name}: {OUTPUT.stat().st_size} bytes\n")
