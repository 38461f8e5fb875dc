"""A run over many structures: each gets a record, whatever happens to it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from geocalc.core.systems import Systems
from geocalc.errors import FAILURES, format_error
from geocalc.potentials.calibration import Calibration
from geocalc.relaxation.cells import CellRelaxation, CellSnapshot
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import Status
from geocalc.relaxation.warm_start import name_of
from geocalc.runs.engine import Engine, NamedPotential, Outcome, Report, Task
from geocalc.runs.engines import make_engine
from geocalc.runs.folder import RunFolder, content_key
from geocalc.runs.records import Record, SecondOpinion, finite
from geocalc.runs.settings import RelaxSettings
from geocalc.structures.convert import from_atoms
from geocalc.structures.extxyz import format_extxyz
from geocalc.structures.readers import Source, Unreadable
from geocalc.structures.tags import Conversions
from geocalc.version import __version__

if TYPE_CHECKING:
    from ase import Atoms

# keys of the input that hold labels of the unrelaxed geometry; on a relaxed one they would be false
LABELS = "REF_"
PACKAGES = ("torch", "numpy", "ase", "vesin")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One structure to relax.

    Attributes:
        sid: `info["sid"]`, else `<file>#<index>`.
        atoms: the structure, None if it could not be read.
        error: the sentence why not, None if it could.
    """

    sid: str
    atoms: Atoms | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is the same for every structure of a run, and what is told once of all of them."""

    model: NamedPotential
    settings: RelaxSettings
    version: str
    conversions: Conversions


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A job on its way.

    Attributes:
        prepared: ready for the potential, or the sentence why it is not, or None where nothing is
            to be computed.
        unrelaxed: ready for the model of the second opinion, or the sentence why it is not, or None
            where it is not asked.
    """

    number: int
    job: Job
    key: str = ""
    prepared: Systems | str | None
    unrelaxed: Systems | str | None = None


def jobs_of(found: Iterable[Source | Unreadable]) -> Iterator[Job]:
    """What `geocalc.structures.readers.read_structures` finds, as jobs."""
    for one in found:
        yield (
            Job(sid=one.sid, error=one.error)
            if isinstance(one, Unreadable)
            else Job(sid=one.sid, atoms=one.atoms)
        )


def open_run_folder(
    path: Path | str,
    model: NamedPotential,
    settings: RelaxSettings,
    *,
    inputs: Sequence[str] = (),
    resume: bool = False,
) -> RunFolder:
    """The run folder of a relaxation run; everything resolved, versions and hashes go to its
    `settings.yaml`.

    Args:
        path: the folder.
        model, settings: as in `run_relaxation`.
        inputs: what was asked for, noted beside the settings.
        resume: continue what the folder holds.
    Raises:
        RunFolderError: see `RunFolder`.
    """
    identity = {
        **settings.identity(),
        "model": model.name,
        "model_hash": model.hash,
        "dtype": model.dtype,
    }
    if model.warm_start is not None:
        identity["warm_start"] = name_of(model.warm_start)
    if model.second_opinion is not None:
        identity["second_opinion"] = (
            f"{model.second_opinion.name} ({model.second_opinion.model.hash})"
        )
    provenance = {
        "traj": settings.traj,
        "device": model.device,
        "energy_kind": model.energy_kind,
        "inputs": list(inputs),
        "versions": versions(),
    }
    return RunFolder(path, identity, provenance, resume=resume)


def run_relaxation(
    jobs: Iterable[Job],
    model: NamedPotential,
    settings: RelaxSettings,
    folder: RunFolder,
    progress: Report | None = None,
) -> Iterator[Record]:
    """Relax structures side by side; each record is on the disk before it is handed over.

    Structures that `folder` holds already are not computed again; their records come as they were.
    Only those that were lost to a dying process or to a lack of memory are tried again. When all
    are done, `relaxed.extxyz` is written in the order of `jobs`, and `folder.records()` gives the
    records in that order. The folder is closed in any case. Of `jobs` no more are taken than are
    being worked on, or wait for a worker.

    Args:
        jobs: the input; a structure that could not be read gets a record with its error.
        model: potential with its name and hash.
        settings: of the relaxation.
        folder: from `open_run_folder`.
        progress: called after every model call in this process; worker processes do not call it.
    Yields:
        The record of each structure as it ends: with one worker, in the order of `jobs`.
    Raises:
        InputError: the optimizer is unknown, or workers cannot be had.
        RunFolderError: the disk is full or cannot be written; what is finished is safe.
    """
    run = _Run(model=model, settings=settings, version=__version__, conversions=Conversions())
    keys: list[str] = []
    try:
        engine = make_engine(model, settings, progress)
        with closing(_driven(_keyed(jobs, run, folder, keys), engine)) as ends:
            for item, outcome in ends:
                record = (
                    folder.record(item.key)
                    if outcome is None
                    else _keep(item, outcome, run, folder)
                )
                if record is not None:
                    yield record
        folder.finish(keys)
    finally:
        folder.close()
        run.conversions.warn(stacklevel=2)


@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """The end of a job without a run folder.

    Attributes:
        job: as it was given.
        number: its place in the input.
        record: what is said of it.
        relaxation: None where the record holds an error.
    """

    job: Job
    number: int
    record: Record
    relaxation: Relaxation | None


def relax_jobs(
    jobs: Iterable[Job], model: NamedPotential, settings: RelaxSettings
) -> Iterator[Relaxed]:
    """Relax structures side by side without a run folder, each yielded as it ends; see
    `run_relaxation`.

    What was done to tags is told in one warning at the end.

    Raises:
        InputError: the optimizer is unknown, or workers cannot be had.
    """
    run = _Run(model=model, settings=settings, version=__version__, conversions=Conversions())
    items = (_item(n, job, run) for n, job in enumerate(jobs))
    try:
        with closing(_driven(items, make_engine(model, settings))) as ends:
            for item, outcome in ends:
                if outcome is not None:
                    record = _record(item, outcome, run)
                    yield Relaxed(
                        job=item.job,
                        number=item.number,
                        record=record,
                        relaxation=outcome.relaxation,
                    )
    finally:
        run.conversions.warn(stacklevel=2)


def _driven(items: Iterable[_Item], engine: Engine) -> Generator[tuple[_Item, Outcome | None]]:
    """Every item with its outcome, None for those that need none; the engine is closed whatever
    happens.
    """
    open_items: dict[int, _Item] = {}
    try:
        for item in items:
            if isinstance(item.prepared, Systems):
                open_items[item.number] = item
                unrelaxed = item.unrelaxed if isinstance(item.unrelaxed, Systems) else None
                engine.add(
                    Task(
                        number=item.number,
                        sid=item.job.sid,
                        systems=item.prepared,
                        unrelaxed=unrelaxed,
                    )
                )
            else:
                yield item, None if item.prepared is None else Outcome(error=item.prepared)
            while not engine.has_room:
                yield from (
                    (open_items.pop(number), outcome) for number, outcome in engine.collect()
                )
        while engine.n_open:
            yield from ((open_items.pop(number), outcome) for number, outcome in engine.collect())
    finally:
        engine.close()


def _keyed(jobs: Iterable[Job], run: _Run, folder: RunFolder, keys: list[str]) -> Iterator[_Item]:
    """The jobs with their keys, which go to `keys` too; those that the folder holds are not to be
    computed.
    """
    seen: Counter[str] = Counter()
    for number, job in enumerate(jobs):
        item = _item(number, job, run)
        content = _content(item.prepared) + (
            [] if item.unrelaxed is item.prepared else _content(item.unrelaxed)
        )
        key = content_key(job.sid, content, folder.identity)
        seen[key] += 1
        if seen[key] > 1:  # the same structure again: each gets a record of its own
            key = content_key(str(seen[key]), [key.encode()], folder.identity)
        keys.append(key)
        yield replace(item, key=key, prepared=None) if key in folder else replace(item, key=key)


def versions() -> dict[str, str]:
    """Versions of Python, geocalc and the packages that results depend on."""
    found = {"python": platform.python_version(), "geocalc": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _item(number: int, job: Job, run: _Run) -> _Item:
    """A job made ready for the potential and, where it reads tags and the potential does not, for
    the second opinion.
    """
    prepared = _prepare(job, run, run.model.reads_tags)
    adviser, unrelaxed = run.model.second_opinion, None
    if adviser is not None and isinstance(prepared, Systems):
        alike = adviser.reads_tags == run.model.reads_tags
        unrelaxed = prepared if alike else _prepare(job, run, adviser.reads_tags)
    return _Item(number=number, job=job, prepared=prepared, unrelaxed=unrelaxed)


def _prepare(job: Job, run: _Run, use_tags: bool) -> Systems | str:
    """The structure ready for a model, or the sentence why there is none."""
    if job.atoms is None:
        return job.error or "the structure could not be read"
    try:
        return from_atoms(
            job.atoms, strict=run.settings.strict, use_tags=use_tags, conversions=run.conversions
        )
    except FAILURES as error:
        return format_error(error)


def _content(prepared: Systems | str | None) -> list[bytes]:
    if prepared is None:
        return []
    if isinstance(prepared, str):
        return [prepared.encode()]
    values = [getattr(prepared, f.name) for f in fields(prepared)]
    return [value.numpy().tobytes() for value in values if value is not None]


def _keep(item: _Item, outcome: Outcome, run: _Run, folder: RunFolder) -> Record:
    """Put all of one structure into the folder."""
    job, record, frame = item.job, _record(item, outcome, run), None
    if outcome.relaxation is not None and job.atoms is not None:
        final = _written(outcome.relaxation.systems, job.atoms, run)
        frame = _relaxed_frame(job.atoms, final, outcome.relaxation, record)
        if run.settings.traj != "none":
            folder.write_trajectory(job.sid, item.key, _path_frames(final, outcome, job.sid))
    folder.add(item.key, record, frame, final=outcome.final)
    return record


def _record(item: _Item, outcome: Outcome, run: _Run) -> Record:
    job, ended = item.job, outcome.relaxation
    energy = None if ended is None else finite(ended.energy)
    status = Status.ERROR if ended is None else ended.status
    error_68, error_95 = _half_widths(ended, run.model.calibration)
    return Record(
        sid=job.sid,
        formula=None if job.atoms is None else job.atoms.get_chemical_formula(),
        n_atoms=None if job.atoms is None else len(job.atoms),
        model=run.model.name,
        model_hash=run.model.hash,
        energy=energy,
        energy_kind=run.model.energy_kind,
        energy_std=None if ended is None else finite(ended.energy_std),
        energy_error_68=error_68,
        energy_error_95=error_95,
        second_opinion=_opinion(item, outcome, energy, run),
        fmax=None if ended is None else finite(ended.fmax),
        n_steps=outcome.n_steps,
        n_evaluations=outcome.n_evaluations,
        converged=status is Status.CONVERGED,
        status=status.value,
        stop_reason=status.sentence if ended is None else ended.sentence,
        anomalies=(),
        wall_s=round(outcome.wall_s, 4),
        device=run.model.device,
        dtype=run.model.dtype,
        version=run.version,
        error=outcome.error,
    )


def _opinion(
    item: _Item, outcome: Outcome, energy: float | None, run: _Run
) -> SecondOpinion | None:
    """The second opinion beside the energy (eV) that was found, or why there is none."""
    adviser = run.model.second_opinion
    if adviser is None:
        return None
    if isinstance(item.unrelaxed, str):
        return adviser.silent(item.unrelaxed)
    return (
        None if outcome.second_opinion is None else adviser.compared(outcome.second_opinion, energy)
    )


def _half_widths(
    ended: Relaxation | None, calibration: Calibration | None
) -> tuple[float | None, float | None]:
    """Half the intervals around the energy of a relaxed structure, eV; None where nothing was
    calibrated.
    """
    if (
        calibration is None
        or ended is None
        or ended.status not in (Status.CONVERGED, Status.PREDICTED)
    ):
        return None, None
    return calibration.half_widths(ended.energy_std)


def _written(systems: Systems, atoms: Atoms, run: _Run) -> Systems:
    """The structure as files show it: with the tags that the model read, or the given ones where it
    reads none.
    """
    systems = systems.to("cpu")
    return (
        systems
        if run.model.reads_tags
        else replace(systems, tags=torch.as_tensor(atoms.get_tags(), dtype=torch.int64))
    )


def _relaxed_frame(atoms: Atoms, final: Systems, ended: Relaxation, record: Record) -> str:
    """Extended XYZ of the relaxed structure: what came with it, and predictions under names of our
    own.
    """
    info = {name: value for name, value in atoms.info.items() if not str(name).startswith(LABELS)}
    arrays = {name: value for name, value in atoms.arrays.items() if not name.startswith(LABELS)}
    info |= {
        "sid": record.sid,
        "geocalc_energy": record.energy,
        "geocalc_energy_kind": record.energy_kind,
        "geocalc_energy_std": record.energy_std,
        "geocalc_energy_error_95": record.energy_error_95,
        "geocalc_fmax": record.fmax,
        "geocalc_status": record.status,
        "geocalc_converged": record.converged,
        "geocalc_n_steps": record.n_steps,
        "geocalc_model": record.model,
        "geocalc_model_hash": record.model_hash,
    }
    if record.second_opinion is not None:
        info["geocalc_second_opinion"] = record.second_opinion.energy
        info["geocalc_second_opinion_model"] = record.second_opinion.model
    if isinstance(ended, CellRelaxation) and bool(ended.stress.isfinite().all()):
        info["geocalc_stress"] = ended.stress.cpu().numpy().reshape(9)
    if ended.status is not Status.PREDICTED:
        arrays["geocalc_forces"] = ended.forces.cpu().numpy()
    return format_extxyz(final, info, arrays)


def _path_frames(final: Systems, outcome: Outcome, sid: str) -> list[str]:
    """Extended XYZ of the geometries kept along the path, and of the final one if it is not the
    last of them.
    """
    ended, path = outcome.relaxation, list(outcome.path)
    frames = []
    for step, now in path:
        cell = now.cell.cpu() if isinstance(now, CellSnapshot) else final.cell
        place = replace(final, positions=now.positions.cpu(), cell=cell)
        frames.append(_path_frame(place, sid, step, float(now.energy), float(now.fmax), now.forces))
    if ended is not None and not (
        path and torch.equal(path[-1][1].positions.cpu(), final.positions)
    ):
        frames.append(
            _path_frame(final, sid, ended.n_steps, ended.energy, ended.fmax, ended.forces)
        )
    return frames


def _path_frame(
    systems: Systems, sid: str, step: int, energy: float, fmax: float, forces: torch.Tensor
) -> str:
    info = {
        "sid": sid,
        "geocalc_step": step,
        "geocalc_energy": finite(energy),
        "geocalc_fmax": finite(fmax),
    }
    return format_extxyz(systems, info, {"geocalc_forces": forces.cpu().numpy()})
