"""Losses of energies, forces and displacements."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.core.systems import Prediction, Systems
from geocalc.data.collate import BatchLabels
from geocalc.errors import RecipeError
from geocalc.potentials.card import Task
from geocalc.train.settings import Training

TINY = 1e-12  # keeps the derivative of a norm finite at zero, and quotients of what is not there


@dataclass(frozen=True)
class Losses:
    """Weighted sum and its parts: energy in eV, vectors in eV/Angstrom (forces) or Angstrom
    (displacements).
    """

    total: Tensor
    energy: Tensor
    vectors: Tensor


def extent(systems: Systems, labels: BatchLabels, settings: Training, task: Task) -> Tensor:
    """What losses are means over, (3,) float64: structures with an energy, weight of the atoms with
    vectors, atoms of the substrate.

    Extents of parts of a batch add up to that of the batch.
    """
    vectors = _free(systems) if task is Task.IS2RE else _force_weight(systems, labels, settings)
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
    """L1 of the energy and mean L2 norm of the force error, both in units of the energy scale.

    Args:
        prediction: energy (n_systems,) and, unless only a direct head is trained, gradient forces
            (n_atoms, 3).
        direct: forces of a direct head (n_atoms, 3), or None.
        systems, labels: the batch and its targets.
        settings: weights; atoms that are held fixed count `fixed_force_weight`.
        scale: eV per network unit.
        whole: extent of the batch that this is a part of, so that the losses of all parts add up to
            that of the whole batch.
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
    """L1 of the relaxed energy and mean length of the error of displacements, each in its own unit.

    Args:
        prediction: energy (n_systems,) and, where the network has the head, displacement (n_atoms,
            3).
        systems, labels: the atoms that were seen and the targets; atoms that are held fixed do not
            count.
        settings: weights.
        energy_scale, length_scale: eV and Angstrom per network unit.
        whole: see `loss`.
        step: counted from 0; the weight of displacements may change along the run.
    """
    n_energies, n_free, _ = _extent(whole, systems, labels, settings, Task.IS2RE)
    energy = _energy_error(prediction.energy, labels.energy) / n_energies
    vectors = energy.new_zeros(())
    if prediction.displacement is not None:
        vectors = (
            _vector_error(prediction.displacement, labels.displacement, _free(systems)) / n_free
        )
    total = (
        settings.energy_weight * energy / energy_scale
        + settings.displacement_weight_at(step) * vectors / length_scale
    )
    return Losses(total, energy.detach(), vectors.detach())


def _energy_error(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Sum of the absolute errors of the energies that there are."""
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
    """Of each atom, (n_atoms,); 0 where the force is not known."""
    weight = torch.where(systems.fixed.all(1), settings.fixed_force_weight, 1.0).double()
    return weight * ~labels.forces.isnan().any(1)


def _free(systems: Systems) -> Tensor:
    return (~systems.fixed).all(1).double()


def _vector_error(predicted: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum over atoms of the length of the error; what is not known has weight 0."""
    return (
        ((predicted - wanted.masked_fill(wanted.isnan(), 0.0)) ** 2).sum(1).add(TINY).sqrt()
        * weight
    ).sum()


def _still(systems: Systems) -> Tensor:
    """Atoms that do not adsorb: all of tag 0, and every atom of a structure without adsorbate,
    (n_atoms,) bool.
    """
    has_adsorbate = torch.zeros(systems.n_systems, dtype=torch.bool, device=systems.tags.device)
    has_adsorbate[systems.system_idx[systems.tags == 2]] = True
    return (systems.tags == 0) | ~has_adsorbate[systems.system_idx]


def _substrate(shares: Tensor | None, still: Tensor) -> Tensor:
    """Sum of the absolute energy shares of atoms that do not adsorb.

    A relaxed clean slab has adsorption energy zero however thick it is, so no layer of it may carry
    a share of its own: only then does the energy of a thicker slab than those of the training data
    come out right.
    """
    if shares is None:
        raise RecipeError(
            "training.substrate_weight needs an architecture that gives each atom's share of the"
            " energy; set it to 0"
        )
    return shares[still].abs().sum()
