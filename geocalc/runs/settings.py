"""Settings of a relaxation run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from geocalc.core.settings import Settings

# a run may be resumed with other values of these: the results are the same
NOT_PART_OF_RESULT = {"device", "traj", "workers", "batch_edges"}
ALL_STRAINS = "xx,yy,zz,yz,xz,xy"


class RelaxSettings(Settings):
    """What `geocalc relax` can be told; saved with every run.

    Attributes:
        model: name or folder of the model.
        optimizer: name in `geocalc.optim.OPTIMIZERS`, or auto: quasi-newton, and bfgs where a cell
            is relaxed or a symmetry kept.
        fmax: eV/Angstrom; converged when no free atom has a larger force.
        steps: steps allowed for each structure.
        traj: which geometries are kept: none, the two ends, every so many steps, or full.
        strict: refuse structures whose tags would have to be converted.
        frames: frame policy other than the model's own.
        device: cpu, cuda, cuda:1 ..., or auto.
        dtype: of the model's weights; positions and optimizer are float64 always.
        workers: processes side by side on a CPU; None for as many as there are cores. Results do
            not depend on it.
        batch_edges: edges of the graphs that are computed together; None for what a GPU has memory
            for, and for one structure at a time on a CPU.
        cell: none, or how the cell is relaxed with the atoms: frechet or unit, as ASE's filters of
            these names; fmax then counts for the strains too. It needs a model that was trained on
            stress.
        pressure: eV/Angstrom^3 from outside, as ASE's `scalar_pressure`; 1 GPa is 0.00624.
        cell_mask: the strains that may change, some of xx,yy,zz,yz,xz,xy.
        keep_symmetry: the space group that the structure has at the start stays.
        level: of theory, for models that know several.
        warm_start: model of relaxed structures whose displacements are tried first; see
            `geocalc.runs.model_start`.
        second_opinion: direct model whose relaxed energy stands beside the one found; see
            `geocalc.runs.opinions`.
    """

    model: str = "faenet-sfa"
    optimizer: str = "auto"
    fmax: float = Field(0.05, gt=0, allow_inf_nan=False)
    steps: int = Field(300, ge=0)
    traj: str = Field("ends", pattern=r"^(none|ends|full|every:[1-9][0-9]*)$")
    strict: bool = False
    frames: str | None = None
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    workers: int | None = Field(None, ge=1)
    batch_edges: int | None = Field(None, ge=1)
    cell: Literal["none", "frechet", "unit"] = "none"
    pressure: float = Field(0.0, allow_inf_nan=False)
    cell_mask: str = Field(ALL_STRAINS, pattern=r"^(xx|yy|zz|yz|xz|xy)(,(xx|yy|zz|yz|xz|xy))*$")
    keep_symmetry: bool = False
    level: str | None = None
    warm_start: str | None = None
    second_opinion: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _choose_optimizer(cls, values: Any) -> Any:
        """What is saved with a run is the method that was used."""
        if not isinstance(values, dict) or values.get("optimizer", "auto") != "auto":
            return values
        atoms_alone = values.get("cell", "none") == "none" and not values.get(
            "keep_symmetry", False
        )
        return values | {"optimizer": "quasi-newton" if atoms_alone else "bfgs"}

    def identity(self) -> dict[str, Any]:
        """The settings that a result depends on."""
        return self.model_dump(exclude=NOT_PART_OF_RESULT)

    def keeps_step(self, step: int) -> bool:
        """Whether the geometry after so many steps belongs in the trajectory; the final one does
        unless traj is none.
        """
        word, _, interval = self.traj.partition(":")
        if word == "ends":
            return step == 0
        return word == "full" or (word == "every" and step % int(interval) == 0)
