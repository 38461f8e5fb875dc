"""Losses of energies and forces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.errors import RecipeError
from geocalc.systems import Prediction, Systems
from geocalc.train.batches import Labels
from geocalc.train.recipe import Training

TINY = 1e-12  # keeps the derivative of a norm finite at zero


@dataclass(frozen=True)
class Losses:
    """Weighted sum and its parts: energy in eV, vectors in eV/Angstrom (forces) or Angstrom (displacements)."""

    total: Tensor
    energy: Tensor
    vectors: Tensor


def loss(
    prediction: Prediction, direct: Tensor | None, systems: Systems, labels: Labels, settings: Training, scale: float
) -> Losses:
    """L1 of the energy and mean L2 norm of the force error, both in units of the energy scale.

    Args:
        prediction: energy (n_systems,) and, unless only a direct head is trained, gradient forces (n_atoms, 3).
        direct: forces of a direct head (n_atoms, 3), or None.
        systems, labels: the batch and its targets.
        settings: weights; atoms that are held fixed count `fixed_force_weight`.
        scale: eV per network unit.
    """
    energy = (prediction.energy - labels.energy).abs().mean()
    weight = torch.where(systems.fixed.all(1), settings.fixed_force_weight, 1.0).to(labels.forces.dtype)
    zero = energy.new_zeros(())
    gradient = zero if prediction.forces is None else _vector_error(prediction.forces, labels.forces, weight)
    head = zero if direct is None else _vector_error(direct, labels.forces, weight)
    target = zero
    if direct is not None and prediction.forces is not None and settings.gradient_target_weight:
        target = _vector_error(direct, prediction.forces.detach(), weight)
    substrate = _substrate(prediction.atom_energies, systems) if settings.substrate_weight else zero
    total = (
        settings.energy_weight * energy
        + settings.substrate_weight * substrate
        + settings.force_weight * gradient
        + settings.direct_force_weight * head
        + settings.gradient_target_weight * target
    )
    return Losses(total / scale, energy.detach(), (gradient if prediction.forces is not None else head).detach())


def pair_loss(
    prediction: Prediction, systems: Systems, labels: Labels, settings: Training, energy_scale: float, length_scale: float
) -> Losses:
    """L1 of the relaxed energy and mean length of the error of displacements, each in its own unit.

    Args:
        prediction: energy (n_systems,) and, where the network has the head, displacement (n_atoms, 3).
        systems, labels: the atoms that were seen and the targets; atoms that are held fixed do not count.
        settings: weights. energy_scale, length_scale: eV and Angstrom per network unit.
    """
    energy = (prediction.energy - labels.energy).abs().mean()
    vectors = energy.new_zeros(())
    if prediction.displacement is not None:
        free = (~systems.fixed).all(1).to(energy.dtype)
        vectors = _vector_error(prediction.displacement, labels.displacement, free)
    total = settings.energy_weight * energy / energy_scale + settings.displacement_weight * vectors / length_scale
    return Losses(total, energy.detach(), vectors.detach())


def _vector_error(predicted: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over atoms of the length of the error."""
    error = ((predicted - wanted) ** 2).sum(1).add(TINY).sqrt()
    return (error * weight).sum() / weight.sum().clamp(min=TINY)


def _substrate(shares: Tensor | None, systems: Systems) -> Tensor:
    """Mean absolute energy share of atoms that do not adsorb: all of tag 0, and every atom of a structure without adsorbate.

    A relaxed clean slab has adsorption energy zero however thick it is, so no layer of it may carry a share of its own: only then
    does the energy of a thicker slab than those of the training data come out right.
    """
    if shares is None:
        raise RecipeError(
            "training.substrate_weight needs an architecture that gives each atom's share of the energy; set it to 0"
        )
    has_adsorbate = torch.zeros(systems.n_systems, dtype=torch.bool, device=shares.device)
    has_adsorbate[systems.system_idx[systems.tags == 2]] = True
    still = (systems.tags == 0) | ~has_adsorbate[systems.system_idx]
    return shares[still].abs().mean() if bool(still.any()) else shares.new_zeros(())
