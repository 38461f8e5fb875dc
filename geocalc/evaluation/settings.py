"""Options of an evaluation; the options of `geocalc evaluate` are made from the fields."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geocalc.core.choice import Choice
from geocalc.core.settings import Settings

Measured = Literal["s2ef", "relax", "is2re", "symmetry", "oversmoothing"]
WITHOUT_LABELS = ("symmetry", "oversmoothing")  # tasks that look at structures alone


class EvaluateSettings(Settings):
    """What is measured of a model, and how."""

    task: Measured = Field(
        "s2ef",
        description=(
            "s2ef: energies and forces. relax: relaxations from the first to the last frame. is2re:"
            " relaxed energies and positions from unrelaxed structures. symmetry: changes under"
            " rotation, reflection and re-wrapping. oversmoothing: similarity of atom features in"
            " each layer."
        ),
    )
    source: int | None = Field(
        None, description="Only this source of a recipe, counted from 0 [default: all]."
    )
    optimizer: Choice = Field(
        Choice(name="quasi-newton"), description="Optimizer, for --task relax."
    )
    fmax: float = Field(
        0.05,
        gt=0,
        allow_inf_nan=False,
        description="Largest force of a converged structure, eV/Angstrom, for --task relax.",
    )
    steps: int = Field(300, ge=0, description="Steps allowed for each structure, for --task relax.")
    limit: int = Field(
        32,
        description="Structures of each source, for --task symmetry and oversmoothing.",
    )
    seed: int | None = Field(
        None,
        description="Seed of stochastic frames and of --task symmetry [default: 0].",
    )
    frames: str | None = Field(
        None, description="Frame policy in place of the model's own: averaged, single, ..."
    )
    level: str | None = Field(
        None, description="Level of theory, for models that were trained on several."
    )
    device: str = Field(
        "auto", description="Device: auto (a GPU if there is one), cpu, cuda or cuda:1."
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="Precision of the network.")
