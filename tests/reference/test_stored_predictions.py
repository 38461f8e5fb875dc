"""Shipped models predict, and optimizers relax, as they did when the stored values were written.

`stored_predictions.npz` is the output of `make_stored_predictions.py`. `stored_relaxations.json`
holds relaxations with EMT by the same commit, and by a later one those of quasi-newton, whose steps
have changed: 16 structures of each set of
`workflows/benchmark-relaxation/emt_sets.py`, to 0.05 eV/Angstrom in at most 300 steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase.calculators.emt import EMT
from helpers.tiers import tiered
from helpers.workflow_modules import workflow_modules
from reference.make_stored_predictions import DTYPES, MODELS, predictions

from geocalc import from_atoms
from geocalc.optim import OPTIMIZERS
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.loop import relax_systems

HERE = Path(__file__).parent
# Energies in eV, forces in eV/Angstrom, displacements in Angstrom. Sums in another order, as on
# another kind of CPU, change predictions by some 1e-13 in float64 and 1e-6 in float32.
TOLERANCE = {"float64": 1e-10, "float32": 2e-5}
ENERGY = 1e-8  # eV, of a relaxed structure: rounding grows over the steps
STORED_OPTIMIZERS = ("bfgs", "fire", "fire2", "lbfgs", "quasi-newton")
FMAX, MAX_STEPS = 0.05, 300
N_STRUCTURES = 4  # of the 16 that are stored; the first are the same whatever their number


@cache
def stored_predictions() -> dict[str, np.ndarray]:
    with np.load(HERE / "stored_predictions.npz") as stored:
        return dict(stored)


@cache
def stored_relaxations() -> dict[str, dict[str, dict[str, list]]]:
    return json.loads((HERE / "stored_relaxations.json").read_text())


@pytest.fixture(scope="module")
def sets() -> Iterator[ModuleType]:
    """Module `emt_sets` of the workflow that measures relaxations."""
    with workflow_modules("benchmark-relaxation", ["emt_sets"]) as found:
        yield found["emt_sets"]


@pytest.mark.parametrize("dtype", tiered(DTYPES, fast=["float64"]))
@pytest.mark.parametrize(
    "model",
    tiered(MODELS, fast=["faenet-sfa-small", "faenet-is2re", "schnet"]),
)
def test_shipped_models_predict_the_stored_values(model: str, dtype: str) -> None:
    found = predictions(model, dtype)
    expected = {
        key: value
        for key, value in stored_predictions().items()
        if key.startswith(f"{model}/{dtype}/")
    }
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(
            found[key], value, rtol=0.0, atol=TOLERANCE[dtype], err_msg=key, strict=True
        )


@pytest.mark.parametrize("optimizer", tiered(STORED_OPTIMIZERS, fast=["quasi-newton"]))
@pytest.mark.parametrize("kind", tiered(["plain", "hard"], fast=["hard"]))
def test_relaxations_take_the_stored_steps_to_the_stored_energies(
    kind: str, optimizer: str, sets: ModuleType
) -> None:
    expected, ends = stored_relaxations()[kind][optimizer], []
    for atoms in sets.emt_set(N_STRUCTURES, 0, sets.KINDS[kind]):
        potential = AsePotential(calculator=EMT())
        systems = from_atoms(atoms, use_tags=False)
        ends += relax_systems(systems, potential, OPTIMIZERS[optimizer](), FMAX, MAX_STEPS)
    assert [end.n_evaluations for end in ends] == expected["calls"][:N_STRUCTURES]
    assert [end.status.value for end in ends] == expected["statuses"][:N_STRUCTURES]
    np.testing.assert_allclose(
        [end.energy for end in ends], expected["energies"][:N_STRUCTURES], rtol=0.0, atol=ENERGY
    )
