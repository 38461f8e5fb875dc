"""Physical laws of a potential as assertions, for the tests of geocalc and of its users.

Each function takes a `Potential` and a batch, compares two predictions that must agree by a
physical law, and raises AssertionError with the quantity that differs and the size of the
difference. `tolerance` is in eV; the same number is used for forces in eV/Angstrom and stress in
eV/Angstrom^3. Load the potential in float64: rounding errors in float32 are larger than the default
tolerance.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Literal

import torch
from torch import Tensor

from geocalc.core.systems import Potential, Prediction, Systems, select, sum_per_system
from geocalc.errors import InputError
from geocalc.frames.sampling import random_rotations
from geocalc.graphs.neighbors import build_graph, edge_vectors
from geocalc.structures.transforms import (
    IN_PLANE_BASES,
    random_order,
    reflections,
    reordered,
    rewrapped,
    singles,
    supercell,
    transformed,
    translated,
    with_basis,
)

TOLERANCE = 1e-6  # eV; far above rounding in float64, far below what any model resolves
UNITS = {
    "energy": "eV",
    "forces": "eV/Angstrom",
    "stress": "eV/Angstrom^3",
    "direct_forces": "eV/Angstrom",
    "displacement": "Angstrom",
    "atom_energies": "eV",
}
# Angstrom; extrapolation from there to the cutoff is exact to 1e-11 of the third derivative
CROSSING_STEP = 1e-4

Axis = Literal["z", "any"]


def assert_translation_invariant(
    potential: Potential, systems: Systems, *, tolerance: float = TOLERANCE, seed: int = 0
) -> None:
    """Check that predictions do not change when each structure is translated.

    Args:
        potential: potential under test.
        systems: batch of structures.
        tolerance: eV, see the docstring of the module.
        seed: seed of the translations, which are a few Angstrom long.
    Raises:
        AssertionError: a prediction changes.
    """
    moved = translated(systems, 3.0 * _normal((systems.n_systems, 3), seed).to(systems.positions))
    _compare("translation", potential(moved), potential(systems), tolerance)


def assert_rotation_invariant(
    potential: Potential,
    systems: Systems,
    *,
    axis: Axis = "any",
    n_rotations: int = 2,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Check that a rotation of positions and cell keeps energies and rotates forces and stress.

    Args:
        potential: potential under test.
        systems: batch of structures; each is rotated by its own matrix.
        axis: `z` for rotations about z only, `any` for all of SO(3).
        n_rotations: number of rotations.
        tolerance: eV, see the docstring of the module.
        seed: seed of the rotations.
    Raises:
        AssertionError: a prediction differs.
    """
    expected = potential(systems)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_rotations):
        matrices = random_rotations(systems.n_systems, 2 if axis == "z" else 3, True, generator).to(
            systems.positions
        )
        _compare(
            f"rotation about {axis}",
            potential(transformed(systems, matrices)),
            _along(expected, systems, matrices),
            tolerance,
        )


def assert_reflection_invariant(
    potential: Potential,
    systems: Systems,
    *,
    axis: Axis = "any",
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Check that a reflection of positions and cell keeps energies and reflects forces and stress.

    Args:
        potential: potential under test.
        systems: batch of structures; each is reflected in its own plane.
        axis: `z` for planes that contain z, `any` for all planes.
        tolerance: eV, see the docstring of the module.
        seed: seed of the planes.
    Raises:
        AssertionError: a prediction differs.
    """
    normal = _normal((systems.n_systems, 3), seed)
    if axis == "z":
        normal[:, 2] = 0.0
    matrices = reflections(normal).to(systems.positions)
    expected = _along(potential(systems), systems, matrices)
    _compare("reflection", potential(transformed(systems, matrices)), expected, tolerance)


def assert_permutation_equivariant(
    potential: Potential, systems: Systems, *, tolerance: float = TOLERANCE, seed: int = 0
) -> None:
    """Check that a permutation of the atoms keeps energies and permutes forces.

    Args:
        potential: potential under test.
        systems: batch of structures.
        tolerance: eV, see the docstring of the module.
        seed: seed of the permutation.
    Raises:
        AssertionError: a prediction differs.
    """
    order = random_order(systems, torch.Generator().manual_seed(seed))
    expected = potential(systems)
    per_atom = {name: value[order] for name, value in _atomic(expected).items()}
    _compare(
        "permutation",
        potential(reordered(systems, order)),
        replace(expected, **per_atom),
        tolerance,
    )


def assert_batch_equals_singles(
    potential: Potential, systems: Systems, *, tolerance: float = TOLERANCE
) -> None:
    """Check that each structure has the same prediction in a batch and alone.

    Args:
        potential: potential under test.
        systems: batch of at least two structures.
        tolerance: eV, see the docstring of the module.
    Raises:
        AssertionError: a prediction differs.
        InputError: the batch has only one structure.
    """
    if systems.n_systems < 2:
        raise InputError(
            "this law compares a batch with its single structures and needs at least two, got 1"
        )
    together = potential(systems)
    for k, single in enumerate(singles(systems)):
        chosen = torch.arange(systems.n_systems, device=systems.system_idx.device) == k
        _compare(
            f"structure {k} in a batch",
            potential(single),
            select(together, systems, chosen),
            tolerance,
        )


def assert_rewrap_invariant(
    potential: Potential, systems: Systems, *, tolerance: float = TOLERANCE, seed: int = 0
) -> None:
    """Check that predictions do not change when atoms move to other periodic images.

    Args:
        potential: potential under test.
        systems: batch with at least one periodic structure.
        tolerance: eV, see the docstring of the module.
        seed: seed of the images, which are up to two cells away.
    Raises:
        AssertionError: a prediction changes.
        InputError: no structure is periodic.
    """
    _need_periodic(systems, 1)
    generator = torch.Generator().manual_seed(seed)
    stored = rewrapped(systems, torch.randint(-2, 3, (systems.n_atoms, 3), generator=generator))
    _compare("re-wrapping", potential(stored), potential(systems), tolerance)


def assert_basis_invariant(
    potential: Potential, systems: Systems, *, tolerance: float = TOLERANCE
) -> None:
    """Check that predictions do not depend on the choice of in-plane lattice vectors.

    Left-handed cells are among the choices.

    Args:
        potential: potential under test.
        systems: batch with a structure periodic along at least two vectors; of three periodic
            vectors the last is taken as the one across the slab.
        tolerance: eV, see the docstring of the module.
    Raises:
        AssertionError: a prediction changes.
        InputError: no structure is periodic along two vectors.
    """
    _need_periodic(systems, 2)
    expected = potential(systems)
    for basis in IN_PLANE_BASES:
        _compare(f"basis {basis}", potential(with_basis(systems, basis)), expected, tolerance)


def assert_supercell_extensive(
    potential: Potential, systems: Systems, *, repeats: int = 2, tolerance: float = TOLERANCE
) -> None:
    """Check that an n x n supercell has n^2 times the energy and equal forces on equivalent atoms.

    Args:
        potential: potential under test.
        systems: batch with at least one periodic structure.
        repeats: number of cells n along each of the first two periodic vectors.
        tolerance: eV for each cell, see the docstring of the module.
    Raises:
        AssertionError: a prediction differs.
        InputError: no structure is periodic.
    """
    _need_periodic(systems, 1)
    larger, origin = supercell(systems, repeats)
    copies = larger.counts / systems.counts
    found, expected = potential(larger), potential(systems)
    per_atom = {name: value[origin] for name, value in _atomic(expected).items()}
    _compare(
        "supercell",
        replace(found, energy=found.energy / copies),
        replace(expected, **per_atom),
        tolerance,
    )


def assert_smooth_at_cutoff(
    potential: Potential, systems: Systems, cutoff: float, *, tolerance: float = TOLERANCE
) -> None:
    """Check that energy and forces are continuous when a distance passes through the cutoff.

    In each structure, the pair with the distance closest to the cutoff is moved through it, and
    predictions on both sides are extrapolated to the cutoff.

    Args:
        potential: potential under test.
        systems: batch of structures.
        cutoff: cutoff of the potential in Angstrom.
        tolerance: eV, see the docstring of the module.
    Raises:
        AssertionError: energy or forces jump.
        InputError: no structure has a pair of atoms within twice the cutoff.
    """
    paths = [
        path
        for path in (_through(single, cutoff) for single in singles(systems))
        if path is not None
    ]
    if not paths:
        raise InputError(
            f"no structure has two atoms within {2 * cutoff:g} Angstrom; nothing can pass through"
            " the cutoff"
        )
    for k, path in enumerate(paths):
        points = [potential(systems_at) for systems_at in path]
        sides = [
            _extrapolated(near, far)
            for near, far in ((points[1], points[0]), (points[2], points[3]))
        ]
        _compare(f"across the cutoff (structure {k})", sides[1], sides[0], tolerance)


def assert_forces_are_gradient(
    potential: Potential,
    systems: Systems,
    *,
    n_directions: int = 3,
    step: float = 1e-3,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Check forces against central differences of the energy along random directions.

    Args:
        potential: potential under test.
        systems: batch of structures.
        n_directions: number of directions; all atoms move along each.
        step: largest displacement of an atom in Angstrom; the error of the differences is of fourth
            order in it.
        tolerance: eV/Angstrom.
        seed: seed of the directions.
    Raises:
        AssertionError: the potential has no forces, or they are not minus the gradient.
    """
    forces = potential(systems).forces
    if forces is None:
        raise AssertionError("gradient: the potential gave no forces")
    for n in range(n_directions):
        direction = _normal((systems.n_atoms, 3), seed + n).to(systems.positions)
        direction = direction / direction.abs().max()
        energies = [
            potential(replace(systems, positions=systems.positions + x * direction)).energy
            for x in _stencil(step)
        ]
        slope, expected = (
            sum_per_system((forces * direction).sum(1), systems),
            -_slope(energies, step),
        )
        _close(
            "gradient", "force along a direction", tolerance, slope, expected, unit="eV/Angstrom"
        )


def assert_stress_is_gradient(
    potential: Potential,
    systems: Systems,
    *,
    n_directions: int = 3,
    step: float = 1e-4,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Check stress against central differences of the energy by strain, divided by the volume.

    Args:
        potential: potential under test.
        systems: batch of structures whose cells have a volume.
        n_directions: number of random symmetric strains.
        step: largest strain component.
        tolerance: eV/Angstrom^3.
        seed: seed of the strains.
    Raises:
        AssertionError: the potential has no stress, or it differs from the derivative.
    """
    stress = potential(systems).stress
    if stress is None:
        raise AssertionError("strain: the potential gave no stress")
    volume = torch.linalg.det(systems.cell).abs()
    unit = torch.eye(3).to(systems.cell)
    for n in range(n_directions):
        strain = _normal((systems.n_systems, 3, 3), seed + n).to(systems.cell)
        strain = (strain + strain.transpose(1, 2)) / strain.abs().max() / 2
        energies = [
            potential(transformed(systems, unit + x * strain)).energy for x in _stencil(step)
        ]
        slope, expected = (stress * strain).sum((1, 2)), _slope(energies, step) / volume
        _close("strain", "stress along a strain", tolerance, slope, expected, unit="eV/Angstrom^3")


def assert_deterministic(potential: Potential, systems: Systems, *, tolerance: float = 0.0) -> None:
    """Check that a repeated call gives the same prediction after other random numbers were drawn.

    Args:
        potential: potential under test.
        systems: batch of structures.
        tolerance: eV; 0 for bitwise equality.
    Raises:
        AssertionError: the predictions differ.
    """
    expected = potential(systems)
    with torch.random.fork_rng():
        torch.rand(1)
        _compare("a repeated call", potential(systems), expected, tolerance)


def assert_inputs_unchanged(potential: Potential, systems: Systems) -> None:
    """Check that a call leaves its input bitwise unchanged.

    Args:
        potential: potential under test.
        systems: batch of structures.
    Raises:
        AssertionError: a field has changed.
    """
    before = {
        f.name: getattr(systems, f.name).clone()
        for f in fields(systems)
        if getattr(systems, f.name) is not None
    }
    potential(systems)
    for name, value in before.items():
        now = getattr(systems, name)
        if not torch.equal(now, value) or now.requires_grad != value.requires_grad:
            raise AssertionError(f"inputs: the call changed `{name}` of its input")


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _need_periodic(systems: Systems, n: int) -> None:
    if not bool((systems.pbc.sum(1) >= n).any()):
        raise InputError(
            f"this law needs a structure that is periodic along at least {n} cell"
            f" vector{'s' * (n > 1)}; give one"
        )


def _atomic(prediction: Prediction) -> dict[str, Tensor]:
    """Collect the fields with one row per atom."""
    values = {
        name: getattr(prediction, name)
        for name in ("forces", "direct_forces", "displacement", "atom_energies")
    }
    return {name: value for name, value in values.items() if value is not None}


def _along(prediction: Prediction, systems: Systems, matrices: Tensor) -> Prediction:
    """Transform vectors and stress by the matrix (n_systems, 3, 3) of each structure."""
    vectors = {name: value for name, value in _atomic(prediction).items() if value.dim() == 2}
    turned = {
        name: torch.einsum("ai,aij->aj", value, matrices[systems.system_idx])
        for name, value in vectors.items()
    }
    if prediction.stress is not None:
        turned["stress"] = matrices.transpose(1, 2) @ prediction.stress @ matrices
    return replace(prediction, **turned)


def _through(single: Systems, cutoff: float) -> list[Systems] | None:
    """Place one pair of atoms at -3, -1, 1 and 3 steps from the cutoff; None without a pair."""
    graph = build_graph(single, 2 * cutoff)
    vectors = edge_vectors(single.positions, single.cell, single.system_idx, graph)
    lengths = vectors.norm(dim=1)
    pairs = torch.nonzero(graph.senders != graph.receivers)[:, 0]
    if not len(pairs):
        return None
    edge = pairs[(lengths[pairs] - cutoff).abs().argmin()]
    unit = vectors[edge] / lengths[edge]
    path = []
    for steps in (-3, -1, 1, 3):
        positions = single.positions.clone()
        positions[graph.receivers[edge]] += (lengths[edge] - cutoff - steps * CROSSING_STEP) * unit
        path.append(replace(single, positions=positions))
    return path


def _extrapolated(near: Prediction, far: Prediction) -> Prediction:
    """Extrapolate to zero from values at one and three steps."""
    values = {name: getattr(near, name) for name in UNITS if getattr(near, name) is not None}
    return replace(
        near, **{name: 1.5 * value - 0.5 * getattr(far, name) for name, value in values.items()}
    )


def _stencil(step: float) -> tuple[float, float, float, float]:
    return (-2 * step, -step, step, 2 * step)


def _slope(energies: list[Tensor], step: float) -> Tensor:
    """Compute the derivative from values at the points of `_stencil`, with a fourth-order error."""
    return (8 * (energies[2] - energies[1]) - (energies[3] - energies[0])) / (12 * step)


def _compare(law: str, found: Prediction, expected: Prediction, tolerance: float) -> None:
    """Compare every field of two predictions."""
    for name, unit in UNITS.items():
        pair = getattr(found, name), getattr(expected, name)
        if (pair[0] is None) != (pair[1] is None):
            raise AssertionError(
                f"{law}: `{name}` is present in one prediction and missing in the other"
            )
        if pair[0] is not None:
            _close(law, name, tolerance, *pair, unit=unit)


def _close(
    law: str, what: str, tolerance: float, found: Tensor, expected: Tensor, unit: str = ""
) -> None:
    """Raise AssertionError for the largest difference above the tolerance; NaN equals only NaN."""
    if found.shape != expected.shape:
        raise AssertionError(
            f"{law}: {what} has shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
        )
    if not found.numel():
        return
    gap = (found - expected).abs()
    gap = (
        torch.where(found.isnan() & expected.isnan(), 0.0, gap)
        .nan_to_num(nan=torch.inf)
        .flatten(1 if found.dim() > 1 else 0)
    )
    per_row = gap.amax(1) if found.dim() > 1 else gap
    row = int(per_row.argmax())
    worst = float(per_row[row])
    if worst > tolerance:
        raise AssertionError(
            f"{law}: {what} differs by {worst:.3g} {unit} in row {row}, allowed {tolerance:.3g}: "
            f"{found[row].tolist()} against {expected[row].tolist()}"
        )
