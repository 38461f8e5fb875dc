"""Who is asked for a second opinion: a direct model, and what it says of one structure."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from geocalc.core.energies import Energy, EnergyBasis
from geocalc.core.systems import Systems
from geocalc.errors import FAILURES, EnergyKindError, InputError, format_error
from geocalc.potentials.cached import DirectModel, direct_model
from geocalc.potentials.calibration import Calibration
from geocalc.potentials.card import ModelCard, Task
from geocalc.potentials.registry import load_model
from geocalc.runs.records import SecondOpinion, finite


@dataclass(frozen=True, kw_only=True)
class Adviser:
    """A direct model that is asked for the relaxed energy of every structure of a run.

    Attributes:
        model: what is asked.
        name: of the model.
        reads_tags: whether tags mean something to it.
        calibration: how far its energies may be off.
        basis: kind, level of theory and references of its energies.
        run_name, run_basis: name of the model that relaxes, and the same of its energies.
    """

    model: DirectModel
    name: str
    reads_tags: bool
    basis: EnergyBasis
    run_name: str
    run_basis: EnergyBasis
    calibration: Calibration | None = None

    def ask(self, systems: Systems) -> SecondOpinion:
        """Its opinion of one structure before anything moved; a note where it has none."""
        try:
            prediction = self.model.predict(systems)
        except FAILURES as error:
            return self.silent(format_error(error))
        energy = finite(float(prediction.energy[0]))
        if energy is None:
            return self.silent("the model gave an energy that is not a number")
        spread = None if prediction.energy_std is None else float(prediction.energy_std[0])
        error_68, error_95 = (
            (None, None) if self.calibration is None else self.calibration.half_widths(spread)
        )
        return replace(
            self.silent(None), energy=energy, energy_error_68=error_68, energy_error_95=error_95
        )

    def silent(self, note: str | None) -> SecondOpinion:
        """No opinion; `note` says why, as a sentence."""
        return SecondOpinion(
            model=self.name,
            model_hash=self.model.hash,
            energy=None,
            energy_error_68=None,
            energy_error_95=None,
            difference=None,
            note=note,
        )

    def compared(self, opinion: SecondOpinion, energy: float | None) -> SecondOpinion:
        """The opinion with its difference from a relaxed energy (eV), or with the reason why there
        is none.
        """
        if opinion.energy is None or energy is None:
            return opinion
        try:
            difference = Energy(opinion.energy, self.basis, self.name) - Energy(
                energy, self.run_basis, self.run_name
            )
        except EnergyKindError as error:  # a finished relaxation is worth more than a difference
            return replace(opinion, note=format_error(error))
        return replace(opinion, difference=difference.value)


def make_adviser(name: str | os.PathLike[str], card: ModelCard, steps: int) -> Adviser:
    """The adviser of that name or folder for a run with the model of `card`.

    Args:
        name: of a direct model.
        card: of the model that relaxes.
        steps: that a relaxation may take.
    Raises:
        InputError: the model predicts no relaxed energies, or nothing is relaxed.
        EnergyKindError: it predicts energies of another kind.
        ModelNotFoundError, ModelFileError: see `geocalc.load_model`.
    """
    model = load_model(name, device="cpu")
    mine = model.card
    if mine.task is not Task.IS2RE:
        raise InputError(
            f"{mine.name} predicts no relaxed energies, so it has no second opinion; choose a model"
            " of relaxed structures: see `geocalc models`"
        )
    if mine.energy_kind is not card.energy_kind:
        raise EnergyKindError(
            f"{mine.name} gives {mine.energy_kind.value} energies and {card.name}"
            f" {card.energy_kind.value} energies, which cannot stand beside each other; choose"
            " models of one kind"
        )
    if steps == 0 and card.task is not Task.IS2RE:
        raise InputError(
            f"{mine.name} predicts relaxed energies, and nothing is relaxed here; allow steps, or"
            " ask it alone"
        )
    return Adviser(
        model=direct_model(model),
        name=mine.name,
        reads_tags=mine.reads_tags,
        calibration=mine.calibration,
        basis=mine.basis,
        run_name=card.name,
        run_basis=card.basis,
    )
