"""Models in their roles: one relaxes, another may propose where to start, a third may give a second
opinion on the relaxed energy.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from geocalc.core.energies import Energy, EnergyBasis
from geocalc.core.systems import Potential, Systems, select
from geocalc.errors import (
    EnergyKindError,
    GeoCalcError,
    InputError,
    ModelFileError,
    format_error,
    format_unexpected,
)
from geocalc.potentials.cached import DirectModel, direct_model
from geocalc.potentials.calibration import Calibration
from geocalc.potentials.card import ModelCard, Task
from geocalc.potentials.domain import Light, domain_of_prediction
from geocalc.potentials.load import LoadedModel, load_model
from geocalc.relaxation.warm_start import Proposal
from geocalc.runs.records import SecondOpinion, finite
from geocalc.runs.settings import RelaxSettings

# raised by models and calculators for structures that they cannot compute; torch raises
# RuntimeError
MODEL_ERRORS = (GeoCalcError, ArithmeticError, RuntimeError, ValueError)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NamedPotential:
    """The model that relaxes: its potential, and what records say about it.

    Attributes:
        potential: gives energies and forces.
        name: of the model.
        hash: of its weights and settings.
        energy_kind: total, adsorption, formation or relative; None if it is not known.
        device, dtype: where and in which floating type it computes.
        reads_tags: whether it depends on tags; tags are not checked where it does not.
        opener: makes the same potential in another process, and can be pickled; None where it
            exists in this process only.
        cutoff: radius of its graphs in Angstrom, None if it has none.
        warm_start: proposes where relaxations start; see `geocalc.relaxation.warm_start`.
        stress: whether it was trained on stress, so that cells can be relaxed with it.
        calibration: error bars of relaxed energies.
        direct: whether its energies are those of the relaxed structures, so that nothing is
            relaxed.
        second_opinion: the model that gives second opinions.
    """

    potential: Potential
    name: str
    hash: str
    energy_kind: str | None = None
    device: str = "cpu"
    dtype: str = "float64"
    reads_tags: bool = True
    opener: Callable[[], Potential] | None = None
    cutoff: float | None = None
    warm_start: Proposal | None = None
    stress: bool = False
    calibration: Calibration | None = None
    direct: bool = False
    second_opinion: SecondModel | None = None


@dataclass(frozen=True)
class StartingModel:
    """A model that proposes where relaxations start, by its displacements; see
    `geocalc.relaxation.warm_start.Proposal`.
    """

    model: DirectModel

    def __call__(self, systems: Systems) -> Tensor:
        """Displacements (n_atoms, 3) in Angstrom, NaN for structures that the model refuses.

        Raises:
            ModelFileError: the model cannot be read any more, or is another one now.
        """
        alone = torch.eye(systems.n_systems, dtype=torch.bool, device=systems.cell.device)
        return torch.cat([self._displacement(select(systems, systems, one)) for one in alone])

    def _displacement(self, systems: Systems) -> Tensor:
        """Displacements of one structure, (n_atoms, 3) Angstrom."""
        nothing = torch.full_like(systems.positions, torch.nan)
        try:
            found = self.model.predict(systems).displacement
        except InputError:  # an element it does not know, or no adsorbate
            return nothing
        return nothing if found is None else found.to(nothing)


@dataclass(frozen=True, kw_only=True)
class SecondModel:
    """A direct model that predicts the relaxed energy of every structure, beside its relaxation.

    Attributes:
        model: the direct model.
        name: of the model.
        reads_tags: whether it depends on tags.
        calibration: error bars of its energies.
        basis: kind, level of theory and references of its energies.
        run_name: name of the model that relaxes.
        run_basis: kind, level of theory and references of the energies of that model.
    """

    model: DirectModel
    name: str
    reads_tags: bool
    basis: EnergyBasis
    run_name: str
    run_basis: EnergyBasis
    calibration: Calibration | None = None

    def opinion(self, unrelaxed: Systems | str) -> SecondOpinion:
        """Predict the relaxed energy of one structure; a note where that is not possible.

        Args:
            unrelaxed: the structure, or a sentence why the model cannot read it.
        """
        if isinstance(unrelaxed, str):
            return self._without_energy(unrelaxed)
        try:
            prediction = self.model.predict(unrelaxed)
        except MODEL_ERRORS as error:
            return self._without_energy(format_error(error))
        except Exception as error:
            logger.exception("unexpected error in a second opinion of %s", self.name)
            return self._without_energy(format_unexpected(error))
        energy = finite(float(prediction.energy[0]))
        if energy is None:
            return self._without_energy("the model gave an energy that is not a number")
        spread = None if prediction.energy_std is None else float(prediction.energy_std[0])
        novelty = None if prediction.novelty is None else float(prediction.novelty[0])
        light, reason = domain_of_prediction(prediction, unrelaxed)
        error_68, error_95 = (
            (None, None)
            if self.calibration is None or light is Light.RED
            else self.calibration.half_widths(spread, novelty)
        )
        note = f"outside what {self.name} has learned: {reason}" if light is Light.RED else None
        return replace(
            self._without_energy(note),
            energy=energy,
            energy_error_68=error_68,
            energy_error_95=error_95,
        )

    def compared(self, opinion: SecondOpinion, energy: float | None) -> SecondOpinion:
        """Add the difference from a relaxed energy (eV), or the reason why there is none."""
        if opinion.energy is None or energy is None:
            return opinion
        try:
            difference = Energy(opinion.energy, self.basis, self.name) - Energy(
                energy, self.run_basis, self.run_name
            )
        except EnergyKindError as error:  # a finished relaxation is worth more than a difference
            return replace(opinion, note=format_error(error))
        return replace(opinion, difference=difference.value)

    def _without_energy(self, note: str | None) -> SecondOpinion:
        return SecondOpinion(
            model=self.name,
            model_hash=self.model.hash,
            energy=None,
            energy_error_68=None,
            energy_error_95=None,
            difference=None,
            note=note,
        )


def relaxing_model(model: LoadedModel, settings: RelaxSettings) -> NamedPotential:
    """Put a loaded model into the role of relaxing, with the other models that the settings name.

    Raises:
        InputError: another model does not suit its role.
        EnergyKindError: the second opinion would be of another kind of energy.
        ModelNotFoundError, ModelFileError: see `geocalc.load_model`.
    """
    start, second = settings.warm_start, settings.second_opinion
    return NamedPotential(
        potential=model,
        name=model.card.name,
        hash=model.hash,
        energy_kind=model.card.energy_kind.value,
        device=str(model.device),
        dtype=settings.dtype,
        reads_tags=model.card.reads_tags or start is not None,
        opener=_Opener(folder=model.folder, hash=model.hash, settings=settings),
        cutoff=model.card.cutoff,
        warm_start=None if start is None else starting_model(start),
        stress=model.card.stress,
        calibration=model.card.calibration,
        direct=model.card.task is Task.IS2RE,
        second_opinion=None if second is None else second_model(second, model.card, settings.steps),
    )


def starting_model(name: str | os.PathLike[str]) -> StartingModel:
    """Load a model of relaxed structures to propose where relaxations start.

    Raises:
        InputError: it predicts no displacements.
        ModelNotFoundError, ModelFileError: see `geocalc.load_model`.
    """
    model = load_model(name, device="cpu")
    if model.card.task is not Task.IS2RE or not model.card.settings.get("direct_forces"):
        raise InputError(
            f"{model.card.name} does not predict where atoms end, so no relaxation can start from"
            " it; choose a model of relaxed structures: see `geocalc models`"
        )
    return StartingModel(direct_model(model))


def second_model(name: str | os.PathLike[str], card: ModelCard, steps: int) -> SecondModel:
    """Load a direct model to give second opinions on relaxations with the model of `card`.

    Args:
        name: name or folder of the direct model.
        card: of the model that relaxes.
        steps: that a relaxation may take.
    Raises:
        InputError: the model predicts no relaxed energies, or nothing is relaxed.
        EnergyKindError: the two models give energies of different kinds.
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
            f" {card.energy_kind.value} energies, which cannot be compared; choose models of one"
            " kind"
        )
    if steps == 0 and card.task is not Task.IS2RE:
        raise InputError(
            f"{mine.name} predicts relaxed energies, and nothing is relaxed here; allow steps, or"
            " use it alone"
        )
    return SecondModel(
        model=direct_model(model),
        name=mine.name,
        reads_tags=mine.reads_tags,
        calibration=mine.calibration,
        basis=mine.basis,
        run_name=card.name,
        run_basis=card.basis,
    )


@dataclass(frozen=True, kw_only=True)
class _Opener:
    """Loads the relaxing model again, in another process on the CPU."""

    folder: Path
    hash: str
    settings: RelaxSettings

    def __call__(self) -> LoadedModel:
        """The model.

        Raises:
            ModelFileError: it cannot be read any more, or is another one now.
        """
        model = load_model(
            self.folder,
            device="cpu",
            dtype=self.settings.dtype,
            frames=self.settings.frames,
            level=self.settings.level,
        )
        if model.hash != self.hash:
            raise ModelFileError(
                f"{self.folder} was changed while it was in use; run again to use the new model"
            )
        return model
