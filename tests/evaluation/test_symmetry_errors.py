"""Symmetry errors against averages known on paper, and against what frames keep and lose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from helpers.models import random_potential
from helpers.structures import adslab, cloud, rattled, systems_of
from torch import Tensor

from geocalc.core.systems import Potential, Prediction, Systems, sum_per_system
from geocalc.errors import InputError
from geocalc.evaluation.symmetry_errors import (
    OperationErrors,
    SymmetryErrors,
    measure_symmetry_errors,
)
from geocalc.frames import frame_policy
from geocalc.potentials.ase import AsePotential
from geocalc.potentials.network import ForceMode, NetworkPotential

EXACT = 1e-9  # eV; rounding in float64 stays below
VISIBLE = 1e-3  # eV; what is broken is broken by more
NAMES = [f.name for f in fields(SymmetryErrors)]
SLABS = systems_of(
    rattled(adslab("CO", size=(1, 1, 2))), rattled(adslab("O", size=(1, 2, 2)), seed=3)
)
MIXED = systems_of(rattled(adslab("CO", size=(1, 1, 2))), cloud(5))
MOLECULES = systems_of(cloud(4), cloud(6, seed=2))


def by_name(errors: SymmetryErrors) -> dict[str, OperationErrors]:
    """Those that could be measured."""
    return {name: getattr(errors, name) for name in NAMES if getattr(errors, name) is not None}


def broken(errors: SymmetryErrors) -> set[str]:
    """Operations that change an energy or a force; every other leaves both to rounding."""
    found = set()
    for name, one in by_name(errors).items():
        assert one.forces is not None
        sizes = one.energy.maximum, one.forces.maximum
        assert max(sizes) < EXACT or max(sizes) > VISIBLE, (name, sizes)
        if max(sizes) > VISIBLE:
            found.add(name)
    return found


@dataclass(frozen=True)
class Slope:
    """The sum of the coordinates along x, whose force is the same everywhere; each moves by a
    displacement along x too.
    """

    def __call__(self, systems: Systems) -> Prediction:
        along = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(systems.n_atoms, 3)
        energy = sum_per_system(systems.positions[:, 0], systems)
        return Prediction(energy=energy, forces=-along, displacement=0.5 * along)


def test_means_are_those_of_uniform_turns_and_mirrors() -> None:
    """An atom at (1, 0, 0) whose energy is x.

    A turn by phi about z changes it by 1 - cos phi and leaves the force 2 |sin(phi / 2)| off; a
    turn in space takes the atom anywhere on the sphere; a mirror across n changes it by 2 n_x^2 and
    leaves the force 2 |n_x| off.
    """
    atoms = systems_of(*[Atoms("H", positions=[(1.0, 0.0, 0.0)])] * 100)
    found = by_name(measure_symmetry_errors(Slope(), atoms, n_rotations=60, batch=100))
    energies = {"rotation_z": 1.0, "rotation": 1.0, "reflection_z": 1.0, "reflection": 2 / 3}
    forces = {
        "rotation_z": 4 / math.pi,
        "rotation": 4 / 3,
        "reflection_z": 4 / math.pi,
        "reflection": 1.0,
    }
    for name, mean in energies.items():
        one = found[name]
        assert one.n == 6000
        assert one.forces is not None
        assert one.displacement is not None
        assert one.energy.mean == pytest.approx(mean, abs=0.03)
        assert one.forces.mean == pytest.approx(forces[name], abs=0.03)
        assert one.displacement.mean == pytest.approx(one.forces.mean / 2, rel=1e-12)
        assert 1.95 < one.energy.maximum <= 2.0
        assert 1.95 < one.forces.maximum <= 2.0 + EXACT
    # of a normal shift
    assert found["translation"].energy.mean == pytest.approx(3.0 * math.sqrt(2 / math.pi), abs=0.1)
    assert found["translation"].forces == found["repeat"].forces == found["batch"].forces
    assert found["repeat"].energy.maximum == found["permutation"].energy.maximum == 0.0


@pytest.mark.parametrize(
    "potential",
    [AsePotential(calculator=EMT()), random_potential("averaged")],
    ids=["EMT", "averaged"],
)
def test_exact_potentials_have_rounding_alone(potential: Potential) -> None:
    errors = measure_symmetry_errors(potential, SLABS, n_rotations=2)
    assert set(by_name(errors)) == set(NAMES)
    assert broken(errors) == set()


ORTHOGONAL = {"rotation_z", "rotation", "reflection_z", "reflection"}
FRAMES: list[tuple[str, Systems, set[str]]] = [
    ("none", SLABS, ORTHOGONAL),
    ("single", SLABS, {"basis"}),
    ("pca-2d", SLABS, {"rotation", "reflection", "rewrap"}),
    ("pca-2d-se", SLABS, {"rotation", "reflection", "reflection_z", "rewrap"}),
    ("pca-edges-2d", SLABS, {"rotation", "reflection"}),
    ("pca-3d", MOLECULES, set()),
    ("pca-3d-se", MOLECULES, {"reflection", "reflection_z"}),
    ("averaged", MIXED, set()),
]


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "systems", "lost"), FRAMES, ids=[name for name, _, _ in FRAMES])
def test_frames_lose_what_they_are_known_to_lose_and_nothing_else(
    frames: str, systems: Systems, lost: set[str]
) -> None:
    assert broken(measure_symmetry_errors(random_potential(frames), systems, n_rotations=2)) == lost


def test_norms_over_a_batch_make_a_structure_depend_on_others() -> None:
    assert broken(
        measure_symmetry_errors(random_potential(norm="legacy_graph"), SLABS, n_rotations=1)
    ) == {"batch"}


def stochastic(seed: int) -> NetworkPotential:
    return replace(random_potential("single"), policy=frame_policy("stochastic"), seed=seed)


def test_seeded_frames_are_drawn_by_place_in_the_batch_and_repeat() -> None:
    found = broken(measure_symmetry_errors(stochastic(1), SLABS, n_rotations=2))
    assert "batch" in found
    assert not {"repeat", "permutation", "rewrap"} & found


@pytest.mark.slow
def test_frames_drawn_anew_do_not_repeat() -> None:
    class Anew:
        calls = 0

        def __call__(self, systems: Systems) -> Prediction:
            self.calls += 1
            return stochastic(self.calls)(systems)

    assert "repeat" in broken(measure_symmetry_errors(Anew(), SLABS, n_rotations=4))


def test_what_does_not_apply_is_none_and_the_rest_counts_what_does() -> None:
    alone = measure_symmetry_errors(random_potential(), systems_of(cloud(4)), n_rotations=3)
    assert (alone.rewrap, alone.basis, alone.batch) == (None, None, None)
    mixed = by_name(measure_symmetry_errors(random_potential(), MIXED, n_rotations=3))
    assert {name: one.n for name, one in mixed.items()} == {
        **dict.fromkeys([*ORTHOGONAL, "translation", "permutation", "repeat"], 6),
        "rewrap": 3,
        "basis": 4,
        "batch": 2,
    }


def test_errors_are_of_structures_that_have_the_operation() -> None:
    """Molecules in the batch take nothing from the mean: a potential that reads their box errs by
    what a slab's is.
    """

    def stored(systems: Systems) -> Prediction:
        energy = systems.cell[:, 0].norm(dim=1) + 0.0 * systems.counts
        return Prediction(energy=energy)

    slab, molecule = rattled(adslab("CO", size=(1, 1, 2))), cloud(4)
    boxed = molecule.copy()
    boxed.cell = [9.0, 9.0, 9.0]
    one, both = (
        measure_symmetry_errors(stored, systems_of(*s), n_rotations=1).basis
        for s in ([slab], [slab, boxed])
    )
    assert one is not None
    assert one == both
    assert one.forces is None


def test_direct_models_are_measured_by_their_displacements() -> None:
    potential = random_potential("single", force_mode=ForceMode.NONE, direct_forces=True)
    potential.model.displaces = True
    exact = by_name(measure_symmetry_errors(potential, SLABS, n_rotations=2))["rotation"]
    assert exact.forces is None
    assert exact.displacement is not None
    assert exact.displacement.maximum < EXACT
    plain = by_name(
        measure_symmetry_errors(
            replace(potential, policy=frame_policy("none")), SLABS, n_rotations=2
        )
    )["rotation"]
    assert plain.displacement is not None
    assert plain.displacement.maximum > VISIBLE


@pytest.mark.slow
def test_draws_follow_the_seed_and_not_the_batches() -> None:
    potential = random_potential("none")
    first, again, other = (
        measure_symmetry_errors(potential, SLABS, n_rotations=2, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.rotation != other.rotation
    told: list[int] = []
    singly = measure_symmetry_errors(potential, SLABS, n_rotations=2, batch=1, progress=told.append)
    assert told == [1, 2]
    assert singly.batch is None
    assert singly.basis is not None


@pytest.mark.parametrize("settings", [{"n_rotations": 0}, {"batch": 0}])
def test_nothing_to_measure_is_refused(settings: dict[str, int]) -> None:
    measure: Callable[..., SymmetryErrors] = measure_symmetry_errors
    with pytest.raises(InputError, match="must be 1 at least"):
        measure(Slope(), SLABS, **settings)


def test_sums_in_another_order_leave_the_rounding_of_float32() -> None:
    potential = random_potential()
    potential.model.network.float()
    permutation = measure_symmetry_errors(potential, SLABS, n_rotations=2).permutation
    assert permutation is not None
    assert EXACT < permutation.energy.maximum < VISIBLE


def test_forces_are_turned_back_with_the_structure() -> None:
    """Forces of a spring to the centroid follow every operation; without turning them back they
    would not agree.
    """

    def spring(systems: Systems) -> Prediction:
        center = sum_per_system(systems.positions, systems) / systems.counts[:, None]
        arm: Tensor = systems.positions - center[systems.system_idx]
        return Prediction(energy=0.5 * sum_per_system((arm**2).sum(1), systems), forces=-arm)

    assert broken(measure_symmetry_errors(spring, MOLECULES, n_rotations=3)) == set()
