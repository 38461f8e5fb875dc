"""How far a potential is from the symmetries of physics, in eV and eV/Angstrom: laws measured where
`geocalc.testing` asserts them.

Each structure is moved or stored in another way that physics does not see, the potential is asked
again, its forces are turned back, and what differs is averaged over structures and draws. Exact
symmetries leave rounding: below 1e-9 eV in float64, about 1e-7 eV in float32. What is measured is a
potential with its frames, whether its network has the symmetry or not.
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
    """Of non-negative numbers."""

    mean: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class OperationErrors:
    """What one operation changes that it should not.

    Attributes:
        n: structures times draws.
        energy: eV, |E(x) - E(moved x)| over structures and draws.
        forces: eV/Angstrom, the norm |F(x) - F(moved x) turned back| of each atom, over atoms of
            all structures and draws; None for a potential without forces.
        displacement: Angstrom, the same of predicted displacements; None where there are none.
    """

    n: int
    energy: MeanAndMaximum
    forces: MeanAndMaximum | None
    displacement: MeanAndMaximum | None


@dataclass(frozen=True, kw_only=True)
class SymmetryErrors:
    """Errors by operation; None where no structure has the operation.

    Attributes:
        rotation_z, rotation: turns about z, and about any axis, uniformly distributed.
        reflection_z, reflection: in planes that contain z, and in any plane.
        translation: of a structure as a whole.
        permutation: of its atoms.
        rewrap: atoms stored in other periodic images.
        basis: other in-plane lattice vectors of the same crystal.
        batch: each structure alone instead of with others.
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
    """Measure every symmetry of a potential on some structures.

    Args:
        potential: with or without forces; in float64 unless rounding is to be measured too.
        systems: the structures.
        n_rotations: draws of each operation and structure, at least 1; the four bases and the
            structures alone come once.
        seed: of the draws.
        batch: structures evaluated together.
        progress: told how many are done.
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
    """A batch after an operation, and how vectors on its atoms come back.

    Attributes:
        systems: the batch.
        matrices: (n_systems, 3, 3) that vectors were multiplied by, or None.
        order: former places of the atoms, or None.
        feels: (n_systems,) bool, structures that have the operation; None for all.
    """

    systems: Systems
    matrices: Tensor | None = None
    order: Tensor | None = None
    feels: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class _Differences:
    """Of one draw: energies (n_systems,) eV, and norms of vectors on atoms (n_atoms,) or None."""

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
    """Every operation that keeps the batch together and that some structure of it has, by name."""
    for name, operation in _DRAWN.items():
        for _ in range(n_draws):
            moved = operation(systems, generator)
            if moved.feels is None or bool(moved.feels.any()):
                yield name, moved
    plane = systems.pbc.sum(1) >= 2
    for basis in IN_PLANE_BASES if bool(plane.any()) else ():
        yield "basis", _Moved(systems=with_basis(systems, basis), feels=plane)


def _alone(potential: Potential, systems: Systems, expected: Prediction) -> _Differences:
    """Every structure on its own beside the prediction for all of them together."""
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
    """What a prediction for moved structures differs by from that for the structures, of those that
    have the operation.
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
    """Vectors (n_atoms, 3) of moved atoms as they were before."""
    if moved.matrices is not None:
        matrices = moved.matrices.to(vectors)[systems.system_idx.to(vectors.device)]
        return torch.einsum("ai,aji->aj", vectors, matrices)
    if moved.order is not None:
        return torch.empty_like(vectors).index_copy_(0, moved.order.to(vectors.device), vectors)
    return vectors


def _summary(parts: list[_Differences]) -> OperationErrors | None:
    """Over all structures and draws; None without any."""
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
