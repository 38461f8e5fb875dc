"""Relaxations and predictions from Python."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ase import Atoms

from geocalc.errors import InputError
from geocalc.potentials.load import load_model
from geocalc.relaxation.warm_start import Proposal
from geocalc.runs.engines import check_settings
from geocalc.runs.forms import Input
from geocalc.runs.results import Result
from geocalc.runs.roles import relaxing_model
from geocalc.runs.runner import relax_inputs
from geocalc.runs.settings import DIRECT_MODEL, ModelSettings, PredictSettings, RelaxSettings

_Settings = TypeVar("_Settings", bound=ModelSettings)
DEFAULT = RelaxSettings()
OWN_DEFAULTS = {"workers": 1, "optimizer": "auto"}  # where keywords differ from DEFAULT


def relax(
    structures: Atoms | Iterable[Atoms],
    model: str | os.PathLike[str] = DEFAULT.model,
    *,
    settings: RelaxSettings | None = None,
    optimizer: str | Mapping[str, Any] = "auto",
    fmax: float = DEFAULT.fmax,
    steps: int = DEFAULT.steps,
    device: str = DEFAULT.device,
    dtype: str = DEFAULT.dtype,
    frames: str | None = DEFAULT.frames,
    strict: bool = DEFAULT.strict,
    workers: int | None = 1,
    reproducible: bool = DEFAULT.reproducible,
    warm_start: Proposal | str | None = None,
    second_opinion: str | None = DEFAULT.second_opinion,
    cell: str = DEFAULT.cell,
    pressure: float = DEFAULT.pressure,
    cell_mask: str = DEFAULT.cell_mask,
    keep_symmetry: bool = DEFAULT.keep_symmetry,
    level: str | None = DEFAULT.level,
) -> list[Result]:
    """Relax structures with a model; a structure that fails keeps its place, with the error in its
    record.

    The defaults are those of `geocalc.runs.settings.RelaxSettings`, where every option is
    described; only `workers` is 1 here, and all cores on the command line.

    Args:
        structures: one or many, taken one at a time; `info["sid"]` names them. They are not
            changed.
        model: name or folder.
        settings: all options at once, in place of `model` and the keywords below.
        optimizer: quasi-newton (fewest model calls; the default, auto), bfgs, lbfgs, fire, fire2
            (as in ASE), conjugate-gradient or gradient-descent. With settings of its own: {"name":
            "fire", "max_step": 0.1}.
        fmax: eV/Angstrom; converged when no free atom has a larger force.
        steps: allowed for each structure.
        device: auto (a GPU if there is one), cpu, cuda or cuda:1.
        dtype: float32 or float64, of the network.
        frames: frame policy in place of the model's own.
        strict: refuse structures whose tags would have to be converted.
        workers: processes on a CPU, None for one for each core. A GPU is used by this process
            alone.
        reproducible: compute each structure alone, so that results are the same to the last bit
            with any number of workers. Otherwise structures are computed together, several times
            as fast, and energies may differ by 1e-5 eV.
        warm_start: a model of relaxed structures by name, or a function of `Systems`, that proposes
            displacements (n_atoms, 3) in Angstrom to begin with. Each costs one evaluation and is
            taken back where energy or fmax is worse after it. With several workers a function must
            be picklable: define it at the top level of a module.
        second_opinion: a direct model by name; the record holds the relaxed energy that it predicts
            and the difference from the relaxation.
        cell: none; or frechet or unit, to relax the cell too, as ASE's filters do, with models that
            were trained on stress.
        pressure: external, eV/Angstrom^3; 1 GPa is 0.00624. Energies do not contain the work
            against it.
        cell_mask: the strains that may change.
        keep_symmetry: keep the space group that a structure has at the start.
        level: of theory, for models that were trained on several.
    Returns:
        One result per structure, in order.
    Raises:
        ModelNotFoundError, ModelFileError, RecipeError, InputError: the model or an option cannot
            be used.
    """
    results = iter_relax(
        structures,
        model,
        settings=settings,
        optimizer=optimizer,
        fmax=fmax,
        steps=steps,
        device=device,
        dtype=dtype,
        frames=frames,
        strict=strict,
        workers=workers,
        reproducible=reproducible,
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
    model: str | os.PathLike[str] = DEFAULT.model,
    *,
    settings: RelaxSettings | None = None,
    optimizer: str | Mapping[str, Any] = "auto",
    fmax: float = DEFAULT.fmax,
    steps: int = DEFAULT.steps,
    device: str = DEFAULT.device,
    dtype: str = DEFAULT.dtype,
    frames: str | None = DEFAULT.frames,
    strict: bool = DEFAULT.strict,
    workers: int | None = 1,
    reproducible: bool = DEFAULT.reproducible,
    warm_start: Proposal | str | None = None,
    second_opinion: str | None = DEFAULT.second_opinion,
    cell: str = DEFAULT.cell,
    pressure: float = DEFAULT.pressure,
    cell_mask: str = DEFAULT.cell_mask,
    keep_symmetry: bool = DEFAULT.keep_symmetry,
    level: str | None = DEFAULT.level,
) -> Iterator[Result]:
    """Relax structures and yield each result as soon as it is known, for more structures than
    memory holds.

    Structures are taken from the input as workers need them. Results come in the order in which
    they end, and in that of the input with one worker on a CPU and `reproducible`; `Result.number`
    is the place in the input.

    Args:
        structures, model, settings, optimizer, fmax, steps, device, dtype, frames: see `relax`.
        strict, workers, reproducible, warm_start, second_opinion: see `relax`.
        cell, pressure, cell_mask: see `relax`.
        keep_symmetry, level: see `relax`.
    Returns:
        An iterator over the results; closing it ends all work.
    Raises:
        ModelNotFoundError, ModelFileError, RecipeError, InputError: the model or an option cannot
            be used.
    """
    proposal = None if isinstance(warm_start, str) else warm_start
    options = _options(
        settings,
        RelaxSettings,
        {
            "model": str(model),
            "optimizer": optimizer,
            "fmax": fmax,
            "steps": steps,
            "device": device,
            "dtype": dtype,
            "frames": frames,
            "strict": strict,
            "workers": workers,
            "reproducible": reproducible,
            "second_opinion": second_opinion,
            "cell": cell,
            "pressure": pressure,
            "cell_mask": cell_mask,
            "keep_symmetry": keep_symmetry,
            "level": level,
            "warm_start": warm_start if isinstance(warm_start, str) else None,
        },
    )
    loaded = load_model(
        options.model,
        device=options.device,
        dtype=options.dtype,
        frames=options.frames,
        level=options.level,
    )
    potential = relaxing_model(loaded, options)
    check_settings(potential, options)
    if proposal is not None:
        potential = replace(potential, warm_start=proposal)
    given = [structures] if isinstance(structures, Atoms) else structures
    inputs = (
        Input(sid=str(atoms.info.get("sid", f"structure#{k}")), atoms=atoms)
        for k, atoms in enumerate(given)
    )
    return relax_inputs(inputs, potential, options)


def predict(
    structures: Atoms | Iterable[Atoms],
    model: str | os.PathLike[str] = DIRECT_MODEL,
    *,
    settings: PredictSettings | None = None,
    device: str = DEFAULT.device,
    dtype: str = DEFAULT.dtype,
    frames: str | None = DEFAULT.frames,
    strict: bool = DEFAULT.strict,
    workers: int | None = 1,
    level: str | None = DEFAULT.level,
) -> list[Result]:
    """Evaluate structures as they are; nothing is relaxed.

    A model of relaxed energies gives, from the unrelaxed structure, the energy after relaxation
    and, where it predicts displacements, `Result.atoms` at their predicted places. A model of
    energies and forces gives those of the structure itself.

    Args:
        structures, device, dtype, frames, strict, workers, level: see `relax`.
        model: name or folder.
        settings: all options at once, in place of `model` and the keywords.
    Returns:
        One result per structure, in order.
    Raises:
        ModelNotFoundError, ModelFileError, RecipeError, InputError: see `relax`.
    """
    options = _options(
        settings,
        PredictSettings,
        {
            "model": str(model),
            "device": device,
            "dtype": dtype,
            "frames": frames,
            "strict": strict,
            "workers": workers,
            "level": level,
        },
    )
    return relax(structures, settings=options.as_relaxation())


def _options(
    settings: _Settings | None, kind: type[_Settings], keywords: Mapping[str, Any]
) -> _Settings:
    """The options as settings: those given whole, or made from keywords.

    Raises:
        InputError: an option is given twice.
        RecipeError: an option has a value that is not allowed.
    """
    if settings is None:
        return kind.parse(keywords, "options")
    defaults = {**dict(kind()), **OWN_DEFAULTS}
    twice = [name for name, value in keywords.items() if value != defaults[name]]
    if twice:
        raise InputError(
            f"{' and '.join(twice)} and settings are both given; put every option into settings,"
            " or give keywords alone"
        )
    return settings
