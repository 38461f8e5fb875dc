"""Which structures a model learns from: files, filters, the split, and noise on unrelaxed
structures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pydantic import Field

from geocalc.core.settings import Settings
from geocalc.core.units import EV


class DataSource(Settings):
    """One file of labeled structures, or a folder of them.

    The training energy is the stored energy, plus `info[add_energy]`, minus `info[subtract_energy]`
    where these are named: with `add_energy: e_ads` and `subtract_energy: e_relaxed` a relaxation's
    total energies become adsorption energies.
    """

    path: Path
    relaxed: Path | None = Field(
        None,
        description=(
            "for is2re: a file of the relaxed structures, in the order of `path`; energies are read"
            " from it. `path` itself where its records hold both, as OC20's do"
        ),
    )
    add_energy: str | None = None
    subtract_energy: str | None = None
    energy_key: str = Field(
        "REF_energy",
        description="info key of the energy; the results of a stored calculator come next",
    )
    energy_unit: str = Field(
        EV,
        description=(
            "of every energy that is read, eV, meV, kcal/mol, kJ/mol or Hartree, and per Angstrom"
            " of the forces"
        ),
    )
    forces_key: str = Field(
        "REF_forces", description="arrays key of the forces, constraints not applied; likewise"
    )
    group_key: str = Field(
        "sid",
        description="info key of the relaxation; frames of one group never fall in both splits",
    )
    split_key: str | None = Field(
        None,
        description=(
            "info key, e.g. slab_id: what shares its value falls on one side of the split; by"
            " default the group"
        ),
    )
    require: dict[str, bool] = Field(
        default_factory=dict, description="info flags a frame must have, e.g. converged: true"
    )
    exclude_groups: tuple[str, ...] = Field((), description="values of `exclude_key` left out")
    exclude_key: str = "metal"
    exclude_elements: tuple[str, ...] = Field(
        (), description="symbols; structures that contain one are left out"
    )
    weight: float = Field(
        1.0, gt=0, description="share of each epoch relative to the source's own size"
    )
    energies: bool = Field(
        True,
        description=(
            "without, its forces alone are learned, where nothing says what its energies are"
            " relative to"
        ),
    )
    level: str | None = Field(
        None,
        description=(
            "level of theory of its energies, one of the recipe's; by default that of `about`"
        ),
    )


class Data(Settings):
    """Which structures, how they are filtered and how they are split."""

    sources: tuple[DataSource, ...] = Field(min_length=1)
    max_force: float = Field(
        10.0, gt=0, description="frames with a larger force (eV/A) on any atom are left out"
    )
    max_jump: float | None = Field(
        None, gt=0, description="frames whose energy jumps (eV) against -F.dx are cut off there"
    )
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    test_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "kept for a last test, see `geocalc.data.prepare.samples_of_test`; training never"
            " sees it"
        ),
    )
    validation_key: str | None = Field(
        None, description="info key of a split made elsewhere; it replaces validation_fraction"
    )
    validation_values: tuple[str, ...] = Field(
        (), description="values of `validation_key` that are held out"
    )
    split_seed: str = "geocalc"
    images_per_group: int = Field(
        6, ge=1, description="frames drawn from each relaxation per epoch: first, last, random"
    )


class Noise(Settings):
    """Noisy Nodes: what an unrelaxed structure may look like; its relaxed energy and geometry stay
    the targets.

    Each time a structure is drawn, with the given probability its atoms that may move start from a
    point between unrelaxed and relaxed (the same share of the way for all, uniformly drawn; without
    `interpolate` from the unrelaxed one), plus normal noise. Graph and frames are made afterwards.

    Source: Godwin et al., ICLR 2022.
    """

    probability: float = Field(0.5, ge=0, le=1)
    sigma: float = Field(0.1, ge=0, description="Angstrom")
    interpolate: bool = True


class DataPlan(Protocol):
    """What a recipe says of its data: the part of it that prepared samples depend on."""

    @property
    def name(self) -> str:
        """Of the recipe, for messages."""
        ...

    @property
    def data(self) -> Data:
        """Files, filters and split."""
        ...

    @property
    def needs_forces(self) -> bool:
        """Whether structures without forces are left out."""
        ...

    @property
    def learns_fixed(self) -> bool:
        """Whether forces on fixed atoms are learned, so that files with zeros in their place are
        refused.
        """
        ...

    @property
    def uses_tags(self) -> bool:
        """Whether tags are read, converted to OC20's where needed."""
        ...
