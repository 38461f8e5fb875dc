"""The Python side of `geocalc relax` and `geocalc predict`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from geocalc.campaign import Job, NamedPotential, relax_job
from geocalc.records import Record
from geocalc.registry import LoadedModel, load_model
from geocalc.relax_settings import RelaxSettings


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one structure.

    Attributes:
        record: energies, forces and status; the same fields as in `results.jsonl`.
        atoms: a relaxed copy with energy (eV) and forces (eV/Angstrom) attached, constraints and info kept; the input itself
            where nothing could be computed.
    """

    record: Record
    atoms: Atoms


def relax(
    structures: Atoms | Iterable[Atoms],
    model: str | os.PathLike[str] = "faenet-sfa",
    *,
    optimizer: str = "bfgs",
    fmax: float = 0.05,
    steps: int = 300,
    device: str = "auto",
    dtype: str = "float32",
    frames: str | None = None,
    strict: bool = False,
) -> list[Result]:
    """Relax structures with a model; a structure that fails keeps its place, with the error in its record.

    Args:
        structures: one or many; `info["sid"]` names them. They are not changed.
        model: name or folder.
        optimizer: bfgs or fire. fmax: eV/Angstrom. steps: allowed for each structure.
        device, dtype, frames, strict: see `GeoCalc`.
    Returns:
        One result per structure, in order.
    Raises:
        ModelNotFoundError, ModelFileError, RecipeError, InputError: the model or a setting is not right.
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
        },
        "relax",
    )
    loaded = load_model(model, device=device, dtype=dtype, frames=frames)
    return list(_results(structures, loaded, settings))


def predict(
    structures: Atoms | Iterable[Atoms],
    model: str | os.PathLike[str] = "faenet-sfa",
    *,
    device: str = "auto",
    dtype: str = "float32",
    frames: str | None = None,
    strict: bool = False,
) -> list[Result]:
    """Evaluate structures as they are; see `relax`, of which this is the case without steps."""
    return relax(structures, model, steps=0, device=device, dtype=dtype, frames=frames, strict=strict)


def named_potential(model: LoadedModel, settings: RelaxSettings) -> NamedPotential:
    """The potential of a model with what records say of it."""
    return NamedPotential(
        potential=model,
        name=model.card.name,
        hash=model.hash,
        energy_kind=model.card.energy_kind.value,
        device=model.device.type,
        dtype=settings.dtype,
        reads_tags=model.card.reads_tags,
    )


def _results(structures: Atoms | Iterable[Atoms], model: LoadedModel, settings: RelaxSettings) -> Iterator[Result]:
    potential = named_potential(model, settings)
    for k, atoms in enumerate([structures] if isinstance(structures, Atoms) else structures):
        job = Job(sid=str(atoms.info.get("sid", f"structure#{k}")), atoms=atoms)
        record, relaxation = relax_job(job, potential, settings)
        final = atoms.copy()
        if relaxation is not None:
            final.positions[:] = relaxation.systems.positions.cpu().numpy()
            forces = relaxation.forces.cpu().numpy()
            final.calc = SinglePointCalculator(final, energy=relaxation.energy, forces=forces)
        yield Result(record=record, atoms=final)
