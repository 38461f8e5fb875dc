"""Settings of training data: files, filters, split, and noise on unrelaxed structures."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

from pydantic import Field, model_validator

from geocalc.core.settings import Settings
from geocalc.core.units import EV


class DataSource(Settings):
    """File or folder of labeled structures.

    The training energy is the stored energy, plus `info[add_energy]` and minus
    `info[subtract_energy]` if these are set. For example, `add_energy: e_ads` and `subtract_energy:
    e_relaxed` convert the total energies of a relaxation to adsorption energies.
    """

    path: Path
    relaxed: Path | None = Field(
        None,
        description=(
            "for is2re: file of the relaxed structures with their energies, in the order of `path`;"
            " equal to `path` if its records contain both, as in OC20"
        ),
    )
    add_energy: str | None = None
    subtract_energy: str | None = None
    energy_key: str = Field(
        "REF_energy",
        description=(
            "info key of the energy; if it is missing, the result of the stored calculator is used"
        ),
    )
    energy_unit: str = Field(
        EV,
        description=(
            "unit of all energies, eV, meV, kcal/mol, kJ/mol or Hartree; forces are in this unit"
            " per Angstrom"
        ),
    )
    forces_key: str = Field(
        "REF_forces",
        description=(
            "arrays key of the forces, without constraints; if it is missing, the result of the"
            " stored calculator is used"
        ),
    )
    group_key: str = Field(
        "sid",
        description="info key of the relaxation; its images are always in the same split",
    )
    split_key: str | None = Field(
        None,
        description=(
            "info key, e.g. slab_id; structures with the same value are in the same split; by"
            " default those of a group"
        ),
    )
    require: dict[str, bool] = Field(
        default_factory=dict,
        description="info flags that structures must have, e.g. converged: true",
    )
    exclude_key: str | None = Field(
        None, description="info key whose values select structures to exclude, e.g. metal"
    )
    exclude_groups: tuple[str, ...] = Field(
        (), description="values of `exclude_key` of structures to exclude"
    )
    exclude_elements: tuple[str, ...] = Field(
        (), description="chemical symbols; structures that contain one of them are excluded"
    )
    weight: float = Field(
        1.0, gt=0, description="weight of the source in each epoch, relative to its size"
    )
    energies: bool = Field(
        True,
        description=(
            "train on energies; if false, on forces only, for energies with unknown references"
        ),
    )
    domain: bool = Field(
        True,
        description=(
            "whether the domain of the model counts these structures as known; false for helpers,"
            " e.g. gas molecules, which tell nothing of bonds on a surface"
        ),
    )
    level: str | None = Field(
        None,
        description=(
            "level of theory of the energies, one of those of the recipe; by default that of"
            " `about`"
        ),
    )

    @model_validator(mode="after")
    def _groups_have_a_key(self) -> Self:
        if self.exclude_groups and self.exclude_key is None:
            raise ValueError(
                f"exclude_groups names {', '.join(self.exclude_groups)}, but not the info key that"
                " holds these values; add exclude_key, for example exclude_key: metal"
            )
        return self


class Data(Settings):
    """Sources, filters and split of the training data."""

    sources: tuple[DataSource, ...] = Field(min_length=1)
    max_force: float = Field(
        10.0,
        gt=0,
        description="structures with a larger force (eV/Angstrom) on any atom are excluded",
    )
    max_jump: float | None = Field(
        None,
        gt=0,
        description=(
            "largest difference (eV) between the energy change and the work -F.dx of two"
            " consecutive images; images before a larger difference are excluded"
        ),
    )
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    test_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "fraction held out for a final test and never used in training; see"
            " `geocalc.data.prepare.samples_of_test`"
        ),
    )
    validation_key: str | None = Field(
        None, description="info key of a given split, used instead of validation_fraction"
    )
    validation_values: tuple[str, ...] = Field(
        (), description="values of `validation_key` of held-out structures"
    )
    split_seed: str = "geocalc"
    images_per_group: int = Field(
        6,
        ge=1,
        description="images of each relaxation per epoch: the first, the last and random ones",
    )


class Noise(Settings):
    """Noisy Nodes: noise on the positions of unrelaxed structures.

    Relaxed energies and geometries remain the targets.

    With the given probability, each time a structure is drawn, its free atoms start from a point
    between the unrelaxed and the relaxed structure (the same uniformly random fraction of the
    displacement for all atoms; without `interpolate` the unrelaxed structure), plus normally
    distributed noise. Graph and frames are computed afterwards.

    Source: Godwin et al., ICLR 2022.
    """

    probability: float = Field(0.5, ge=0, le=1)
    sigma: float = Field(0.1, ge=0, description="standard deviation in Angstrom")
    interpolate: bool = True


class DataPlan(Protocol):
    """The part of a recipe that determines its prepared samples."""

    @property
    def name(self) -> str:
        """Name of the recipe, for messages."""
        ...

    @property
    def data(self) -> Data:
        """Sources, filters and split."""
        ...

    @property
    def needs_forces(self) -> bool:
        """Whether structures without forces are excluded."""
        ...

    @property
    def learns_fixed(self) -> bool:
        """Whether forces on fixed atoms are targets, so that files with zeros are rejected."""
        ...

    @property
    def uses_tags(self) -> bool:
        """Whether tags are read and converted to the OC20 convention."""
        ...
