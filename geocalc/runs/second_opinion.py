"""Who is asked for a second opinion: a direct model, and what it says of one structure."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from geocalc.core.systems import Systems
from geocalc.errors import FAILURES, InputError, format_error
from geocalc.potentials.cached import DirectModel, direct_model
from geocalc.potentials.calibration import Calibration
from geocalc.potentials.card import ModelCard, Task
from geocalc.potentials.load import load_model
from geocalc.runs.records import SecondOpinion, finite


@dataclass(frozen=True, kw_only=True)
class Adviser:
    """A direct model that is asked for the relaxed energy of every structure of a run.

    Attributes:
        model: what is asked.
        name: of the model.
        reads_tags: whether tags mean something to it.
        calibration: how far its energies may be off.
        unlike: what its zero of energy does not share with the run, as words; None where energies
            may be subtracted.
    """

    model: DirectModel
    name: str
    reads_tags: bool
    calibration: Calibration | None = None
    unlike: str | None = None

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
        if self.unlike is not None:
            return replace(
                opinion, note=f"its energies have another {self.unlike}, so no difference is given"
            )
        return replace(opinion, difference=opinion.energy - energy)


def make_adviser(name: str | os.PathLike[str], card: ModelCard, steps: int) -> Adviser:
    """The adviser of that name or folder for a run with the model of `card`.

    Args:
        name: of a direct model.
        card: of the model that relaxes.
        steps: that a relaxation may take.
    Raises:
        InputError: the model predicts no relaxed energies, or energies of another kind; or nothing
            is relaxed.
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
        raise InputError(
            f"{mine.name} gives {mine.energy_kind.value} energies and {card.name}"
            f" {card.energy_kind.value} energies, which cannot stand beside each other; choose"
            " models of one kind"
        )
    if steps == 0 and card.task is not Task.IS2RE:
        raise InputError(
            f"{mine.name} predicts relaxed energies, and nothing is relaxed here; allow steps, or"
            " ask it alone"
        )
    unlike = [
        words
        for words, differ in (
            ("level of theory", mine.level_of_theory != card.level_of_theory),
            ("zero of energy", mine.reference_text != card.reference_text),
        )
        if differ
    ]
    return Adviser(
        model=direct_model(model),
        name=mine.name,
        reads_tags=mine.reads_tags,
        calibration=mine.calibration,
        unlike=" and ".join(unlike) or None,
    )
