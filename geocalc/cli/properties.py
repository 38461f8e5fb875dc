"""`geocalc predict` with a model of a property: structures come back with an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

from geocalc.errors import (
    GeoCalcError,
    InputError,
    ModelNotFoundError,
    RunFolderError,
    format_error,
)
from geocalc.potentials.registry import card_values, find_model, is_property
from geocalc.properties.registry import LoadedPropertyModel, load_property_model
from geocalc.runs.records import EXIT_CONVERGED, EXIT_UNCONVERGED
from geocalc.structures.readers import Source, read_structures

PREDICTED = "predicted.extxyz"


def is_property_model(name: str) -> bool:
    """Whether a model of this name or path is one of a property; one that is not found is not."""
    try:
        return is_property(card_values(find_model(name)))
    except (ModelNotFoundError, OSError):
        return False


def predict_property_command(
    inputs: tuple[Path, ...], name: str, out: Path | None, device: str, resume: bool
) -> tuple[str, int]:
    """Write every structure with the property of its particles to `predicted.extxyz`.

    Args:
        inputs: files and folders.
        name: of the model.
        out: folder, by default `<stem>-predict`.
        device: auto, cpu or cuda.
        resume: write over what the folder holds.
    Returns:
        A table, and the exit status: 0, or 3 where some structure could not be predicted.
    Raises:
        InputError: nothing could be predicted; the message is of the first structure.
        RunFolderError: the folder holds predictions already, or cannot be written.
    """
    folder = out or Path(f"{inputs[0].name.split('.')[0] or 'input'}-predict")
    target = folder / PREDICTED
    if target.exists() and not resume:
        raise RunFolderError(
            f"{target} is there already; choose another --out, or --resume to write it anew"
        )
    model = load_property_model(name, device=device)
    done: list[Atoms] = []
    rows, faults = [], []
    for one in read_structures(inputs, tolerant=True):
        try:
            if not isinstance(one, Source):
                raise InputError(one.error)
            atoms, values = with_property(one.atoms, model)
        except (GeoCalcError, ArithmeticError, RuntimeError, ValueError) as error:
            faults.append(f"{one.sid}: {format_error(error)}")
            continue
        done.append(atoms)
        known = values[np.isfinite(values).all(axis=1)]
        rows.append(f"{one.sid:<30} {len(known):>7} {known.mean():>10.4f} {known.std():>10.4f}")
    if not done:
        raise InputError(faults[0] if faults else "the input holds no structure")
    _write(target, done)
    head = (
        f"{'structure':<30} {'n':>7} {'mean':>10} {'std':>10}   {model.card.target}"
        f" ({model.card.unit})"
    )
    table = "\n".join([head, *rows, *(f"(!) {fault}" for fault in faults), f"results in {target}"])
    return table, EXIT_UNCONVERGED if faults else EXIT_CONVERGED


def with_property(atoms: Atoms, model: LoadedPropertyModel) -> tuple[Atoms, np.ndarray]:
    """A copy of the structure with the property as an array, (n_atoms,) or (n_atoms, n_targets),
    and the values.
    """
    values = model(atoms)
    found = atoms.copy()
    found.arrays[model.card.target] = values[:, 0] if values.shape[1] == 1 else values
    return found, values


def _write(target: Path, structures: list[Atoms]) -> None:
    """All of them or nothing."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        write(part, structures, format="extxyz")
        part.replace(target)
    except OSError as error:
        raise RunFolderError(
            f"cannot write {target}: {error.strerror or error}; choose another --out"
        ) from None
