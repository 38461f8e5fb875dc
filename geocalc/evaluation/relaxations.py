"""Errors of relaxations with a model, compared with reference relaxations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from geocalc.core.choice import Choice
from geocalc.core.systems import Potential, Systems, apply_constraints, free_atoms
from geocalc.data.collate import collate_samples
from geocalc.data.prepare import ReferenceRelaxation
from geocalc.errors import InputError
from geocalc.evaluation import metrics
from geocalc.optim.catalog import make_optimizer
from geocalc.relaxation.loop import relax_systems
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import Status

# eV; a relaxed energy this far below the reference has fallen into a hole of the learned surface
RUNAWAY = 1.0
NEAR = 0.1  # eV; chemical use, the share within it is reported beside EwT
NEAR_PLACE = 0.1  # Angstrom; a tenth of a bond, the share within it is reported beside ADwT


@dataclass(frozen=True, kw_only=True)
class RelaxedPair:
    """Structure relaxed by a model and its reference relaxation.

    Attributes:
        sid: name of the structure.
        energy: eV, model energy of the model's relaxed geometry.
        reference: eV, reference energy of the reference's relaxed geometry.
        at_reference: eV, model energy of the reference's relaxed geometry.
        distance: Angstrom, distance of the relaxed from the reference geometry, mean over free
            atoms.
        null_distance: Angstrom, the same for the unrelaxed geometry.
        position_mae: Angstrom, mean absolute coordinate difference of free atoms, without minimum
            image (as OC20).
        position_mae_mic: Angstrom, the same with minimum image.
        status: status of the relaxation.
        n_evaluations: model calls of the relaxation.
        energy_std: eV, spread of the relaxed energy, see `Prediction`; NaN where the model gives
            none.
        novelty: of the relaxed geometry, see `Prediction`; NaN where it is not known.
    """

    sid: str
    energy: float
    reference: float
    at_reference: float
    distance: float
    null_distance: float
    position_mae: float
    position_mae_mic: float
    status: str
    n_evaluations: int
    energy_std: float
    novelty: float


@dataclass(frozen=True, kw_only=True)
class RelaxErrors:
    """Errors averaged over relaxed structures; energies in eV, distances in Angstrom.

    Attributes:
        n: number of structures.
        energy_mae: mean absolute error of the relaxed energies.
        energy_median: median absolute error.
        energy_rmse: root mean square error.
        energy_mae_at_reference: mean absolute error at the reference's relaxed geometries.
        within_0p02: fraction of energies within 0.02 eV (EwT).
        within_0p1: fraction of energies within 0.1 eV.
        distance: mean distance from the reference geometry.
        distance_median: median of the distances.
        distance_null: mean distance of the unrelaxed geometries (baseline: no displacement).
        position_mae: mean absolute coordinate difference, without minimum image.
        position_mae_mic: the same with minimum image.
        dwt_0p1: fraction of structures with a mean distance below 0.1 Angstrom (DwT).
        adwt: DwT averaged over OC20's thresholds.
        adwt_null: `adwt` of the unrelaxed geometries.
        converged: fraction of relaxations that converged.
        runaways: number of relaxed energies more than 1 eV below the reference.
        model_calls: mean number of model calls of a relaxation.
    """

    n: int
    energy_mae: float
    energy_median: float
    energy_rmse: float
    energy_mae_at_reference: float
    within_0p02: float
    within_0p1: float
    distance: float
    distance_median: float
    distance_null: float
    position_mae: float
    position_mae_mic: float
    dwt_0p1: float
    adwt: float
    adwt_null: float
    converged: float
    runaways: int
    model_calls: float


@dataclass(frozen=True, kw_only=True)
class ForcesBelow:
    """Reference forces at the end of relaxations with another potential, along free coordinates.

    Attributes:
        n: number of structures.
        fbt: fraction of structures with a largest force below 0.05 eV/Angstrom (FbT).
        afbt: FbT averaged over thresholds from 0.010 to 0.400 eV/Angstrom (AFbT), see
            `geocalc.evaluation.metrics`.
        fmax_mean: eV/Angstrom, mean of the largest force of each structure.
        fmax_median: eV/Angstrom, median of the same.
    """

    n: int
    fbt: float
    afbt: float
    fmax_mean: float
    fmax_median: float


def relax_references(
    potential: Potential,
    references: Sequence[ReferenceRelaxation],
    *,
    optimizer: str | Choice = "quasi-newton",
    fmax: float = 0.05,
    steps: int = 300,
    batch: int = 1,
    progress: Callable[[int], None] = lambda n: None,
) -> list[RelaxedPair]:
    """Relax the first image of every reference relaxation and compare with its last image.

    Args:
        potential: potential with forces.
        references: labeled relaxations.
        optimizer: name of the optimizer.
        fmax: eV/Angstrom, convergence criterion.
        steps: maximum number of steps.
        batch: structures relaxed together; results do not depend on it.
        progress: callback, receives the number of finished structures.
    """
    pairs: list[RelaxedPair] = []
    for start in range(0, len(references), batch):
        some = references[start : start + batch]
        systems, _ = collate_samples([r.first for r in some])
        ended = relax_systems(systems, potential, make_optimizer(optimizer), fmax, steps)
        there, _ = collate_samples([r.last for r in some])
        at_reference = potential(there).energy.tolist()
        pairs += [
            relaxed_pair(
                reference,
                end.systems.positions.cpu().numpy(),
                energy=end.energy,
                status=end.status.value,
                n_evaluations=end.n_evaluations,
                at_reference=energy,
                energy_std=end.energy_std,
                novelty=end.novelty,
            )
            for reference, end, energy in zip(some, ended, at_reference, strict=True)
        ]
        progress(len(pairs))
    return pairs


def relaxed_pair(
    reference: ReferenceRelaxation,
    positions: np.ndarray,
    *,
    energy: float,
    status: str,
    n_evaluations: int,
    at_reference: float = np.nan,
    energy_std: float = np.nan,
    novelty: float = np.nan,
) -> RelaxedPair:
    """Compare the end of a relaxation with its reference.

    Args:
        reference: labeled relaxation.
        positions: (n_atoms, 3) relaxed positions, Angstrom.
        energy: eV, see `RelaxedPair`.
        status: status of the relaxation.
        n_evaluations: model calls of the relaxation.
        at_reference: eV, see `RelaxedPair`.
        energy_std: eV, see `RelaxedPair`.
        novelty: see `RelaxedPair`.
    """
    first, last = reference.first, reference.last
    free = free_atoms(last.fixed)
    return RelaxedPair(
        sid=last.group,
        energy=energy,
        reference=last.energy,
        at_reference=at_reference,
        distance=float(
            metrics.distances(positions, last.positions, last.cell, last.pbc)[free].mean()
        ),
        null_distance=float(
            metrics.distances(first.positions, last.positions, last.cell, last.pbc)[free].mean()
        ),
        position_mae=metrics.position_mae(positions[free], last.positions[free]),
        position_mae_mic=metrics.position_mae_minimum_image(
            positions[free], last.positions[free], last.cell, last.pbc
        ),
        status=status,
        n_evaluations=n_evaluations,
        energy_std=energy_std,
        novelty=novelty,
    )


def summarize(pairs: Sequence[RelaxedPair]) -> RelaxErrors:
    """Average the errors over relaxed structures."""
    error = np.array([p.energy - p.reference for p in pairs])
    distance, null = (
        np.array([p.distance for p in pairs]),
        np.array([p.null_distance for p in pairs]),
    )
    return RelaxErrors(
        n=len(pairs),
        energy_mae=metrics.mae(error),
        energy_median=float(np.median(np.abs(error))),
        energy_rmse=metrics.rmse(error),
        energy_mae_at_reference=metrics.mae(
            np.array([p.at_reference - p.reference for p in pairs])
        ),
        within_0p02=metrics.energy_within_threshold(error),
        within_0p1=metrics.energy_within_threshold(error, NEAR),
        distance=float(distance.mean()),
        distance_median=float(np.median(distance)),
        distance_null=float(null.mean()),
        position_mae=float(np.mean([p.position_mae for p in pairs])),
        position_mae_mic=float(np.mean([p.position_mae_mic for p in pairs])),
        dwt_0p1=metrics.distance_within_threshold(distance, NEAR_PLACE),
        adwt=metrics.average_distance_within_threshold(distance),
        adwt_null=metrics.average_distance_within_threshold(null),
        converged=float(np.mean([p.status == Status.CONVERGED.value for p in pairs])),
        runaways=int(np.sum(error < -RUNAWAY)),
        model_calls=float(np.mean([p.n_evaluations for p in pairs])),
    )


def reference_forces_below(
    results: Sequence[Relaxation], reference_potential: Potential
) -> ForcesBelow:
    """Measure the forces of a reference potential on relaxed structures.

    An example is `AsePotential(calculator=EMT())`.

    Args:
        results: finished relaxations, as `relax_systems` returns them.
        reference_potential: potential with forces; called for one structure at a time.
    Raises:
        InputError: there are no results, or the reference potential returns no forces.
    """
    if not results:
        raise InputError("no relaxations were given; forces are measured where at least one ended")
    fmax = np.array([_largest_force(one.systems, reference_potential) for one in results])
    return ForcesBelow(
        n=len(fmax),
        fbt=metrics.forces_below_threshold(fmax),
        afbt=metrics.average_forces_below_threshold(fmax),
        fmax_mean=float(fmax.mean()),
        fmax_median=float(np.median(fmax)),
    )


def _largest_force(systems: Systems, potential: Potential) -> float:
    """Compute the largest force norm of a structure along unconstrained directions, eV/Angstrom."""
    forces = potential(systems).forces
    if forces is None:
        raise InputError(
            "the reference potential gave no forces; use one that does, such as `AsePotential`"
            " around a calculator"
        )
    return float(apply_constraints(forces.to(systems.positions), systems).norm(dim=1).max())
