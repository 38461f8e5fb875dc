"""Extended XYZ of relaxed structures and of the images of their trajectories."""

from __future__ import annotations

from dataclasses import replace

import torch
from ase import Atoms

from geocalc.core.systems import Systems
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import Status
from geocalc.runs.forms import Ended
from geocalc.runs.records import Record, finite
from geocalc.structures.extxyz import format_extxyz

# keys of the input that hold labels of the unrelaxed geometry; they do not belong to a relaxed one
LABELS = "REF_"


def written_structure(end: Relaxation, atoms: Atoms, reads_tags: bool) -> Systems:
    """The relaxed structure for files, on the CPU.

    Args:
        end: of the relaxation.
        atoms: as given.
        reads_tags: whether the tags are those that the model has read; else they are the given
            ones.
    """
    systems = end.systems.to("cpu")
    if reads_tags:
        return systems
    return replace(systems, tags=torch.as_tensor(atoms.get_tags(), dtype=torch.int64))


def relaxed_image(atoms: Atoms, final: Systems, end: Relaxation, record: Record) -> str:
    """Write the relaxed structure with info and arrays of the input, and predictions under names
    that begin with `geocalc_`.

    Args:
        atoms: as given.
        final: from `written_structure`.
        end: of the relaxation.
        record: of the structure.
    """
    info = {name: value for name, value in atoms.info.items() if not str(name).startswith(LABELS)}
    arrays = {name: value for name, value in atoms.arrays.items() if not name.startswith(LABELS)}
    info |= {
        "sid": record.sid,
        "geocalc_energy": record.energy,
        "geocalc_energy_kind": record.energy_kind,
        "geocalc_energy_std": record.energy_std,
        "geocalc_energy_error_95": record.energy_error_95,
        "geocalc_domain": record.domain,
        "geocalc_domain_reason": record.domain_reason,
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
    if end.stress is not None and bool(end.stress.isfinite().all()):
        info["geocalc_stress"] = end.stress.cpu().numpy().reshape(9)
    if end.status is not Status.PREDICTED:
        arrays["geocalc_forces"] = end.forces.cpu().numpy()
    return format_extxyz(final, info, arrays)


def path_images(final: Systems, ended: Ended, sid: str) -> list[str]:
    """Write the geometries kept along the path, and the final one if it is not the last of them.

    Args:
        final: from `written_structure`.
        ended: the structure.
        sid: its name.
    """
    end, path = ended.relaxation, list(ended.path)
    images = []
    for step, now in path:
        cell = final.cell if now.cell is None else now.cell.cpu()
        place = replace(final, positions=now.positions.cpu(), cell=cell)
        images.append(_path_image(place, sid, step, float(now.energy), float(now.fmax), now.forces))
    if end is not None and not (path and torch.equal(path[-1][1].positions.cpu(), final.positions)):
        images.append(_path_image(final, sid, end.n_steps, end.energy, end.fmax, end.forces))
    return images


def _path_image(
    systems: Systems, sid: str, step: int, energy: float, fmax: float, forces: torch.Tensor
) -> str:
    """Write one image of a trajectory."""
    info = {
        "sid": sid,
        "geocalc_step": step,
        "geocalc_energy": finite(energy),
        "geocalc_fmax": finite(fmax),
    }
    return format_extxyz(systems, info, {"geocalc_forces": forces.cpu().numpy()})
