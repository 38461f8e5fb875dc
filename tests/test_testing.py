"""The laws of geocalc.testing are broken on purpose, and say so; batches are turned and repeated as
they claim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from helpers.models import random_potential
from helpers.structures import adslab, cloud, rattled, rotation_z, systems_of, turned
from torch import Tensor

from geocalc.core.systems import Prediction, Systems, sum_per_system
from geocalc.errors import InputError
from geocalc.graphs.neighbors import build_graph
from geocalc.potentials.ase import AsePotential
from geocalc.potentials.network import ForceMode
from geocalc.structures.transforms import singles, supercell
from geocalc.testing import (
    assert_basis_invariant,
    assert_batch_equals_singles,
    assert_deterministic,
    assert_forces_are_gradient,
    assert_inputs_unchanged,
    assert_permutation_equivariant,
    assert_reflection_invariant,
    assert_rewrap_invariant,
    assert_rotation_invariant,
    assert_smooth_at_cutoff,
    assert_stress_is_gradient,
    assert_supercell_extensive,
    assert_translation_invariant,
)


@dataclass(frozen=True)
class Formula:
    """A potential from a formula of the batch, with the forces of its gradient times a factor."""

    energy: Callable[[Systems], Tensor]
    factor: float = 1.0

    def __call__(self, systems: Systems) -> Prediction:
        positions = systems.positions.clone().requires_grad_()
        energy = self.energy(replace(systems, positions=positions)) + 0.0 * positions.sum()
        (gradient,) = torch.autograd.grad(energy.sum(), positions)
        return Prediction(energy=energy.detach(), forces=-self.factor * gradient)


def heights(systems: Systems) -> Tensor:
    return sum_per_system(systems.positions[:, 2], systems)


def lengths(systems: Systems) -> Tensor:
    """Sum of the distances from the centroid along x: turns about x and mirrors keep it, other
    turns do not.
    """
    center = sum_per_system(systems.positions, systems) / systems.counts[:, None]
    return sum_per_system((systems.positions - center[systems.system_idx])[:, 0].abs(), systems)


def handedness(systems: Systems) -> Tensor:
    center = systems.positions[0]
    return torch.linalg.det(systems.positions[1:4] - center)[None]


def places(systems: Systems) -> Tensor:
    first = torch.cumsum(systems.counts, 0) - systems.counts
    place = torch.arange(systems.n_atoms) - first[systems.system_idx]
    return sum_per_system((1.0 + place) * systems.numbers, systems)


def neighbor_counts(systems: Systems) -> Tensor:
    graph = build_graph(systems, 3.0)
    count = torch.bincount(graph.receivers, minlength=systems.n_atoms).double()
    return sum_per_system(count, systems)


def coin(systems: Systems) -> Tensor:
    return torch.rand(systems.n_systems, dtype=torch.float64)


def with_batch_mates(systems: Systems) -> Tensor:
    return systems.counts.double() + systems.n_systems


def square_of_size(systems: Systems) -> Tensor:
    return systems.counts.double() ** 2


def first_vector(systems: Systems) -> Tensor:
    return systems.cell[:, 0].norm(dim=1) * systems.counts


def overwrites(systems: Systems) -> Prediction:
    systems.tags[0] += 1
    return Prediction(energy=systems.counts.double())


def not_a_number(systems: Systems) -> Prediction:
    return Prediction(energy=torch.full((systems.n_systems,), torch.nan, dtype=torch.float64))


PAIR = systems_of(rattled(adslab("CO", size=(1, 1, 2))), rattled(adslab("O", size=(1, 1, 2))))
CLOUD = systems_of(cloud())
BROKEN = [
    (assert_translation_invariant, Formula(heights), PAIR, "translation: energy differs by"),
    (assert_rotation_invariant, Formula(lengths), CLOUD, "rotation about any: energy differs by"),
    (assert_reflection_invariant, Formula(handedness), CLOUD, "reflection: energy differs by"),
    (assert_permutation_equivariant, Formula(places), PAIR, "permutation: energy differs by"),
    (
        assert_batch_equals_singles,
        Formula(with_batch_mates),
        PAIR,
        "structure 0 in a batch: energy differs by 1 eV in row 0",
    ),
    (assert_rewrap_invariant, Formula(lengths), PAIR, "re-wrapping: energy differs by"),
    (assert_basis_invariant, Formula(first_vector), PAIR, "basis .*: energy differs by"),
    (
        assert_supercell_extensive,
        Formula(square_of_size),
        PAIR,
        "supercell: energy differs by 48 eV in row 0",
    ),
    (
        assert_forces_are_gradient,
        Formula(lengths, factor=1.01),
        CLOUD,
        "gradient: force along a direction differs by",
    ),
    (
        assert_forces_are_gradient,
        Formula(lengths, factor=-1.0),
        CLOUD,
        "gradient: force along a direction differs by",
    ),
    (assert_deterministic, Formula(coin), PAIR, "a repeated call: energy differs by"),
    (assert_inputs_unchanged, overwrites, PAIR, "inputs: the call changed `tags`"),
    (assert_forces_are_gradient, not_a_number, PAIR, "gradient: the potential gave no forces"),
    (assert_stress_is_gradient, Formula(heights), PAIR, "strain: the potential gave no stress"),
]


@pytest.mark.parametrize(("law", "potential", "systems", "message"), BROKEN)
def test_a_broken_law_is_named_with_the_size_of_the_difference(
    law: Callable[..., None],
    potential: Callable[[Systems], Prediction],
    systems: Systems,
    message: str,
) -> None:
    with pytest.raises(AssertionError, match=message):
        law(potential, replace(systems, tags=systems.tags.clone()))


def test_a_step_at_the_cutoff_is_found_in_energy_and_in_forces() -> None:
    with pytest.raises(
        AssertionError, match=r"across the cutoff \(structure 0\): energy differs by 2 eV"
    ):
        assert_smooth_at_cutoff(Formula(neighbor_counts), CLOUD, 3.0)
    sharp = random_potential("averaged", smooth_cutoff=False)
    with pytest.raises(AssertionError, match="across the cutoff"):
        assert_smooth_at_cutoff(sharp, PAIR, sharp.model.network.cutoff)

    def kinked(systems: Systems) -> Tensor:
        graph = build_graph(systems, 3.0)
        vectors = systems.positions[graph.senders] - systems.positions[graph.receivers]
        return sum_per_system(
            systems.positions.new_zeros(systems.n_atoms).index_add(
                0, graph.receivers, _ramp(vectors)
            ),
            systems,
        )

    def _ramp(vectors: Tensor) -> Tensor:
        return 3.0 - vectors.norm(dim=1)

    with pytest.raises(AssertionError, match="forces differs by"):
        assert_smooth_at_cutoff(Formula(kinked), CLOUD, 3.0)


def test_tolerance_is_what_may_differ() -> None:
    shifted = Formula(with_batch_mates)
    assert_batch_equals_singles(shifted, PAIR, tolerance=1.01)
    with pytest.raises(AssertionError, match=r"allowed 0\.99"):
        assert_batch_equals_singles(shifted, PAIR, tolerance=0.99)


def test_one_pose_breaks_what_frames_restore() -> None:
    plain = random_potential("none")
    with pytest.raises(AssertionError, match="rotation about z: energy differs by"):
        assert_rotation_invariant(plain, PAIR, axis="z")
    with pytest.raises(AssertionError, match="reflection: energy differs by"):
        assert_reflection_invariant(plain, PAIR)
    with pytest.raises(AssertionError, match=r"basis .*: energy differs by"):
        assert_basis_invariant(random_potential("single"), PAIR)


def test_published_batch_norm_and_bias_break_the_laws_they_are_known_to_break() -> None:
    with pytest.raises(AssertionError, match="structure 0 in a batch: energy differs by"):
        assert_batch_equals_singles(random_potential(norm="legacy_graph"), PAIR)
    with pytest.raises(AssertionError, match="supercell: energy differs by"):
        # its bias counts once, whatever the size
        assert_supercell_extensive(random_potential(skip_co="concat"), PAIR)


def test_wrong_stress_is_found() -> None:
    right = random_potential(stress=True)
    systems = systems_of(rattled(adslab("O", size=(1, 2, 2))))
    assert_stress_is_gradient(right, systems)

    def wrong(batch: Systems) -> Prediction:
        found = right(batch)
        assert found.stress is not None
        return replace(found, stress=found.stress * 1.01)

    with pytest.raises(
        AssertionError, match=r"strain: stress along a strain differs by .* eV/Angstrom\^3"
    ):
        assert_stress_is_gradient(wrong, systems)


def test_nan_is_never_close_to_a_number() -> None:
    def sometimes(systems: Systems) -> Prediction:
        return (
            not_a_number(systems)
            if systems.n_systems == 1
            else Prediction(energy=torch.zeros(2, dtype=torch.float64))
        )

    with pytest.raises(AssertionError, match="structure 0 in a batch: energy differs by inf"):
        assert_batch_equals_singles(sometimes, PAIR)


def test_the_laws_hold_for_another_potential() -> None:
    emt = AsePotential(calculator=EMT())
    systems = systems_of(
        rattled(adslab("CO", size=(2, 2, 2))), Atoms("CO", positions=[(0, 0, 0), (0.1, 0.2, 1.2)])
    )
    for law in (
        assert_translation_invariant,
        assert_rotation_invariant,
        assert_reflection_invariant,
    ):
        law(emt, systems)
    for law in (
        assert_permutation_equivariant,
        assert_batch_equals_singles,
        assert_rewrap_invariant,
        assert_supercell_extensive,
    ):
        law(emt, systems)
    assert_forces_are_gradient(emt, systems, n_directions=1)
    assert_inputs_unchanged(emt, systems)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (assert_rewrap_invariant, "periodic along at least 1 cell vector"),
        (assert_supercell_extensive, "periodic along at least 1 cell vector"),
        (assert_basis_invariant, "periodic along at least 2 cell vectors"),
        (assert_batch_equals_singles, "needs at least two"),
    ],
)
def test_a_law_that_has_nothing_to_act_on_refuses(law: Callable[..., None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        law(Formula(lengths), CLOUD)


def test_nothing_to_pass_through_the_cutoff_is_refused() -> None:
    with pytest.raises(InputError, match="nothing can pass through the cutoff"):
        assert_smooth_at_cutoff(Formula(lengths), systems_of(Atoms("H")), 3.0)


def test_direct_and_gradient_forces_are_both_held_to_the_laws() -> None:
    both = random_potential(direct_forces=True)

    def half(systems: Systems) -> Prediction:
        found = both(systems)
        assert found.direct_forces is not None
        return replace(found, direct_forces=found.direct_forces + torch.tensor([0.1, 0.0, 0.0]))

    assert both.force_mode is ForceMode.GRADIENT
    assert_rotation_invariant(both, PAIR)
    with pytest.raises(AssertionError, match="direct_forces differs by"):
        assert_rotation_invariant(half, PAIR)


def test_a_supercell_is_that_of_ase() -> None:
    atoms = rattled(adslab("CO", size=(1, 2, 2)))
    wire = Atoms(
        "CO", positions=[(0, 0, 0), (0, 0, 1.1)], cell=(0, 4.0, 0), pbc=(False, True, False)
    )
    larger, origin = supercell(systems_of(atoms, wire, cloud()), 2)
    first, second, third = singles(larger)
    expected = atoms.repeat((2, 2, 1))
    np.testing.assert_allclose(first.positions.numpy(), expected.positions, atol=1e-12)
    np.testing.assert_allclose(first.cell[0].numpy(), expected.cell.array, atol=1e-12)
    assert first.tags.tolist() == expected.get_tags().tolist()
    assert origin[: len(expected)].tolist() == list(range(len(atoms))) * 4
    assert second.positions[:, 1].tolist() == [0.0, 0.0, 4.0, 4.0]
    assert origin[len(expected) : len(expected) + 4].tolist() == [len(atoms), len(atoms) + 1] * 2
    assert third.n_atoms == len(cloud())


def test_singles_are_the_structures() -> None:
    parts = list(singles(PAIR))
    assert [part.n_atoms for part in parts] == PAIR.counts.tolist()
    assert torch.equal(torch.cat([part.positions for part in parts]), PAIR.positions)
    assert all(part.system_idx.eq(0).all() for part in parts)
    assert not torch.equal(turned(PAIR, rotation_z(0.3)).cell, PAIR.cell)
