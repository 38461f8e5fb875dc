"""Losses of energies, forces and displacements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.core.systems import Prediction, Systems, free_atoms
from geocalc.data.collate import BatchLabels
from geocalc.errors import RecipeError
from geocalc.potentials.card import Task
from geocalc.train.settings import Training

TINY = 1e-12  # keeps the derivative of a norm finite at zero, and quotients of what is not there


@dataclass(frozen=True)
class Losses:
    """Weighted sum of the losses and its terms.

    Attributes:
        total: weighted sum in network units.
        energy: mean absolute error of the energies, eV.
        vectors: mean length of the error vectors, eV/Angstrom (forces) or Angstrom (displacements).
    """

    total: Tensor
    energy: Tensor
    vectors: Tensor


def mean_of(some: Sequence[Losses]) -> Losses:
    """Average losses of several predictions for one batch."""
    if len(some) == 1:
        return some[0]
    return Losses(
        total=torch.stack([one.total for one in some]).mean(),
        energy=torch.stack([one.energy for one in some]).mean(),
        vectors=torch.stack([one.vectors for one in some]).mean(),
    )


def extent(systems: Systems, labels: BatchLabels, settings: Training, task: Task) -> Tensor:
    """Compute the normalizations of the losses of a batch.

    Args:
        systems: structures.
        labels: targets.
        settings: weights of the losses.
        task: whether the vectors are forces or displacements.
    Returns:
        (3,) float64: number of structures with an energy, total weight of the atoms with vectors,
            number of substrate atoms. The normalizations of the parts of a batch add up to those of
            the batch.
    """
    vectors = (
        free_atoms(systems.fixed).double()
        if task is Task.IS2RE
        else _force_weight(systems, labels, settings)
    )
    still = _still(systems).sum() if settings.substrate_weight else vectors.new_zeros(())
    return torch.stack([(~labels.energy.isnan()).sum().double(), vectors.sum(), still.double()])


def loss(
    prediction: Prediction,
    direct: Tensor | None,
    systems: Systems,
    labels: BatchLabels,
    settings: Training,
    scale: float,
    whole: Tensor | None = None,
) -> Losses:
    """Compute the loss of energies and forces: energy MAE and mean norm of the force error.

    Both are divided by the energy scale.

    Args:
        prediction: energy (n_systems,) and, unless only a direct head is trained, gradient forces
            (n_atoms, 3).
        direct: forces of a direct head (n_atoms, 3), or None.
        systems: structures.
        labels: targets.
        settings: weights; fixed atoms have the weight `fixed_force_weight`.
        scale: eV per network unit.
        whole: normalizations of the whole batch if this is a part of it, so that the losses of all
            parts add up to that of the batch.
    """
    weight = _force_weight(systems, labels, settings)
    n_energies, n_weight, n_still = _extent(whole, systems, labels, settings, Task.S2EF)
    energy = _energy_error(prediction.energy, labels.energy) / n_energies
    zero = energy.new_zeros(())
    gradient = (
        zero
        if prediction.forces is None
        else _vector_error(prediction.forces, labels.forces, weight) / n_weight
    )
    head = zero if direct is None else _vector_error(direct, labels.forces, weight) / n_weight
    target = zero
    if direct is not None and prediction.forces is not None and settings.gradient_target_weight:
        target = _vector_error(direct, prediction.forces.detach(), weight) / n_weight
    substrate = (
        _substrate(prediction.atom_energies, _still(systems)) / n_still
        if settings.substrate_weight
        else zero
    )
    total = (
        settings.energy_weight * energy
        + settings.substrate_weight * substrate
        + settings.force_weight * gradient
        + settings.direct_force_weight * head
        + settings.gradient_target_weight * target
    )
    return Losses(
        total / scale,
        energy.detach(),
        (gradient if prediction.forces is not None else head).detach(),
    )


def disagreement(
    first: Prediction,
    second: Prediction,
    systems: Systems,
    labels: BatchLabels,
    settings: Training,
    scale: float,
    whole: Tensor | None = None,
) -> Tensor:
    """Compute how far two predictions for a batch are apart, as `loss` weighs energies and forces.

    Args:
        first, second: predictions under two frames.
        systems, labels, settings, scale, whole: see `loss`.
    Returns:
        Scalar in network units.
    """
    n_energies, n_weight, _ = _extent(whole, systems, labels, settings, Task.S2EF)
    known = ~labels.energy.isnan()
    energy = (first.energy - second.energy)[known].abs().sum() / n_energies
    apart = settings.energy_weight * energy
    if first.forces is not None and second.forces is not None:
        weight = _force_weight(systems, labels, settings)
        forces = _vector_error(first.forces, second.forces, weight) / n_weight
        apart = apart + settings.force_weight * forces
    return apart / scale


def pair_loss(
    prediction: Prediction,
    systems: Systems,
    labels: BatchLabels,
    settings: Training,
    energy_scale: float,
    length_scale: float,
    whole: Tensor | None = None,
    step: int = 0,
) -> Losses:
    """Compute the loss of relaxed energies and displacements: energy MAE and mean error length.

    Each is divided by its own scale.

    Args:
        prediction: energy (n_systems,) and, if the network has the head, displacement (n_atoms, 3).
        systems: structures; fixed atoms do not count.
        labels: targets.
        settings: weights.
        energy_scale: eV per network unit.
        length_scale: Angstrom per network unit.
        whole: see `loss`.
        step: counted from 0; the weight of displacements may change during a run.
    """
    n_energies, n_free, _ = _extent(whole, systems, labels, settings, Task.IS2RE)
    energy = _energy_error(prediction.energy, labels.energy) / n_energies
    vectors = energy.new_zeros(())
    if prediction.displacement is not None:
        free = free_atoms(systems.fixed).double()
        vectors = _vector_error(prediction.displacement, labels.displacement, free) / n_free
    total = (
        settings.energy_weight * energy / energy_scale
        + settings.displacement_weight_at(step) * vectors / length_scale
    )
    return Losses(total, energy.detach(), vectors.detach())


def _energy_error(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Sum the absolute errors of the energies that have a target."""
    return (predicted - wanted)[~wanted.isnan()].abs().sum()


def _extent(
    whole: Tensor | None, systems: Systems, labels: BatchLabels, settings: Training, task: Task
) -> tuple[Tensor, ...]:
    return (
        (extent(systems, labels, settings, task) if whole is None else whole)
        .clamp(min=TINY)
        .unbind()
    )


def _force_weight(systems: Systems, labels: BatchLabels, settings: Training) -> Tensor:
    """Compute the weight (n_atoms,) of each atom; 0 where the force has no target."""
    weight = torch.where(free_atoms(systems.fixed), 1.0, settings.fixed_force_weight).double()
    return weight * ~labels.forces.isnan().any(1)


def _vector_error(predicted: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Sum the weighted lengths of the error vectors over atoms; missing targets have weight 0."""
    return (
        ((predicted - wanted.masked_fill(wanted.isnan(), 0.0)) ** 2).sum(1).add(TINY).sqrt()
        * weight
    ).sum()


def _still(systems: Systems) -> Tensor:
    """Find atoms without adsorption energy: tag 0, and all atoms of structures without adsorbate.

    Returns:
        (n_atoms,) bool.
    """
    has_adsorbate = torch.zeros(systems.n_systems, dtype=torch.bool, device=systems.tags.device)
    has_adsorbate[systems.system_idx[systems.tags == 2]] = True
    return (systems.tags == 0) | ~has_adsorbate[systems.system_idx]


def _substrate(shares: Tensor | None, still: Tensor) -> Tensor:
    """Sum the absolute energy contributions of atoms without adsorption energy.

    The adsorption energy of a relaxed clean slab is zero for any thickness, so no layer may
    contribute: only then is the energy of slabs thicker than those of the training data correct.
    """
    if shares is None:
        raise RecipeError(
            "training.substrate_weight needs an architecture that gives each atom's share of the"
            " energy; set it to 0"
        )
    return shares[still].abs().sum()
