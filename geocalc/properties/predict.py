"""Predict a property of many structures into a run folder, like every other run."""

from __future__ import annotations

import io
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

from geocalc.errors import GeoCalcError, InputError, format_error, format_unexpected
from geocalc.potentials.registry import find_model, read_card
from geocalc.properties.load import LoadedPropertyModel, load_property_model
from geocalc.relaxation.status import Status
from geocalc.runs.folder import RunFolder, content_key, numbered_key
from geocalc.runs.forms import Input
from geocalc.runs.model_run import ModelRun
from geocalc.runs.records import PropertySummary, Record, finite
from geocalc.runs.results import formula_of
from geocalc.runs.runner import versions
from geocalc.runs.settings import RelaxSettings
from geocalc.version import __version__

PREDICTED = "predicted.extxyz"
DTYPE = "float32"

logger = logging.getLogger(__name__)


def open_property_model(settings: RelaxSettings) -> ModelRun:
    """Load the model of a property that the settings of a run name.

    Raises:
        ModelFileError: the model is damaged, or the settings ask for a relaxation.
        InputError: the settings ask for something that models of properties do not have.
    """
    if settings.steps:
        read_card(find_model(settings.model))  # says that it is not a model of energies
    given = {"frames": settings.frames, "level": settings.level}
    wrong = [name for name, value in given.items() if value is not None]
    wrong += ["dtype"] if settings.dtype != DTYPE else []
    if wrong:
        raise InputError(
            f"{wrong[0]} is {getattr(settings, wrong[0])!r}, but models of properties have one"
            f" choice only ({DTYPE}, no frames, no levels of theory); leave {wrong[0]} out"
        )
    model = load_property_model(settings.model, device=settings.device)
    card = model.card
    return ModelRun(
        open_folder=partial(_open_folder, model),
        run=partial(predict_inputs, model),
        note=f"{card.target} in {card.unit}, of each {card.task.value}; mean and standard deviation"
        f" of each structure in the table, every value in {PREDICTED}",
    )


def predict_inputs(
    model: LoadedPropertyModel, inputs: Iterable[Input], folder: RunFolder
) -> Iterator[Record]:
    """Predict structures one after the other; each record is on the disk before it is yielded.

    Structures that `folder` holds already are not computed again; their records are yielded as they
    were. After the last one `predicted.extxyz` is written, in the order of `inputs`; the folder is
    closed in any case.

    Args:
        model: of a property.
        inputs: the structures; a structure that could not be read gets a record with its error.
        folder: from `ModelRun.open_folder`.
    Raises:
        RunFolderError: the disk is full or cannot be written; finished structures are safe.
    """
    keys: list[str] = []
    seen: Counter[str] = Counter()
    try:
        for given in inputs:
            key = numbered_key(
                content_key(given.sid, _content(given), folder.identity), seen, folder
            )
            keys.append(key)
            record = folder.record(key)
            if record is None:
                record, frame = _predict(model, given)
                folder.add(key, record, frame)
            yield record
        folder.finish(keys, PREDICTED)
    finally:
        folder.close()


def with_property(atoms: Atoms, model: LoadedPropertyModel) -> tuple[Atoms, np.ndarray]:
    """Return a copy of a structure with the property as an array, (n_atoms,) or (n_atoms,
    n_targets), and the values, (n_atoms, n_targets).
    """
    values = model(atoms)
    found = atoms.copy()
    found.arrays[model.card.target] = values[:, 0] if values.shape[1] == 1 else values
    return found, values


def _open_folder(
    model: LoadedPropertyModel, path: Path, inputs: Sequence[str], resume: bool
) -> RunFolder:
    identity = {"model": model.card.name, "model_hash": model.hash, "dtype": DTYPE}
    provenance = {
        "device": str(model.device),
        "property": model.card.target,
        "unit": model.card.unit,
        "inputs": list(inputs),
        "versions": versions(),
    }
    return RunFolder(path, identity, provenance, resume=resume)


def _content(given: Input) -> list[bytes]:
    """Everything of a structure that its prediction depends on."""
    if given.atoms is None:
        return [str(given.error).encode()]
    arrays = given.atoms.arrays
    named = [(name, np.ascontiguousarray(arrays[name])) for name in sorted(arrays)]
    cell = [np.asarray(given.atoms.cell[:]).tobytes(), np.asarray(given.atoms.pbc).tobytes()]
    return cell + [part for name, array in named for part in (name.encode(), _bytes(array))]


def _bytes(array: np.ndarray) -> bytes:
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def _predict(model: LoadedPropertyModel, given: Input) -> tuple[Record, str | None]:
    """The record of a structure, and its text for `predicted.extxyz`; None where there is none."""
    begun, error, frame, summary = time.perf_counter(), given.error, None, None
    if given.atoms is not None:
        try:
            atoms, values = with_property(given.atoms, model)
            frame, summary = _frame(atoms, given.sid, model), _summary(values, model)
        except GeoCalcError as fault:
            error = format_error(fault)
        except Exception as fault:
            logger.exception("unexpected error in structure %s", given.sid)
            error = format_unexpected(fault)
    status = Status.PREDICTED if summary is not None else Status.ERROR
    record = Record(
        sid=given.sid,
        formula=formula_of(given.atoms),
        n_atoms=None if given.atoms is None else len(given.atoms),
        model=model.card.name,
        model_hash=model.hash,
        energy=None,
        energy_kind=None,
        energy_std=None,
        energy_error_68=None,
        energy_error_95=None,
        property=summary,
        fmax=None,
        n_steps=0,
        n_evaluations=0 if summary is None else 1,
        converged=False,
        status=status.value,
        stop_reason=status.sentence,
        anomalies=(),
        wall_s=round(time.perf_counter() - begun, 4),
        device=str(model.device),
        dtype=DTYPE,
        version=__version__,
        error=error if summary is None else None,
    )
    return record, frame


def _frame(atoms: Atoms, sid: str, model: LoadedPropertyModel) -> str:
    atoms.info |= {"sid": sid, "geocalc_model": model.card.name, "geocalc_model_hash": model.hash}
    text = io.StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue()


def _summary(values: np.ndarray, model: LoadedPropertyModel) -> PropertySummary:
    known = values[np.isfinite(values).all(axis=1)]
    if not len(known):
        raise InputError(
            f"no particle has a type that {model.card.name} was trained for"
            f" ({', '.join(map(str, model.card.counted))}); check the types of the structure"
        )
    return PropertySummary(
        name=model.card.target,
        unit=model.card.unit,
        n=len(known),
        mean=tuple(finite(float(value)) for value in known.mean(axis=0)),
        std=tuple(finite(float(value)) for value in known.std(axis=0)),
    )
