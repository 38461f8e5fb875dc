"""The Python side of `geocalc relax` and `geocalc predict`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from geocalc.errors import ModelFileError
from geocalc.optim.catalog import make_optimizer
from geocalc.potentials.card import Task
from geocalc.potentials.registry import LoadedModel, load_model
from geocalc.relaxation.cells import CellRelaxation
from geocalc.relaxation.status import Status
from geocalc.relaxation.warm_start import Proposal
from geocalc.runs.engine import NamedPotential
from geocalc.runs.engines import cell_filter_of
from geocalc.runs.model_start import model_start
from geocalc.runs.records import Record
from geocalc.runs.runner import Job, Relaxed, relax_jobs
from geocalc.runs.second_opinion import make_adviser
from geocalc.runs.settings import ALL_STRAINS, RelaxSettings


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one structure.

    Attributes:
        record: energies, forces and status; the same fields as in `results.jsonl`.
        atoms: a relaxed copy with energy (eV) and forces (eV/Angstrom) attached, and stress
            (eV/Angstrom^3) where the cell was relaxed; constraints and info are kept. A copy of the
            input where nothing could be computed.
        number: place of the structure in the input.
    """

    record: Record
    atoms: Atoms
    number: int


def relax(
    structures: Atoms | Iterable[Atoms],
    model: str | os.PathLike[str] = "faenet-sfa",
    *,
    optimizer: str = "auto",
    fmax: float = 0.05,
    steps: int = 300,
    device: str = "auto",
    dtype: str = "float32",
    frames: str | None = None,
    strict: bool = False,
    workers: int = 1,
    warm_start: Proposal | str | None = None,
    second_opinion: str | None = None,
    cell: str = "none",
    pressure: float = 0.0,
    cell_mask: str = ALL_STRAINS,
    keep_symmetry: bool = False,
    level: str | None = None,
) -> list[Result]:
    """Relax structures with a model; a structure that fails keeps its place, with the error in its
    record.

    Args:
        structures: one or many, taken one at a time; `info["sid"]` names them. They are not
            changed.
        model: name or folder.
        optimizer: quasi-newton (ours, fewer calls; atoms only), bfgs, lbfgs, fire, fire2 (these
            equal ASE's) or gradient-descent; auto is quasi-newton, and bfgs where a cell is relaxed or a
            symmetry kept.
        fmax: eV/Angstrom.
        steps: allowed for each structure.
        device, dtype, frames, strict: see `GeoCalc`.
        workers: processes side by side on a CPU; results do not depend on it. A GPU computes
            batches in this process.
        warm_start: a model of relaxed structures by name, or a function of `Systems`, that proposes
            displacements (n_atoms, 3) in Angstrom to begin with. Each costs one evaluation and is
            taken back where energy or fmax is worse after it. With several workers a function must
            be picklable: define it at the top level of a module.
        second_opinion: a direct model by name, asked for the relaxed energy of every structure as
            it came; the record holds its answer and how far it is from the relaxation.
        cell: none; or frechet or unit, to relax the cell too, as ASE's filters do, with models that
            were trained on stress.
        pressure: eV/Angstrom^3 from outside; 1 GPa is 0.00624. Energies do not contain the work
            against it.
        cell_mask: the strains that may change.
        keep_symmetry: the space group of the start stays.
        level: of theory, for models that know several.
    Returns:
        One result per structure, in order.
    Raises:
        ModelNotFoundError, ModelFileError, RecipeError, InputError: the model or a setting is not
            right.
    """
    results = iter_relax(
        structures,
        model,
        optimizer=optimizer,
        fmax=fmax,
        steps=steps,
        device=device,
        dtype=dtype,
        frames=frames,
        strict=strict,
        workers=workers,
        warm_start=warm_start,
        second_opinion=second_opinion,
        cell=cell,
        pressure=pressure,
        cell_mask=cell_mask,
        keep_symmetry=keep_symmetry,
        level=level,
    )
    return sorted(results, key=lambda result: result.number)


def iter_relax(
    structures: Atoms | Iterable[Atoms],
    model: str | os.PathLike[str] = "faenet-sfa",
    *,
    optimizer: str = "auto",
    fmax: float = 0.05,
    steps: int = 300,
    device: str = "auto",
    dtype: str = "float32",
    frames: str | None = None,
    strict: bool = False,
    workers: int = 1,
    warm_start: Proposal | str | None = None,
    second_opinion: str | None = None,
    cell: str = "none",
    pressure: float = 0.0,
    cell_mask: str = ALL_STRAINS,
    keep_symmetry: bool = False,
    level: str | None = None,
) -> Iterator[Result]:
    """As `relax`, each result as soon as it is there: for more structures than memory holds.

    No more structures are taken from the input than are being worked on or wait for a worker. With
    one worker on a CPU results come in the order of the input, else in the order in which they end;
    `Result.number` tells the place.

    Args:
        structures, model, optimizer, fmax, steps, device, dtype, frames, strict, workers: see
            `relax`.
        warm_start, second_opinion, cell, pressure, cell_mask, keep_symmetry, level: see `relax`.
    Returns:
        An iterator over the results; closing it ends all work.
    Raises:
        ModelNotFoundError, ModelFileError, RecipeError, InputError: the model or a setting is not
            right.
    """
    settings = RelaxSettings.parse(
        {
            "model": str(model),
            "optimizer": optimizer,
            "fmax": fmax,
            "steps": steps,
            "traj": "none",
            "device": device,
            "dtype": dtype,
            "frames": frames,
            "strict": strict,
            "workers": workers,
            "cell": cell,
            "pressure": pressure,
            "cell_mask": cell_mask,
            "keep_symmetry": keep_symmetry,
            "level": level,
            "warm_start": warm_start if isinstance(warm_start, str) else None,
            "second_opinion": second_opinion,
        },
        "relax",
    )
    loaded = load_model(model, device=device, dtype=dtype, frames=frames, level=level)
    make_optimizer(settings.optimizer)
    potential = named_potential(loaded, settings)
    if warm_start is not None and not isinstance(warm_start, str):
        potential = replace(potential, warm_start=warm_start)
    given = [structures] if isinstance(structures, Atoms) else structures
    jobs = (
        Job(sid=str(atoms.info.get("sid", f"structure#{k}")), atoms=atoms)
        for k, atoms in enumerate(given)
    )
    return map(_result, relax_jobs(jobs, potential, settings))


def predict(
    structures: Atoms | Iterable[Atoms],
    model: str | os.PathLike[str] = "faenet-is2re",
    *,
    device: str = "auto",
    dtype: str = "float32",
    frames: str | None = None,
    strict: bool = False,
    workers: int = 1,
    level: str | None = None,
) -> list[Result]:
    """Evaluate structures as they are; nothing is relaxed.

    A model of relaxed energies gives, from the unrelaxed structure, the energy after relaxation
    and, where it predicts displacements, `Result.atoms` at their predicted places. A model of
    energies and forces gives those of the structure itself.

    Args:
        structures, model, device, dtype, frames, strict, workers, level: see `relax`.
    Returns:
        One result per structure, in order.
    Raises:
        ModelNotFoundError, ModelFileError, RecipeError, InputError: see `relax`.
    """
    return relax(
        structures,
        model,
        steps=0,
        device=device,
        dtype=dtype,
        frames=frames,
        strict=strict,
        workers=workers,
        level=level,
    )


def named_potential(model: LoadedModel, settings: RelaxSettings) -> NamedPotential:
    """The potential of a model with what records say of it.

    Raises:
        InputError: the settings ask for what the model cannot do.
    """
    potential = NamedPotential(
        potential=model,
        name=model.card.name,
        hash=model.hash,
        energy_kind=model.card.energy_kind.value,
        device=str(model.device),
        dtype=settings.dtype,
        reads_tags=model.card.reads_tags,
        opener=_Opener(
            folder=model.folder,
            hash=model.hash,
            dtype=settings.dtype,
            frames=settings.frames,
            level=settings.level,
        ),
        cutoff=model.card.cutoff,
        stress=model.card.stress,
        calibration=model.card.calibration,
        direct=model.card.task is Task.IS2RE,
    )
    cell_filter_of(potential, settings)
    if settings.second_opinion is not None:
        potential = replace(
            potential,
            second_opinion=make_adviser(settings.second_opinion, model.card, settings.steps),
        )
    if settings.warm_start is None:
        return potential
    return replace(potential, warm_start=model_start(settings.warm_start), reads_tags=True)


@dataclass(frozen=True, kw_only=True)
class _Opener:
    """Loads a model once more, in another process on the CPU."""

    folder: Path
    hash: str
    dtype: str
    frames: str | None
    level: str | None

    def __call__(self) -> LoadedModel:
        """The model.

        Raises:
            ModelFileError: it cannot be read any more, or is another one now.
        """
        model = load_model(
            self.folder, device="cpu", dtype=self.dtype, frames=self.frames, level=self.level
        )
        if model.hash != self.hash:
            raise ModelFileError(
                f"{self.folder} was changed while it was in use; run again to use the new model"
            )
        return model


def _result(ended: Relaxed) -> Result:
    atoms, relaxation = cast(Atoms, ended.job.atoms), ended.relaxation
    final = atoms.copy()
    if relaxation is not None:
        final.positions[:] = relaxation.systems.positions.cpu().numpy()
        results: dict[str, Any] = {"energy": relaxation.energy}
        if relaxation.status is not Status.PREDICTED:
            results["forces"] = relaxation.forces.cpu().numpy()
        if isinstance(relaxation, CellRelaxation):
            final.cell[:] = relaxation.systems.cell[0].cpu().numpy()
            if bool(relaxation.stress.isfinite().all()):
                results["stress"] = full_3x3_to_voigt_6_stress(relaxation.stress.cpu().numpy())
        final.calc = SinglePointCalculator(final, **results)
    return Result(record=ended.record, atoms=final, number=ended.number)
