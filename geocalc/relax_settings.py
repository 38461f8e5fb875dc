"""Settings of a relaxation run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from geocalc.settings import Settings

# a run may be resumed with other values of these: the results are the same
NOT_PART_OF_RESULT = {"device", "traj", "workers", "batch_edges"}


class RelaxSettings(Settings):
    """What `geocalc relax` can be told; saved with every run.

    Attributes:
        model: name or folder of the model.
        optimizer: name in `geocalc.optim.OPTIMIZERS`.
        fmax: eV/Angstrom; converged when no free atom has a larger force.
        steps: steps allowed for each structure.
        traj: which geometries are kept: none, the two ends, every so many steps, or full.
        strict: refuse structures whose tags would have to be converted.
        frames: frame policy other than the model's own.
        device: cpu, cuda, cuda:1 ..., or auto.
        dtype: of the model's weights; positions and optimiser are float64 always.
        workers: processes side by side on a CPU; None for as many as there are cores. Results do not depend on it.
        batch_edges: edges of the graphs that are computed together; None for what a GPU has memory for, and for one structure
            at a time on a CPU.
    """

    model: str = "faenet-sfa"
    optimizer: str = "bfgs"
    fmax: float = Field(0.05, gt=0, allow_inf_nan=False)
    steps: int = Field(300, ge=0)
    traj: str = Field("ends", pattern=r"^(none|ends|full|every:[1-9][0-9]*)$")
    strict: bool = False
    frames: str | None = None
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    workers: int | None = Field(None, ge=1)
    batch_edges: int | None = Field(None, ge=1)

    def identity(self) -> dict[str, Any]:
        """The settings that a result depends on."""
        return self.model_dump(exclude=NOT_PART_OF_RESULT)

    def keeps_step(self, step: int) -> bool:
        """Whether the geometry after so many steps belongs in the trajectory; the final one does unless traj is none."""
        word, _, interval = self.traj.partition(":")
        if word == "ends":
            return step == 0
        return word == "full" or (word == "every" and step % int(interval) == 0)
