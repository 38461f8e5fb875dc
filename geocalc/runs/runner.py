"""A run of a model over many structures: each gets a record, also where an error ends it."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path

from geocalc.core.systems import Systems
from geocalc.errors import DomainWarning, GeoCalcError, format_error, format_unexpected
from geocalc.optim.catalog import optimizer_settings
from geocalc.potentials.domain import Light
from geocalc.relaxation.warm_start import name_of
from geocalc.runs.engine import Engine, Report
from geocalc.runs.engines import make_engine
from geocalc.runs.folder import RunFolder, content_key, numbered_key
from geocalc.runs.forms import Ended, Input, Live
from geocalc.runs.images import path_images, relaxed_image, written_structure
from geocalc.runs.records import OUTSIDE, Record
from geocalc.runs.results import Result, domain_of_end, record_of, result_of
from geocalc.runs.roles import NamedPotential
from geocalc.runs.settings import RelaxSettings
from geocalc.structures.convert import from_atoms
from geocalc.structures.tags import Conversions
from geocalc.version import __version__

PACKAGES = ("torch", "numpy", "ase", "vesin")
# raised for structures that cannot be used, by us and by ASE
STRUCTURE_ERRORS = (GeoCalcError, ValueError)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Values that are the same for every structure of a run, and the tags that were converted."""

    model: NamedPotential
    settings: RelaxSettings
    conversions: Conversions


@dataclass(frozen=True, kw_only=True)
class _Open:
    """A structure of the input that goes on as live, or has ended with an error before.

    Attributes:
        number: place in the input.
        given: the input.
        next: live, or ended, or None where the run folder holds its record already.
        key: under which the run folder keeps it.
    """

    number: int
    given: Input
    next: Live | Ended | None
    key: str = ""


def open_run_folder(
    path: Path | str,
    model: NamedPotential,
    settings: RelaxSettings,
    *,
    inputs: Sequence[str] = (),
    resume: bool = False,
) -> RunFolder:
    """Open the run folder of a run; all settings, versions and hashes go to its `settings.yaml`.

    Args:
        path: the folder.
        model, settings: as in `run_relaxation`.
        inputs: files and folders, noted beside the settings.
        resume: continue what the folder holds.
    Raises:
        RunFolderError: see `RunFolder`.
    """
    identity = {
        **settings.identity(),
        "optimizer": optimizer_settings(settings.optimizer),
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
        **settings.circumstances(),
        "device": model.device,
        "energy_kind": model.energy_kind,
        "inputs": list(inputs),
        "versions": versions(),
    }
    return RunFolder(path, identity, provenance, resume=resume)


def run_relaxation(
    inputs: Iterable[Input],
    model: NamedPotential,
    settings: RelaxSettings,
    folder: RunFolder,
    progress: Report | None = None,
) -> Iterator[Record]:
    """Relax structures side by side; each record is on the disk before it is yielded.

    Structures that `folder` holds already are not computed again; their records come as they were.
    Only those lost to a dying process or to a lack of memory are tried again. At the end,
    `relaxed.extxyz` is written in the order of the input, and `folder.records()` gives the records
    in that order. The folder is closed in any case. Structures are taken from the input as workers
    need them.

    Args:
        inputs: the structures; one that could not be read gets a record with its error.
        model: potential with its name and hash.
        settings: of the relaxation.
        folder: from `open_run_folder`.
        progress: called after every model call in this process; worker processes do not call it.
    Yields:
        The record of each structure as it ends: with one worker, in the order of the input.
    Raises:
        InputError, RecipeError: see `geocalc.runs.engines.check_settings`; or workers cannot be
            used.
        RunFolderError: the disk is full or cannot be written; finished structures are safe.
    """
    run = _Run(model=model, settings=settings, conversions=Conversions())
    keys: list[str] = []
    try:
        engine = make_engine(model, settings, progress)
        with closing(_drive(_keyed(inputs, run, folder, keys), engine)) as ends:
            for one, ended in ends:
                record = (
                    folder.record(one.key)
                    if ended is None
                    else _keep(one, _admitted(ended, run), run, folder)
                )
                if record is not None:
                    yield record
        folder.finish(keys)
    finally:
        folder.close()
        run.conversions.warn(stacklevel=2)


def relax_inputs(
    inputs: Iterable[Input], model: NamedPotential, settings: RelaxSettings
) -> Iterator[Result]:
    """Relax structures side by side without a run folder, each yielded as it ends; see
    `run_relaxation`.

    No trajectories are kept. Conversions of tags are told in one warning at the end.

    Raises:
        InputError, RecipeError: see `run_relaxation`.
    """
    settings = settings.model_copy(update={"traj": "none"})
    run = _Run(model=model, settings=settings, conversions=Conversions())
    given = (_open(number, one, run) for number, one in enumerate(inputs))
    outside: Counter[str] = Counter()
    try:
        with closing(_drive(given, make_engine(model, settings))) as ends:
            for one, found in ends:
                if found is not None:
                    ended = _admitted(found, run)
                    record = record_of(one.given, ended, model)
                    if record.domain == OUTSIDE:
                        outside[str(record.domain_reason)] += 1
                    yield result_of(one.number, one.given, ended, record)
    finally:
        run.conversions.warn(stacklevel=2)
        if outside:
            warnings.warn(_outside(outside, model.name), DomainWarning, stacklevel=2)


def _outside(reasons: Counter[str], name: str) -> str:
    """Say how many structures a model has learned nothing about, and the commonest reasons."""
    number = reasons.total()
    structures, energies = (
        ("structure is", "its energy") if number == 1 else ("structures are", "their energies")
    )
    told = ", ".join(reason for reason, _ in reasons.most_common(3))
    return (
        f"{number} {structures} outside what {name} has learned ({told}); {energies} may have any"
        " error"
    )


def _admitted(ended: Ended, run: _Run) -> Ended:
    """The ended structure; with `strict`, one outside the domain of the model has an error."""
    if not run.settings.strict:
        return ended
    light, reason = domain_of_end(ended.relaxation)
    if light is not Light.RED:
        return ended
    error = (
        f"the structure is outside what {run.model.name} has learned: {reason}; use a model that"
        " knows it, or leave strict out"
    )
    return replace(ended, relaxation=None, error=error)


def _drive(given: Iterable[_Open], engine: Engine) -> Generator[tuple[_Open, Ended | None]]:
    """Yield every structure as it has ended, with None for those that the folder holds; the engine
    is closed in any case.
    """
    at_work: dict[int, _Open] = {}
    try:
        for one in given:
            if isinstance(one.next, Live):
                at_work[one.number] = one
                engine.add(one.next)
            else:
                yield one, one.next
            while not engine.has_room:
                yield from ((at_work.pop(number), ended) for number, ended in engine.collect())
        while engine.n_open:
            yield from ((at_work.pop(number), ended) for number, ended in engine.collect())
    finally:
        engine.close()


def _keyed(
    inputs: Iterable[Input], run: _Run, folder: RunFolder, keys: list[str]
) -> Iterator[_Open]:
    """The structures with their keys, which are added to `keys` too; those that the folder holds
    are not computed.
    """
    seen: Counter[str] = Counter()
    for number, given in enumerate(inputs):
        one = _open(number, given, run)
        key = content_key(given.sid, _content(one.next), folder.identity)
        key = numbered_key(key, seen, folder)
        keys.append(key)
        yield _Open(number=number, given=given, key=key, next=None if key in folder else one.next)


def versions() -> dict[str, str]:
    """Look up the versions of Python, geocalc and the packages that results depend on."""
    found = {"python": platform.python_version(), "geocalc": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _open(number: int, given: Input, run: _Run) -> _Open:
    """Convert a structure for the model and, where it treats tags differently, for the model of the
    second opinion.
    """
    systems = _converted(given, run, run.model.reads_tags)
    if isinstance(systems, str):
        return _Open(number=number, given=given, next=Ended(error=systems))
    second, unrelaxed = run.model.second_opinion, None
    if second is not None:
        alike = second.reads_tags == run.model.reads_tags
        unrelaxed = systems if alike else _converted(given, run, second.reads_tags)
    live = Live(number=number, sid=given.sid, systems=systems, unrelaxed=unrelaxed)
    return _Open(number=number, given=given, next=live)


def _converted(given: Input, run: _Run, use_tags: bool) -> Systems | str:
    """The structure as a model reads it, or a sentence why it cannot be read."""
    if given.atoms is None:
        return given.error or "the structure could not be read"
    try:
        return from_atoms(
            given.atoms, strict=run.settings.strict, use_tags=use_tags, conversions=run.conversions
        )
    except STRUCTURE_ERRORS as error:
        return format_error(error)
    except Exception as error:
        logger.exception("unexpected error in structure %s", given.sid)
        return format_unexpected(error)


def _content(one: Live | Ended | None) -> list[bytes]:
    """The bytes that tell structures of one name apart."""
    if isinstance(one, Ended):
        return [str(one.error).encode()]
    if one is None:
        return []
    own = [] if one.unrelaxed is one.systems else _bytes_of(one.unrelaxed)
    return _bytes_of(one.systems) + own


def _bytes_of(systems: Systems | str | None) -> list[bytes]:
    if systems is None:
        return []
    if isinstance(systems, str):
        return [systems.encode()]
    values = [getattr(systems, f.name) for f in fields(systems)]
    return [value.numpy().tobytes() for value in values if value is not None]


def _keep(one: _Open, ended: Ended, run: _Run, folder: RunFolder) -> Record:
    """Write an ended structure into the folder."""
    record, image, atoms = record_of(one.given, ended, run.model), None, one.given.atoms
    if ended.relaxation is not None and atoms is not None:
        final = written_structure(ended.relaxation, atoms, run.model.reads_tags)
        image = relaxed_image(atoms, final, ended.relaxation, record)
        if run.settings.traj != "none":
            folder.write_trajectory(
                one.given.sid, one.key, path_images(final, ended, one.given.sid)
            )
    folder.add(one.key, record, image, final=ended.final)
    return record
