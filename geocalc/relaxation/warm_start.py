"""Warm starts: a proposed first step, kept if the potential finds it no worse than the start."""

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
    """Proposes displacements of all atoms before the first step of the optimizer, for example those
    to the relaxed positions that a model predicts.

    The proposal for a structure may depend on that structure alone. For worker processes it must be
    picklable: a function at the top level of a module, or an object of a class defined there
    (preferably a frozen dataclass, so that run folders record its values).
    """

    def __call__(self, systems: Systems) -> Tensor:
        """Propose displacements (n_atoms, 3) in Angstrom, before constraints are applied; NaN where
        there is no proposal.
        """
        ...


def proposed(propose: Proposal, systems: Systems, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Ask for a proposal for some structures of a batch.

    Args:
        propose: the proposal.
        systems: batch.
        asked: (n_systems,) bool, the structures that a proposal is wanted for; they are at their
            starts.
    Returns:
        Displacements (n_atoms, 3) in Angstrom along what constraints allow, and (n_systems,) bool,
        True where a proposal was asked for, is finite and moves an atom; the displacements are zero
        elsewhere.
    Raises:
        InputError: the proposal has the wrong shape.
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
    """Whether a proposal is kept, (n_systems,) bool: energy and fmax are not NaN and no higher than
    at the start.

    Args:
        energy, start_energy: (n_systems,) eV.
        fmax, start_fmax: (n_systems,) eV/Angstrom.
    """
    return (energy <= start_energy) & (fmax <= start_fmax)


def name_of(propose: Proposal) -> str:
    """Name of a proposal in run folders: its module and name, and for a dataclass its values."""
    if dataclasses.is_dataclass(propose):
        return f"{type(propose).__module__}.{propose!r}"
    named = propose if inspect.isroutine(propose) else type(propose)
    return f"{named.__module__}.{named.__qualname__}"


def check_for_workers(propose: Proposal) -> None:
    """Refuse a proposal that worker processes could not unpickle.

    Raises:
        InputError: it cannot be pickled, or is defined in the main script.
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
