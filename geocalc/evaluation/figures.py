"""Figures of model errors: plot panels by file name, one row of panels for each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from geocalc.evaluation.is2re import PairPredictions
from geocalc.evaluation.metrics import ENERGY_THRESHOLD
from geocalc.evaluation.plots import Distribution, Panel, Parity
from geocalc.evaluation.relaxations import RelaxedPair
from geocalc.evaluation.single_points import Predictions
from geocalc.potentials.card import ModelCard

Pictures = Mapping[str, Sequence[Panel]]


def single_point_panels(told: Predictions, card: ModelCard, stem: str) -> Pictures:
    """Build the parity plots of single-point energies and, if known, of forces.

    Forces are those of atoms that are free to move; a figure of forces is left out if any force is
    not finite.
    """
    energies = energy_parity(
        told.energy, told.energy_reference, f"{card.energy_kind.value} energy", _title(card, stem)
    )
    if not np.isfinite(told.forces - told.forces_reference).all():
        return {f"{stem}-energy.png": [energies]}
    forces = Parity(
        predicted=told.forces[told.free].ravel(),
        reference=told.forces_reference[told.free].ravel(),
        quantity="force",
        unit="eV/Å",
        title=_title(card, stem),
    )
    return {f"{stem}-energy.png": [energies], f"{stem}-forces.png": [forces]}


def pair_panels(told: PairPredictions, card: ModelCard, stem: str) -> Pictures:
    """Build the plots of relaxed energies predicted from unrelaxed structures.

    A parity plot of the displacements of free atoms is added where the model predicts them.
    """
    title = _title(card, stem)
    energies: list[Panel] = [
        energy_parity(told.energy, told.energy_reference, "relaxed energy", title),
        energy_distribution(told.energy - told.energy_reference, "relaxed energy"),
    ]
    if told.displacement is None:
        return {f"{stem}-is2re.png": energies}
    ways = Parity(
        predicted=told.displacement.ravel(),
        reference=told.displacement_reference.ravel(),
        quantity="displacement",
        unit="Å",
        title=title,
    )
    return {f"{stem}-is2re.png": energies, f"{stem}-is2rs.png": [ways]}


def relaxed_panels(pairs: Sequence[RelaxedPair], card: ModelCard, stem: str) -> Pictures:
    """Build the parity plot and the error distribution of relaxed energies."""
    energies, references = (
        np.array([p.energy for p in pairs]),
        np.array([p.reference for p in pairs]),
    )
    return {
        f"{stem}-relaxed.png": [
            energy_parity(energies, references, "relaxed energy", _title(card, stem)),
            energy_distribution(energies - references, "relaxed energy"),
        ]
    }


def energy_parity(
    predicted: np.ndarray, reference: np.ndarray, quantity: str, title: str
) -> Parity:
    """Build a parity plot of energies (n,) in eV with the fraction within OC20's threshold."""
    return Parity(
        predicted=predicted,
        reference=reference,
        quantity=quantity,
        unit="eV",
        threshold=ENERGY_THRESHOLD,
        title=title,
    )


def energy_distribution(errors: np.ndarray, quantity: str) -> Distribution:
    """Build a histogram of energy errors (n,) in eV with OC20's threshold shaded."""
    return Distribution(
        errors=errors, quantity=quantity, unit="eV", threshold=ENERGY_THRESHOLD, title="errors"
    )


def _title(card: ModelCard, stem: str) -> str:
    return f"{card.name} on {stem}"
