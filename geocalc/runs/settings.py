"""Options of relaxations and predictions.

Each option is one field: its name, its default, its allowed values and its help text. The options
of the command line are made from the fields (`geocalc.cli.options`), and worker processes and
`settings.yaml` get the settings whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from geocalc.core.choice import Choice
from geocalc.core.settings import Settings

ALL_STRAINS = "xx,yy,zz,yz,xz,xy"
POTENTIAL, DIRECT_MODEL = "regnn-wide", "faenet-is2re"  # models that are used by default
_MODEL = "Name or folder of the model."
SAME_RESULTS = "same results"  # marks options that do not change results


class ModelSettings(Settings):
    """Options of every run of a model over structures: the model, and how it computes."""

    model: str = Field(POTENTIAL, description=_MODEL)
    frames: str | None = Field(
        None,
        description=(
            "Frame policy in place of the model's own: averaged (exact symmetry) or single (one"
            " frame, faster)."
        ),
    )
    level: str | None = Field(
        None, description="Level of theory, for models that were trained on several."
    )
    strict: bool = Field(
        False,
        description=(
            "Refuse structures whose tags would have to be converted, or that are outside what the"
            " model has learned."
        ),
    )
    device: Annotated[str, SAME_RESULTS] = Field(
        "auto", description="Device: auto (a GPU if there is one), cpu, cuda or cuda:1."
    )
    dtype: Literal["float32", "float64"] = Field(
        "float32",
        description="Precision of the network; positions and optimizers always use float64.",
    )
    workers: Annotated[int | None, SAME_RESULTS] = Field(
        None, ge=1, description="Worker processes on a CPU [default: one for each core]."
    )
    batch_edges: Annotated[int | None, SAME_RESULTS] = Field(
        None,
        ge=1,
        description=(
            "Edges of graphs computed together [default: as many as fit on a GPU, or in the caches"
            " of a CPU]."
        ),
    )
    reproducible: bool = Field(
        False,
        description=(
            "Compute each structure alone, so that results are the same to the last bit with any"
            " number of workers; slower."
        ),
    )

    def identity(self) -> dict[str, Any]:
        """The values that results depend on."""
        return self.model_dump(exclude=self._same_results())

    def circumstances(self) -> dict[str, Any]:
        """The other values: a run can be resumed with different ones."""
        return self.model_dump(include=self._same_results())

    @classmethod
    def _same_results(cls) -> set[str]:
        return {name for name, field in cls.model_fields.items() if SAME_RESULTS in field.metadata}


class RelaxSettings(ModelSettings):
    """Options of a relaxation, in Python, on the command line and in `settings.yaml`."""

    model: str = Field(POTENTIAL, description=_MODEL)
    optimizer: Choice = Field(
        Choice(name="auto"),
        description=(
            "Optimizer: quasi-newton (fewest model calls; the default, auto), bfgs, lbfgs, fire,"
            " fire2 (as in ASE), conjugate-gradient or gradient-descent. Change its settings with"
            " --set optimizer.max_step=0.1 (Angstrom)."
        ),
    )
    fmax: float = Field(
        0.05,
        gt=0,
        allow_inf_nan=False,
        description="Converged when no free atom has a larger force, eV/Angstrom.",
    )
    steps: int = Field(300, ge=0, description="Steps allowed for each structure.")
    traj: Annotated[str, SAME_RESULTS] = Field(
        "ends",
        pattern=r"^(none|ends|full|every:[1-9][0-9]*)$",
        description="Geometries kept in trajectory/: none, ends, every:N or full.",
    )
    cell: Literal["none", "frechet", "unit"] = Field(
        "none",
        description=(
            "Relax the cell together with the atoms, as ASE's filters of these names; needs a model"
            " trained on stress."
        ),
    )
    pressure: float = Field(
        0.0,
        allow_inf_nan=False,
        description="External pressure on the cell, eV/Angstrom^3 (1 GPa is 0.00624).",
    )
    cell_mask: str = Field(
        ALL_STRAINS,
        pattern=r"^(xx|yy|zz|yz|xz|xy)(,(xx|yy|zz|yz|xz|xy))*$",
        description="Strains of the cell that may change.",
    )
    keep_symmetry: bool = Field(
        False, description="Keep the space group that a structure has at the start."
    )
    warm_start: str | None = Field(
        None,
        title="MODEL",
        description="Try the displacements predicted by a model of relaxed structures first.",
    )
    second_opinion: str | None = Field(
        None,
        title="MODEL",
        description="Note the relaxed energy that a direct model predicts beside each relaxation.",
    )
    allow_unconverged: Annotated[bool, SAME_RESULTS] = Field(
        False,
        description=(
            "Return exit status 0 also where steps ran out before convergence; errors still give 3."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_optimizer(cls, values: Any) -> Any:
        """Put the method that is used in place of auto, so that it is saved with a run."""
        if not isinstance(values, Mapping):
            return values
        given = values.get("optimizer", "auto")
        group = given.model_dump() if isinstance(given, Choice) else given
        group = {"name": group} if isinstance(group, str) else group
        if not isinstance(group, Mapping) or group.get("name", "auto") != "auto":
            return values
        return {**values, "optimizer": {**group, "name": "quasi-newton"}}

    def keeps_step(self, step: int) -> bool:
        """Whether the geometry after so many steps belongs in the trajectory; the final one does
        unless traj is none.
        """
        word, _, interval = self.traj.partition(":")
        if word == "ends":
            return step == 0
        return word == "full" or (word == "every" and step % int(interval) == 0)


class PredictSettings(ModelSettings):
    """Options of a prediction for structures as they are."""

    model: str = Field(DIRECT_MODEL, description=_MODEL)

    def as_relaxation(self) -> RelaxSettings:
        """The same run as a relaxation without steps."""
        return RelaxSettings(steps=0, traj="none", **self.model_dump())
