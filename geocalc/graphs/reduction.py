"""Reduction of the graph of a slab.

Subsurface atoms are removed or merged, and edges far from the adsorbate removed.

Their contribution to adsorption energies is nearly constant, but they account for most of the
computing time. Forces need them.

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
    """Rules for reducing the graph of a slab.

    Attributes:
        drop_subsurface: remove atoms with tag 0.
        adsorbate_edges: keep only edges with an adsorbate atom (tag 2) at one end or both.
        supernodes: merge atoms with tag 0 into one node, or into one node per element; see
            `geocalc.graphs.supernodes`.
    Raises:
        InputError: subsurface atoms are to be both removed and merged.
    """

    drop_subsurface: bool = False
    adsorbate_edges: bool = False
    supernodes: Supernodes = Supernodes.NONE

    def __post_init__(self) -> None:
        """Check that the rules do not contradict each other."""
        if self.drop_subsurface and self.merges:
            raise InputError(
                "drop_subsurface and supernodes are both set, but subsurface atoms can only be"
                " removed or merged; choose one of the two"
            )

    @property
    def merges(self) -> bool:
        """Whether atoms are merged."""
        return self.supernodes is not Supernodes.NONE

    @property
    def reads_tags(self) -> bool:
        """Whether the rules depend on tags."""
        return self.drop_subsurface or self.adsorbate_edges or self.merges

    def atoms(self, systems: Systems) -> Tensor:
        """Return the atoms that are kept, (n_atoms,) bool.

        Raises:
            InputError: the rules depend on tags and a structure has no adsorbate.
        """
        if self.reads_tags:
            adsorbed = systems.system_idx[systems.tags == ADSORBATE]
            bare = sorted(set(range(systems.n_systems)) - set(adsorbed.tolist()))
            if bare:
                raise InputError(
                    f"structure {bare[0]} of the batch has no adsorbate (tag 2), which this model"
                    " requires; set its tags, or use a model of energies and forces"
                )
        if not self.drop_subsurface:
            return torch.ones_like(systems.numbers, dtype=torch.bool)
        return systems.tags != SUBSURFACE

    def edges(self, graph: Graph, systems: Systems) -> Graph:
        """Return the edges that are kept; edges between or within supernodes are removed.

        Args:
            graph: all edges.
            systems: the batch that the graph was built for.
        """
        if self.adsorbate_edges:
            adsorbate = systems.tags == ADSORBATE
            return graph.where(adsorbate[graph.receivers] | adsorbate[graph.senders])
        if self.merges:
            below = systems.tags == SUBSURFACE
            return graph.where(~(below[graph.receivers] & below[graph.senders]))
        return graph

    def nodes(self, systems: Systems) -> Nodes | None:
        """Return the nodes that replace the atoms kept by `atoms`; None if no atoms are merged."""
        return merge(systems, self.supernodes)


NO_REWIRING = Rewiring()


def keep_atoms(systems: Systems, kept: Tensor) -> Systems:
    """Return a batch with the atoms of a mask (n_atoms,) bool, in order.

    All structures remain, even those that lose all their atoms.
    """
    if bool(kept.all()):
        return systems
    rows = {name: getattr(systems, name)[kept] for name in _PER_ATOM}
    projector = None if systems.projector is None else systems.projector[kept]
    return Systems(**rows, projector=projector, cell=systems.cell, pbc=systems.pbc)


def restore_atoms(prediction: Prediction, kept: Tensor, systems: Systems) -> Prediction:
    """Add rows of zeros to a prediction for the atoms that `keep_atoms` has left out.

    Args:
        prediction: of the kept atoms.
        kept: (n_atoms,) bool, see `keep_atoms`.
        systems: batch with all atoms.
    """
    if bool(kept.all()):
        return prediction
    values = {}
    for name in ("forces", "direct_forces", "displacement", "atom_energies"):
        part = getattr(prediction, name)
        if part is not None:
            values[name] = part.new_zeros((len(kept), *part.shape[1:])).index_put_((kept,), part)
    if prediction.novel_atom is not None:
        before = torch.bincount(systems.system_idx[kept], minlength=systems.n_systems)
        first_kept, first = (count.cumsum(0) - count for count in (before, systems.counts))
        place = torch.nonzero(kept).squeeze(1)[first_kept + prediction.novel_atom]
        values["novel_atom"] = place - first
    return replace(prediction, **values)


_PER_ATOM = ("positions", "numbers", "tags", "fixed", "system_idx")
