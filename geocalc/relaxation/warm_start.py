"""Warm starts: a function proposes a better geometry to begin with, and the potential has the last
word.
"""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import Protocol

import torch
from torch import Tensor

from geocalc.core.systems import Systems, apply_constraints, max_per_system, select
from geocalc.errors import InputError


class Proposal(Protocol):
    """Proposes how far to move every atom before the first step of the optimizer, for example to
    where a model expects it.

    What it says of a structure may depend on nothing but that structure. For worker processes it
    must be picklable: a function at the top level of a module, or an object of a class that is (a
    frozen dataclass says best what it is).
    """

    def __call__(self, systems: Systems) -> Tensor:
        """Displacements (n_atoms, 3) in Angstrom; constraints are applied to them. NaN where
        nothing can be proposed.
        """
        ...


def proposed(propose: Proposal, systems: Systems, asked: Tensor) -> tuple[Tensor, Tensor]:
    """What is proposed for structures of a batch.

    Args:
        propose: the proposal.
        systems: batch.
        asked: (n_systems,) bool, which structures; they are at their starts.
    Returns:
        Displacements (n_atoms, 3) in Angstrom along what constraints allow, zero where there is
        nothing to try, and (n_systems,) bool, where there is: a proposal was asked for, is finite,
        and moves something.
    Raises:
        InputError: the proposal has another shape.
    """
    displacement = torch.zeros_like(systems.positions)
    if not bool(asked.any()):
        return displacement, asked
    given = propose(select(systems, systems, asked)).detach().to(systems.positions)
    rows = asked[systems.system_idx]
    if given.shape != displacement[rows].shape:
        raise InputError(
            f"the warm start {name_of(propose)} gave displacements of shape {tuple(given.shape)}; "
            f"expected {tuple(displacement[rows].shape)}, a row for every atom"
        )
    displacement[rows] = given
    displacement = apply_constraints(displacement, systems)
    sizes = max_per_system(
        displacement.abs().amax(dim=1).nan_to_num(nan=torch.inf, posinf=torch.inf), systems
    )
    useful = (sizes > 0) & sizes.isfinite()
    return displacement.masked_fill(~useful[systems.system_idx, None], 0.0), useful


def no_worse(energy: Tensor, fmax: Tensor, start_energy: Tensor, start_fmax: Tensor) -> Tensor:
    """Where a proposal is taken, (n_systems,) bool: neither energy nor largest force is above that
    of the start, or NaN.

    Args:
        energy, start_energy: (n_systems,) eV.
        fmax, start_fmax: (n_systems,) eV/Angstrom.
    """
    return (energy <= start_energy) & (fmax <= start_fmax)


def name_of(propose: Proposal) -> str:
    """What run folders say of a proposal: where it is defined, and for a dataclass its values."""
    if dataclasses.is_dataclass(propose):
        return f"{type(propose).__module__}.{propose!r}"
    named = propose if inspect.isroutine(propose) else type(propose)
    return f"{named.__module__}.{named.__qualname__}"


def check_for_workers(propose: Proposal) -> None:
    """Refuse a proposal that other processes could not open.

    Raises:
        InputError: it cannot be pickled, or is defined in the script that runs.
    """
    hint = "define it at the top level of a module that can be imported, or use workers=1"
    try:
        content = pickle.dumps(propose)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the warm start {name_of(propose)} cannot be handed to worker processes ({error});"
            f" {hint}"
        ) from None
    if b"__main__" in content:
        raise InputError(
            f"the warm start {name_of(propose)} is defined in the script itself, where worker"
            f" processes cannot find it; {hint}"
        )
