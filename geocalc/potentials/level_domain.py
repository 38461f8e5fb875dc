"""The domain of a model of several levels of theory: what it has learned at one of them, and what
only at the others.

A network that has seen a C-O bond at one level knows something of it at another, but its energy
there was never compared with a reference; such a structure is near the edge, not outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geocalc.core.systems import Systems
from geocalc.errors import ModelFileError
from geocalc.graphs.neighbors import Graph
from geocalc.potentials.domain import AMBER, RED, Domain, domain_of, domain_tensors

OWN, WHOLE = "own", "whole"  # parts in the names of tensors
# novelty of what is known at other levels alone: amber
ELSEWHERE = (AMBER + RED) / 2


@dataclass(frozen=True)
class LevelDomain:
    """Training data of one level of theory, and those of all levels together.

    Attributes:
        own: of the level.
        whole: of all levels, as the network sees them at this one.
    """

    own: Domain
    whole: Domain

    def to(self, device: torch.device | str) -> LevelDomain:
        """The same on another device."""
        return LevelDomain(self.own.to(device), self.whole.to(device))

    def check(
        self, features: Tensor, systems: Systems, graph: Graph, edge_vec: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Judge every structure of a batch; see `Domain.check`. What is unseen at this level alone
        has a negative code.
        """
        novelty, novel_atom, unseen = self.own.check(features, systems, graph, edge_vec)
        if not bool((novelty > AMBER).any()):
            return novelty, novel_atom, unseen
        elsewhere = self.whole.check(features, systems, graph, edge_vec)[0] <= AMBER
        softened = elsewhere & (novelty > AMBER)
        return (
            torch.where(softened, novelty.clamp(max=ELSEWHERE), novelty),
            novel_atom,
            torch.where(softened, -unseen, unseen),
        )


def level_tensors(domains: Sequence[LevelDomain]) -> dict[str, Tensor]:
    """The tensors of the domains of all levels by name, for a file."""
    return {
        f"{number}.{part}.{name}": tensor
        for number, domain in enumerate(domains)
        for part, one in ((OWN, domain.own), (WHOLE, domain.whole))
        for name, tensor in domain_tensors(one).items()
    }


def domain_at(
    tensors: Mapping[str, Tensor], model: str, level: int, n_levels: int
) -> Domain | LevelDomain:
    """The domain of a level in a file.

    Args:
        tensors: by name.
        model: its name, for messages.
        level: number of the level.
        n_levels: of the model.
    Raises:
        ModelFileError: a tensor is missing.
    """
    if n_levels == 1:
        return domain_of(tensors, model)
    parts = []
    for part in (OWN, WHOLE):
        start = f"{level}.{part}."
        there = {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
        if not there:
            raise ModelFileError(
                f"the domain of {model} has no tensors {start}*; install the model again"
            )
        parts.append(domain_of(there, model))
    return LevelDomain(*parts)
