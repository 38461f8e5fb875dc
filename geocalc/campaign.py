"""A run over many structures: each gets a record, whatever happens to it."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geocalc import __version__
from geocalc.errors import GeoCalcError
from geocalc.extxyz import format_frame
from geocalc.io import from_atoms
from geocalc.optim import Optimizer, make_optimizer
from geocalc.readers import Source, Unreadable
from geocalc.records import Record, finite
from geocalc.relax_settings import RelaxSettings
from geocalc.relaxation import Progress, Relaxation, Snapshot, Status, relax_systems
from geocalc.run_folder import RunFolder, content_key
from geocalc.systems import Potential, Systems

if TYPE_CHECKING:
    from ase import Atoms

FAILURES = (GeoCalcError, ArithmeticError, RuntimeError, ValueError, LookupError)  # what models and calculators raise
LABELS = "REF_"  # keys of the input that hold labels of the unrelaxed geometry; on a relaxed one they would be false
PACKAGES = ("torch", "numpy", "ase", "vesin")

Report = Callable[[str, int, float], None]  # sid, steps so far, fmax in eV/Angstrom


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
class NamedPotential:
    """A potential and what records say of it.

    Attributes:
        potential: gives energies and forces.
        name: of the model. hash: of its weights and settings.
        energy_kind: total, adsorption, formation or relative; None if nobody knows.
        device, dtype: where and in which floating type it computes.
        reads_tags: whether tags mean something to it; where they do not, none is judged.
    """

    potential: Potential
    name: str
    hash: str
    energy_kind: str | None = None
    device: str = "cpu"
    dtype: str = "float64"
    reads_tags: bool = True


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is the same for every structure of a run."""

    model: NamedPotential
    settings: RelaxSettings
    optimizer: Optimizer[Any]
    version: str
    report: Report | None


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What became of one structure: a relaxation with the geometries its trajectory keeps, or an error."""

    relaxation: Relaxation | None = None
    path: tuple[tuple[int, Snapshot], ...] = ()
    error: str | None = None
    n_steps: int = 0
    n_evaluations: int = 0


def jobs_of(found: Iterable[Source | Unreadable]) -> Iterator[Job]:
    """What `geocalc.readers.read_structures` finds, as jobs."""
    for one in found:
        yield Job(sid=one.sid, error=one.error) if isinstance(one, Unreadable) else Job(sid=one.sid, atoms=one.atoms)


def open_run_folder(
    path: Path | str, model: NamedPotential, settings: RelaxSettings, *, inputs: Sequence[str] = (), resume: bool = False
) -> RunFolder:
    """The run folder of a relaxation run; everything resolved, versions and hashes go to its `settings.yaml`.

    Args:
        path: the folder.
        model, settings: as in `run_relaxation`.
        inputs: what was asked for, noted beside the settings.
        resume: continue what the folder holds.
    Raises:
        RunFolderError: see `RunFolder`.
    """
    identity = {**settings.identity(), "model": model.name, "model_hash": model.hash, "dtype": model.dtype}
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
    """Relax one structure after the other; each record is on the disk before it is handed over.

    Structures that `folder` holds already are not computed again; their records come as they were. When all are done,
    `relaxed.extxyz` is written in the order of `jobs`.

    Args:
        jobs: the input; a structure that could not be read gets a record with its error.
        model: potential with its name and hash.
        settings: of the relaxation.
        folder: from `open_run_folder`.
        progress: called after every model call.
    Yields:
        The record of each structure, in the order of `jobs`.
    Raises:
        InputError: the optimiser is unknown.
        RunFolderError: the disk is full or cannot be written; what is finished is safe.
    """
    optimizer = make_optimizer(settings.optimizer)
    run = _Run(model=model, settings=settings, optimizer=optimizer, version=__version__, report=progress)
    seen: Counter[str] = Counter()
    keys: list[str] = []
    for job in jobs:
        prepared = _prepare(job, run)
        key = content_key(job.sid, _content(prepared), folder.identity)
        seen[key] += 1
        if seen[key] > 1:  # the same structure again: each gets a record of its own
            key = content_key(str(seen[key]), [key.encode()], folder.identity)
        keys.append(key)
        record = folder.record(key)
        if record is None:
            record = _finish_one(job, prepared, key, run, folder)
        yield record
    folder.finish(keys)


def relax_job(job: Job, model: NamedPotential, settings: RelaxSettings) -> tuple[Record, Relaxation | None]:
    """Relax one structure without a run folder; the relaxation is None where the record holds an error.

    Raises:
        InputError: the optimiser is unknown.
    """
    optimizer = make_optimizer(settings.optimizer)
    run = _Run(model=model, settings=settings, optimizer=optimizer, version=versions()["geocalc"], report=None)
    started = time.perf_counter()
    prepared = _prepare(job, run)
    outcome = _Outcome(error=prepared) if isinstance(prepared, str) else _attempt(prepared, job.sid, run)
    return _record(job, outcome, time.perf_counter() - started, run), outcome.relaxation


def versions() -> dict[str, str]:
    """Versions of Python, geocalc and the packages that results depend on."""
    found = {"python": platform.python_version(), "geocalc": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _prepare(job: Job, run: _Run) -> Systems | str:
    """The structure ready for the potential, or the sentence why there is none."""
    if job.atoms is None:
        return job.error or "the structure could not be read"
    try:
        return from_atoms(job.atoms, strict=run.settings.strict, use_tags=run.model.reads_tags)
    except FAILURES as error:
        return _told(error)


def _content(prepared: Systems | str) -> list[bytes]:
    if isinstance(prepared, str):
        return [prepared.encode()]
    values = [getattr(prepared, f.name) for f in fields(prepared)]
    return [value.numpy().tobytes() for value in values if value is not None]


def _finish_one(job: Job, prepared: Systems | str, key: str, run: _Run, folder: RunFolder) -> Record:
    """Relax one structure and put all of it into the folder."""
    started = time.perf_counter()
    outcome = _Outcome(error=prepared) if isinstance(prepared, str) else _attempt(prepared, job.sid, run)
    record = _record(job, outcome, time.perf_counter() - started, run)
    frame = None
    if outcome.relaxation is not None and job.atoms is not None:
        final = _written(outcome.relaxation.systems, job.atoms, run)
        frame = _relaxed_frame(job.atoms, final, outcome.relaxation, record)
        if run.settings.traj != "none":
            folder.write_trajectory(job.sid, key, _path_frames(final, outcome, job.sid))
    folder.add(key, record, frame)
    return record


def _attempt(systems: Systems, sid: str, run: _Run) -> _Outcome:
    path: list[tuple[int, Snapshot]] = []
    step = -1

    def observe(live: Systems, now: Snapshot, progress: Progress) -> None:
        nonlocal step
        step = int(progress.n_steps[0])
        if run.settings.keeps_step(step):
            path.append((step, now))
        if run.report is not None:
            run.report(sid, step, float(now.fmax[0]))

    settings = run.settings
    try:
        ended = relax_systems(
            systems.to(run.model.device), run.model.potential, run.optimizer, settings.fmax, settings.steps, observe
        )
    except FAILURES as error:
        return _Outcome(error=_told(error), n_steps=max(step, 0), n_evaluations=step + 1)
    return _Outcome(relaxation=ended[0], path=tuple(path), n_steps=ended[0].n_steps, n_evaluations=ended[0].n_evaluations)


def _told(error: BaseException) -> str:
    """An exception as one line; what is not ours is named by its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GeoCalcError) else f"{type(error).__name__}: {text}"


def _record(job: Job, outcome: _Outcome, wall_s: float, run: _Run) -> Record:
    ended = outcome.relaxation
    status = Status.ERROR if ended is None else ended.status
    return Record(
        sid=job.sid,
        formula=None if job.atoms is None else job.atoms.get_chemical_formula(),
        n_atoms=None if job.atoms is None else len(job.atoms),
        model=run.model.name,
        model_hash=run.model.hash,
        energy=None if ended is None else finite(ended.energy),
        energy_kind=run.model.energy_kind,
        energy_std=None if ended is None else finite(ended.energy_std),
        fmax=None if ended is None else finite(ended.fmax),
        n_steps=outcome.n_steps,
        n_evaluations=outcome.n_evaluations,
        converged=status is Status.CONVERGED,
        status=status.value,
        stop_reason=status.sentence,
        anomalies=(),
        wall_s=round(wall_s, 4),
        device=run.model.device,
        dtype=run.model.dtype,
        version=run.version,
        error=outcome.error,
    )


def _written(systems: Systems, atoms: Atoms, run: _Run) -> Systems:
    """The structure as files show it: with the tags that the model read, or the given ones where it reads none."""
    systems = systems.to("cpu")
    return systems if run.model.reads_tags else replace(systems, tags=torch.as_tensor(atoms.get_tags(), dtype=torch.int64))


def _relaxed_frame(atoms: Atoms, final: Systems, ended: Relaxation, record: Record) -> str:
    """Extended XYZ of the relaxed structure: what came with it, and predictions under names of our own."""
    info = {name: value for name, value in atoms.info.items() if not str(name).startswith(LABELS)}
    arrays = {name: value for name, value in atoms.arrays.items() if not name.startswith(LABELS)}
    info |= {
        "sid": record.sid,
        "geocalc_energy": record.energy,
        "geocalc_energy_kind": record.energy_kind,
        "geocalc_energy_std": record.energy_std,
        "geocalc_fmax": record.fmax,
        "geocalc_status": record.status,
        "geocalc_converged": record.converged,
        "geocalc_n_steps": record.n_steps,
        "geocalc_model": record.model,
        "geocalc_model_hash": record.model_hash,
    }
    return format_frame(final, info, {**arrays, "geocalc_forces": ended.forces.cpu().numpy()})


def _path_frames(final: Systems, outcome: _Outcome, sid: str) -> list[str]:
    """Extended XYZ of the geometries kept along the path, and of the final one if it is not the last of them."""
    ended, path = outcome.relaxation, list(outcome.path)
    frames = []
    for step, now in path:
        place = replace(final, positions=now.positions.cpu())
        frames.append(_path_frame(place, sid, step, float(now.energy), float(now.fmax), now.forces))
    if ended is not None and not (path and torch.equal(path[-1][1].positions.cpu(), final.positions)):
        frames.append(_path_frame(final, sid, ended.n_steps, ended.energy, ended.fmax, ended.forces))
    return frames


def _path_frame(systems: Systems, sid: str, step: int, energy: float, fmax: float, forces: torch.Tensor) -> str:
    info = {"sid": sid, "geocalc_step": step, "geocalc_energy": finite(energy), "geocalc_fmax": finite(fmax)}
    return format_frame(systems, info, {"geocalc_forces": forces.cpu().numpy()})
