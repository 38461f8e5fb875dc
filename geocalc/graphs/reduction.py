"""What a network sees of a slab: subsurface atoms may be left out or merged, edges far from the
adsorbate left out.

For energies of adsorption both are nearly constant, and most of the work: for forces they are
needed.

Source: Duval et al., PhAST (2022), remove-tag-0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocalc.core.systems import Prediction, Systems
from geocalc.errors import InputError
from geocalc.graphs.neighbors import Graph
from geocalc.graphs.supernodes import ADSORBATE, SUBSURFACE, Nodes, Supernodes, merge


@dataclass(frozen=True)
class Rewiring:
    """Rules of what is left out, and of what is merged.

    Attributes:
        drop_subsurface: atoms with tag 0 are not seen at all.
        adsorbate_edges: only edges with an adsorbate atom (tag 2) at one end are kept.
        supernodes: atoms with tag 0 are seen as one node, or as one of each element; see
            `geocalc.graphs.supernodes`.
    Raises:
        InputError: subsurface atoms are both left out and merged.
    """

    drop_subsurface: bool = False
    adsorbate_edges: bool = False
    supernodes: Supernodes = Supernodes.NONE

    def __post_init__(self) -> None:
        """Refuse rules that contradict each other."""
        if self.drop_subsurface and self.merges:
            raise InputError(
                "subsurface atoms are left out or merged, not both; choose drop_subsurface or"
                " supernodes"
            )

    @property
    def merges(self) -> bool:
        """Whether atoms are merged."""
        return self.supernodes is not Supernodes.NONE

    @property
    def reads_tags(self) -> bool:
        """Whether tags decide what is seen."""
        return self.drop_subsurface or self.adsorbate_edges or self.merges

    def atoms(self, systems: Systems) -> Tensor:
        """The atoms that are seen, (n_atoms,) bool.

        Raises:
            InputError: nothing of a structure would be seen.
        """
        if self.reads_tags:
            adsorbed = systems.system_idx[systems.tags == ADSORBATE]
            bare = sorted(set(range(systems.n_systems)) - set(adsorbed.tolist()))
            if bare:
                raise InputError(
                    f"structure {bare[0]} of the batch has no adsorbate (tag 2), which is all that"
                    " this model looks at; set its tags, or use a model of energies and forces"
                )
        if not self.drop_subsurface:
            return torch.ones_like(systems.numbers, dtype=torch.bool)
        return systems.tags != SUBSURFACE

    def edges(self, graph: Graph, systems: Systems) -> Graph:
        """The edges that are seen; `systems` is what the graph was built of. Supernodes are not
        joined to each other or themselves.
        """
        if self.adsorbate_edges:
            adsorbate = systems.tags == ADSORBATE
            return graph.where(adsorbate[graph.receivers] | adsorbate[graph.senders])
        if self.merges:
            below = systems.tags == SUBSURFACE
            return graph.where(~(below[graph.receivers] & below[graph.senders]))
        return graph

    def nodes(self, systems: Systems) -> Nodes | None:
        """What is seen in place of the atoms that `atoms` leaves; None where they are seen as they
        are.
        """
        return merge(systems, self.supernodes)


EVERYTHING = Rewiring()


def keep_atoms(systems: Systems, kept: Tensor) -> Systems:
    """The atoms of a (n_atoms,) bool mask, in order; every structure stays, also one that loses all
    its atoms.
    """
    if bool(kept.all()):
        return systems
    rows = {name: getattr(systems, name)[kept] for name in _PER_ATOM}
    projector = None if systems.projector is None else systems.projector[kept]
    return Systems(**rows, projector=projector, cell=systems.cell, pbc=systems.pbc)


def restore_atoms(prediction: Prediction, kept: Tensor) -> Prediction:
    """Add rows of zeros to a prediction for the atoms that `keep_atoms` has left out.

    Args:
        prediction: of the kept atoms.
        kept: (n_atoms,) bool, see `keep_atoms`.
    """
    if bool(kept.all()):
        return prediction
    values = {}
    for name in ("forces", "direct_forces", "displacement", "atom_energies"):
        part = getattr(prediction, name)
        if part is not None:
            values[name] = part.new_zeros((len(kept), *part.shape[1:])).index_put_((kept,), part)
    return replace(prediction, **values)


_PER_ATOM = ("positions", "numbers", "tags", "fixed", "system_idx")
