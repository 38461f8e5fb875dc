"""The card of a model: everything but its weights, as data."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from pydantic import Field

from geocalc.core.energies import EnergyBasis, EnergyKind
from geocalc.core.settings import Settings
from geocalc.errors import InputError
from geocalc.graphs.strategies import GraphSettings
from geocalc.graphs.supernodes import Supernodes
from geocalc.potentials.calibration import Calibration

CARD_SCHEMA = 1
# `kind` on cards of models that predict no energies, see `geocalc.properties.registry`
PROPERTY: Final = "property"


class Task(StrEnum):
    """What a model predicts: energy and forces of a structure, or the relaxed energy from an
    unrelaxed structure.
    """

    S2EF = "s2ef"
    IS2RE = "is2re"


class Level(Settings):
    """A level of theory that a model answers at.

    Attributes:
        level: its short name, empty where there is but one.
        level_of_theory: functional, code and settings in words.
        energy_kind, reference_text: the zero of its energies, and what that is in words.
        reference_energies: eV added for each atom of an element.
    """

    level: str = ""
    energy_kind: EnergyKind
    level_of_theory: str
    reference_text: str
    reference_energies: dict[str, float]


class ModelCard(Settings):
    """`model.yaml`. Energies in eV, lengths in Angstrom.

    Attributes:
        level, energy_kind, level_of_theory, reference_text, reference_energies: of the level that the
            model answers at unless told otherwise, see `Level`.
        other_levels: that it can be asked for, in the order of the network's numbers from 1.
        elements: symbols the model was trained on; others are refused.
        energy_scale, force_scale: eV and eV/Angstrom per network unit; Angstrom for a model of
            relaxed structures.
        reads_tags: whether the energy depends on tags (OC20's convention); else they are ignored.
        frames: default frame policy.
        canonicalizer: name and settings of what gives `learned` frames, see
            `geocalc.frames.learned`.
        force_mode: gradient or direct.
        conservative: forces are the exact gradient of the energy under the default policy.
        graph: which atoms the network connects, see `geocalc.graphs.strategies`.
        drop_subsurface, adsorbate_edges, supernodes: what the network does not see as it is, see
            `geocalc.graphs.reduction`.
        members: networks that answer together; their spread is the `energy_std` of records.
        calibration: how far relaxed energies may be off; None where that was not measured.
        stress: the model was trained for stress; without it cell relaxation is refused.
        weights_sha256: of weights.safetensors.
    """

    schema_version: int = Field(CARD_SCHEMA, ge=1)
    name: str
    task: Task = Task.S2EF
    architecture: str
    settings: dict[str, Any]
    cutoff: float = Field(gt=0)
    elements: tuple[str, ...]
    level: str = ""
    energy_kind: EnergyKind
    level_of_theory: str
    reference_text: str
    reference_energies: dict[str, float]
    other_levels: tuple[Level, ...] = ()
    energy_scale: float
    force_scale: float
    reads_tags: bool = True
    frames: str
    canonicalizer: dict[str, Any] | None = None
    force_mode: str
    conservative: bool
    graph: GraphSettings = GraphSettings()
    drop_subsurface: bool = False
    adsorbate_edges: bool = False
    supernodes: Supernodes = Supernodes.NONE
    members: int = Field(1, ge=1)
    calibration: Calibration | None = None
    stress: bool = False
    repulsion_reach: float | None = None
    units: str = "energy eV, forces eV/Angstrom, lengths Angstrom"
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    license: str
    domain: str
    data: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    @property
    def basis(self) -> EnergyBasis:
        """Kind, level of theory and references of the energies at the default level."""
        return EnergyBasis(self.energy_kind, self.level_of_theory, self.reference_text)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Every level, by the network's numbers."""
        return (
            Level(**{name: getattr(self, name) for name in Level.model_fields}),
            *self.other_levels,
        )

    def level_number(self, level: str | None) -> int:
        """The network's number of a level; None is the default.

        Raises:
            InputError: there is none of that name.
        """
        names = [one.level for one in self.levels]
        if level is None:
            return 0
        if level in names:
            return names.index(level)
        if len(names) == 1:
            raise InputError(
                f"{self.name} has one level of theory ({self.level_of_theory}), not {level!r};"
                " leave level out"
            )
        raise InputError(f"{self.name} has no level {level!r}; it has {', '.join(names)}")

    def at(self, number: int) -> ModelCard:
        """The card of the model at another of its levels."""
        chosen = self.levels[number]
        return self.model_copy(update={name: getattr(chosen, name) for name in Level.model_fields})
