"""Relaxed energies and geometries predicted from unrelaxed structures, without a relaxation."""

from __future__ import annotations

import math
import time

import torch

from geocalc.core.process import one_thread
from geocalc.core.systems import Potential, Systems, apply_constraints, copy_aligned
from geocalc.errors import FAILURES, InputError, format_error
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import Status
from geocalc.runs.engine import Outcome, Task


def predict_relaxed(systems: Systems, potential: Potential) -> Relaxation:
    """What one structure relaxes to, as far as a direct model knows.

    Args:
        systems: one structure.
        potential: gives energies of relaxed structures and, where it has them, displacements.
    Returns:
        Energy in eV, the atoms where they are predicted to end (fixed ones where they are), and no
        forces.
    Raises:
        InputError: there is not exactly one structure.
    """
    if systems.n_systems != 1:
        raise InputError(f"one structure at a time is predicted, got {systems.n_systems}")
    prediction = potential(systems)
    energy, std = float(prediction.energy[0]), prediction.energy_std
    move = (
        torch.zeros_like(systems.positions)
        if prediction.displacement is None
        else prediction.displacement.double()
    )
    move = apply_constraints(move, systems)
    known = math.isfinite(energy) and bool(move.isfinite().all())
    positions = torch.where(systems.fixed, systems.positions, systems.positions + move)
    final = {
        name: getattr(systems, name)
        for name in ("numbers", "tags", "fixed", "system_idx", "cell", "pbc", "projector")
    }
    return Relaxation(
        systems=Systems(positions=positions if known else systems.positions, **final),
        energy=energy if known else math.nan,
        energy_std=math.nan if std is None else float(std[0]),
        forces=torch.full_like(systems.positions, torch.nan),
        fmax=math.nan,
        status=Status.PREDICTED if known else Status.NON_FINITE,
        n_steps=0,
        n_evaluations=1,
    )


def predict_task(task: Task, potential: Potential, device: str = "cpu") -> Outcome:
    """What one structure relaxes to, on one thread; see `predict_relaxed`.

    Args:
        task: the structure.
        potential: gives energies of relaxed structures.
        device: where the structure is put.
    """
    started = time.perf_counter()
    try:
        with one_thread():
            ended = predict_relaxed(copy_aligned(task.systems).to(device), potential)
    except FAILURES as error:
        return Outcome(
            error=format_error(error), n_evaluations=1, wall_s=time.perf_counter() - started
        )
    return Outcome(relaxation=ended, n_evaluations=1, wall_s=time.perf_counter() - started)
