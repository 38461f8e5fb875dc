"""Symmetry errors of a potential: the laws of `geocalc.testing`, measured in eV and eV/Angstrom.

Each structure is transformed, or stored in an equivalent way, the potential is evaluated again, its
forces are transformed back, and the differences are averaged over structures and draws. Exact
symmetries leave rounding errors: below 1e-9 eV in float64, about 1e-7 eV in float32. The potential
is measured with its frame averaging, whether or not its network is symmetric itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.core.systems import Potential, Prediction, Systems
from geocalc.errors import InputError
from geocalc.frames.sampling import random_rotations
from geocalc.structures.transforms import (
    IN_PLANE_BASES,
    chunks,
    random_order,
    reflections,
    reordered,
    rewrapped,
    singles,
    transformed,
    translated,
    with_basis,
)

SHIFT = 3.0  # Angstrom; root mean square of a component of the translations
IMAGES = 2  # cells; atoms are stored up to so many away


@dataclass(frozen=True, kw_only=True)
class MeanAndMaximum:
    """Mean and maximum of non-negative numbers."""

    mean: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class OperationErrors:
    """Violation of one symmetry operation.

    Attributes:
        n: number of structures times draws.
        energy: eV, |E(x) - E(transformed x)| over structures and draws.
        forces: eV/Angstrom, norm of F(x) - F(transformed x) transformed back, over atoms of all
            structures and draws; None for a potential without forces.
        displacement: Angstrom, the same for predicted displacements; None if the potential predicts
            none.
    """

    n: int
    energy: MeanAndMaximum
    forces: MeanAndMaximum | None
    displacement: MeanAndMaximum | None


@dataclass(frozen=True, kw_only=True)
class SymmetryErrors:
    """Errors by operation; None where no structure has the operation.

    Attributes:
        rotation_z: rotations about z.
        rotation: rotations about any axis, uniformly distributed over SO(3).
        reflection_z: reflections in planes that contain z.
        reflection: reflections in any plane.
        translation: translation of the whole structure.
        permutation: permutation of the atoms.
        rewrap: atoms stored in other periodic images.
        basis: other in-plane lattice vectors of the same crystal.
        batch: each structure alone instead of in a batch.
        repeat: the same call again.
    """

    rotation_z: OperationErrors | None
    rotation: OperationErrors | None
    reflection_z: OperationErrors | None
    reflection: OperationErrors | None
    translation: OperationErrors | None
    permutation: OperationErrors | None
    rewrap: OperationErrors | None
    basis: OperationErrors | None
    batch: OperationErrors | None
    repeat: OperationErrors | None


def measure_symmetry_errors(
    potential: Potential,
    systems: Systems,
    *,
    n_rotations: int = 10,
    seed: int = 0,
    batch: int = 8,
    progress: Callable[[int], None] = lambda n: None,
) -> SymmetryErrors:
    """Measure all symmetry errors of a potential on a set of structures.

    Args:
        potential: with or without forces; use float64 to exclude rounding errors.
        systems: structures.
        n_rotations: draws of each operation per structure, at least 1; the four bases and the
            single-structure calls are evaluated once.
        seed: seed of the draws.
        batch: structures evaluated together.
        progress: callback, receives the number of finished structures.
    Raises:
        InputError: there is no structure, or a number is not positive.
    """
    if systems.n_systems < 1 or n_rotations < 1 or batch < 1:
        raise InputError(
            f"structures, n_rotations and batch must be 1 at least, got {systems.n_systems},"
            f" {n_rotations} and {batch}"
        )
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[_Differences]] = {name: [] for name in (*_DRAWN, "basis", "batch")}
    done = 0
    for some in chunks(systems, batch):
        expected = potential(some)
        for name, moves in _all_moves(some, n_rotations, generator):
            found[name].append(_differences(potential(moves.systems), expected, some, moves))
        if some.n_systems > 1:
            found["batch"].append(_alone(potential, some, expected))
        done += some.n_systems
        progress(done)
    return SymmetryErrors(**{name: _summary(parts) for name, parts in found.items()})


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """Batch after an operation, with the data that transform vectors on its atoms back.

    Attributes:
        systems: transformed batch.
        matrices: (n_systems, 3, 3) matrices applied to row vectors, or None.
        order: (n_atoms,) former index of each atom, or None.
        applies: (n_systems,) bool, structures that have the operation; None for all.
    """

    systems: Systems
    matrices: Tensor | None = None
    order: Tensor | None = None
    feels: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class _Differences:
    """Differences of one draw: energies (n_systems,) in eV, vector norms (n_atoms,) or None."""

    energy: Tensor
    forces: Tensor | None
    displacement: Tensor | None


Operation = Callable[[Systems, torch.Generator], _Moved]


def _rotation(dimensions: int) -> Operation:
    def operation(systems: Systems, generator: torch.Generator) -> _Moved:
        matrices = random_rotations(systems.n_systems, dimensions, True, generator).to(
            systems.positions
        )
        return _Moved(systems=transformed(systems, matrices), matrices=matrices)

    return operation


def _reflection(dimensions: int) -> Operation:
    def operation(systems: Systems, generator: torch.Generator) -> _Moved:
        normals = _normal(systems.n_systems, generator)
        normals[:, dimensions:] = 0.0
        matrices = reflections(normals).to(systems.positions)
        return _Moved(systems=transformed(systems, matrices), matrices=matrices)

    return operation


def _translation(systems: Systems, generator: torch.Generator) -> _Moved:
    return _Moved(
        systems=translated(
            systems, SHIFT * _normal(systems.n_systems, generator).to(systems.positions)
        )
    )


def _permutation(systems: Systems, generator: torch.Generator) -> _Moved:
    order = random_order(systems, generator)
    return _Moved(systems=reordered(systems, order), order=order)


def _rewrap(systems: Systems, generator: torch.Generator) -> _Moved:
    images = torch.randint(-IMAGES, IMAGES + 1, (systems.n_atoms, 3), generator=generator)
    return _Moved(systems=rewrapped(systems, images), feels=systems.pbc.any(1))


def _repeat(systems: Systems, generator: torch.Generator) -> _Moved:
    return _Moved(systems=systems)


_DRAWN: Mapping[str, Operation] = {
    "rotation_z": _rotation(2),
    "rotation": _rotation(3),
    "reflection_z": _reflection(2),
    "reflection": _reflection(3),
    "translation": _translation,
    "permutation": _permutation,
    "rewrap": _rewrap,
    "repeat": _repeat,
}


def _all_moves(
    systems: Systems, n_draws: int, generator: torch.Generator
) -> Iterator[tuple[str, _Moved]]:
    """Yield the name and the transformed batch of each operation that applies."""
    for name, operation in _DRAWN.items():
        for _ in range(n_draws):
            moved = operation(systems, generator)
            if moved.feels is None or bool(moved.feels.any()):
                yield name, moved
    plane = systems.pbc.sum(1) >= 2
    for basis in IN_PLANE_BASES if bool(plane.any()) else ():
        yield "basis", _Moved(systems=with_basis(systems, basis), feels=plane)


def _alone(potential: Potential, systems: Systems, expected: Prediction) -> _Differences:
    """Compare single-structure predictions with the prediction for the batch."""
    told = [potential(single) for single in singles(systems)]
    together = Prediction(
        energy=torch.cat([one.energy for one in told]),
        forces=_joined([one.forces for one in told]),
        displacement=_joined([one.displacement for one in told]),
    )
    return _differences(together, expected, systems, _Moved(systems=systems))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _differences(
    found: Prediction, expected: Prediction, systems: Systems, moved: _Moved
) -> _Differences:
    """Compute the differences between the predictions for transformed and original structures.

    Structures without the operation are left out.
    """
    feels = (
        torch.ones_like(found.energy, dtype=torch.bool)
        if moved.feels is None
        else moved.feels.to(found.energy.device)
    )
    atoms = feels[systems.system_idx.to(feels.device)]
    norms: dict[str, Tensor | None] = {}
    for name in ("forces", "displacement"):
        vectors, wanted = getattr(found, name), getattr(expected, name)
        norms[name] = None
        if vectors is not None and wanted is not None:
            norms[name] = (_back(vectors, systems, moved) - wanted).norm(dim=1)[atoms]
    return _Differences(energy=(found.energy - expected.energy).abs()[feels], **norms)


def _back(vectors: Tensor, systems: Systems, moved: _Moved) -> Tensor:
    """Transform vectors (n_atoms, 3) back to the original orientation and order."""
    if moved.matrices is not None:
        matrices = moved.matrices.to(vectors)[systems.system_idx.to(vectors.device)]
        return torch.einsum("ai,aji->aj", vectors, matrices)
    if moved.order is not None:
        return torch.empty_like(vectors).index_copy_(0, moved.order.to(vectors.device), vectors)
    return vectors


def _summary(parts: list[_Differences]) -> OperationErrors | None:
    """Summarize the differences over all structures and draws; None if there are none."""
    if not parts:
        return None
    energy = torch.cat([part.energy for part in parts])
    return OperationErrors(
        n=len(energy),
        energy=_mean_and_maximum(energy),
        forces=_of_vectors([part.forces for part in parts]),
        displacement=_of_vectors([part.displacement for part in parts]),
    )


def _of_vectors(parts: list[Tensor | None]) -> MeanAndMaximum | None:
    norms = _joined(parts)
    return None if norms is None else _mean_and_maximum(norms)


def _mean_and_maximum(values: Tensor) -> MeanAndMaximum:
    return MeanAndMaximum(mean=float(values.mean()), maximum=float(values.max()))


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn((n, 3), generator=generator, dtype=torch.float64)
