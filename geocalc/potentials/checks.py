"""Checks of the structures that a model is given, before they reach the network."""

from __future__ import annotations

import torch

from geocalc.core.elements import N_ELEMENTS, symbols
from geocalc.core.systems import Systems
from geocalc.errors import InputError
from geocalc.nn.embedding import N_TAGS


def check_systems(
    systems: Systems, known: tuple[int, ...], n_elements: int, reads_tags: bool
) -> None:
    """Refuse a batch that would end as an index error in the network or as a meaningless energy.

    Args:
        systems: batch of structures.
        known: atomic numbers the model was trained on; empty for all.
        n_elements: atomic numbers below this have an embedding.
        reads_tags: whether the network reads tags.
    Raises:
        InputError: the batch or one of its structures is empty, or has an element or a tag that the
            model does not know.
    """
    if systems.n_systems == 0:
        raise InputError("got an empty list of structures; give at least one structure")
    empty = torch.nonzero(systems.counts == 0)
    if len(empty):
        raise InputError(f"structure {int(empty[0])} of the batch has no atoms; remove it")
    if reads_tags and (int(systems.tags.min()) < 0 or int(systems.tags.max()) >= N_TAGS):
        found = systems.tags.unique().tolist()
        raise InputError(
            f"tags must be 0 (below the surface), 1 (surface) or 2 (adsorbate), got {found}; see"
            " geocalc.from_atoms"
        )
    _check_elements(systems.numbers.unique().tolist(), known, n_elements)


def _check_elements(present: list[int], known: tuple[int, ...], n_elements: int) -> None:
    foreign = sorted(set(present) - set(known)) if known else []
    if foreign:
        names = ", ".join(symbols()[z] if 0 < z <= N_ELEMENTS else f"Z={z}" for z in foreign)
        allowed = " ".join(symbols()[z] for z in sorted(known))
        raise InputError(
            f"the structure contains {names}, which this model was not trained on; it knows"
            f" {allowed}; choose another model"
        )
    beyond = [z for z in present if not 0 < z < n_elements]
    if beyond:
        raise InputError(
            f"the structure contains atomic number {beyond[0]}; this model has numbers 1 to"
            f" {n_elements - 1}"
        )
