"""The card of a model: everything but its weights, as data.

A card has three parts that recipes share, so that a field added to one of them is on the recipe and
on the card at once: `About` (words about the model), `NetworkSettings` (the network) and, for
models of energies, `PotentialSettings` and `LevelOfTheory`.
"""

from __future__ import annotations

from abc import abstractmethod
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import Field

from geocalc.core.energies import EnergyBasis, EnergyKind
from geocalc.core.settings import Settings
from geocalc.errors import InputError
from geocalc.graphs.strategies import GraphSettings
from geocalc.graphs.supernodes import Supernodes
from geocalc.potentials.calibration import Calibration
from geocalc.potentials.network import ForceMode

CARD_SCHEMA = 1


class Task(StrEnum):
    """The quantity that a model predicts.

    S2EF: energy and forces of a structure. IS2RE: relaxed energy from the unrelaxed structure.
    NODE: a property of every node, such as a particle of a glass. GRAPH: a property of a graph,
    such as a molecule.
    """

    S2EF = "s2ef"
    IS2RE = "is2re"
    NODE = "node"
    GRAPH = "graph"


class About(Settings):
    """Words about a model; a recipe states them and the card repeats them."""

    domain: str = Field(description="structures that the model is meant for")
    license: str = Field("MIT", description="license of the weights")
    data: tuple[str, ...] = Field(
        (), description="data sets with license and citation, one line each"
    )
    limits: tuple[str, ...] = Field((), description="known limitations, one line each")
    citation: tuple[str, ...] = Field(
        (), description="works to cite when the model is used, one line each"
    )


class NetworkSettings(Settings):
    """The network of a model."""

    architecture: str
    settings: dict[str, Any] = Field(default_factory=dict)


class PotentialSettings(NetworkSettings):
    """The network and how it becomes a potential."""

    frames: str = Field("averaged", description="frame policy of the potential")
    canonicalizer: dict[str, Any] | None = Field(
        None,
        description=(
            "name and settings of the network that gives the frames of the policy `learned`, see"
            " geocalc.frames.learned"
        ),
    )
    reads_tags: bool = Field(
        True,
        description=(
            "whether the energy may depend on tags; without, relabeling atoms changes nothing"
        ),
    )
    force_mode: ForceMode = ForceMode.GRADIENT
    graph: GraphSettings = Field(
        GraphSettings(),
        description="which atoms are connected; distance and number are in `settings`",
    )
    drop_subsurface: bool = Field(False, description="the network sees no atoms with tag 0")
    adsorbate_edges: bool = Field(
        False, description="the network sees only edges that touch the adsorbate"
    )
    supernodes: Supernodes = Field(
        Supernodes.NONE,
        description="the network sees atoms with tag 0 as one node, or as one per element",
    )
    repulsion_reach: float | None = Field(
        None, gt=0, lt=1, description="range of the repulsion of close atoms; None for none"
    )


class LevelOfTheory(Settings):
    """The level of theory of energies, and their zero."""

    level: str = Field("", description="short name of the level of theory, where there are several")
    energy_kind: EnergyKind
    level_of_theory: str = Field(description="functional, code and settings in words")
    reference_text: str = Field(description="zero of energy in words")


class Level(LevelOfTheory):
    """A level of theory of a model, with its reference energies in eV per atom of an element."""

    reference_energies: dict[str, float]


class Card(About, NetworkSettings):
    """Fields of every `model.yaml`, whatever the task.

    Attributes:
        task: the quantity that is predicted.
        members: number of networks whose mean is the prediction.
        weights_sha256: of weights.safetensors.
        domain_sha256: of domain.safetensors, what is known of the training data; None without.
        tasks: the tasks that a class of cards is for.
    """

    tasks: ClassVar[frozenset[Task]]

    schema_version: int = Field(CARD_SCHEMA, ge=1)
    name: str
    task: Task
    settings: dict[str, Any]
    members: int = Field(1, ge=1)
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    domain_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    license: str

    @property
    @abstractmethod
    def predicts(self) -> str:
        """The predicted quantity in a word or two, for lists."""


class ModelCard(Card, PotentialSettings, Level):
    """The card of a model of energies. Energies in eV, lengths in Angstrom.

    Attributes:
        level, energy_kind, level_of_theory, reference_text, reference_energies: the level of theory
            of predictions unless another is asked for, see `Level`.
        other_levels: levels that can be asked for, in the order of the network's numbers from 1.
        elements: symbols the model was trained on; others are refused.
        energy_scale, force_scale: eV and eV/Angstrom per network unit; Angstrom for a model of
            relaxed structures.
        members: the spread of the networks is the `energy_std` of records.
        conservative: forces are the exact gradient of the energy under the default policy.
        calibration: intervals of relaxed energies; None where they were not measured.
        stress: the model was trained for stress; without it cell relaxation is refused.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({Task.S2EF, Task.IS2RE})

    task: Literal[Task.S2EF, Task.IS2RE] = Task.S2EF
    cutoff: float = Field(gt=0)
    elements: tuple[str, ...]
    other_levels: tuple[Level, ...] = ()
    energy_scale: float
    force_scale: float
    frames: str
    force_mode: ForceMode
    conservative: bool
    calibration: Calibration | None = None
    stress: bool = False
    units: str = "energy eV, forces eV/Angstrom, lengths Angstrom"

    @property
    def predicts(self) -> str:
        """The kind of energy."""
        return self.energy_kind.value

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
            InputError: the model has no level of that name.
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
