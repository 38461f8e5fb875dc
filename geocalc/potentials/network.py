"""Energies, forces and stress of a batch of structures from a trained network.

`evaluate` is the computation, `NetworkPotential` a loaded model that checks its input and builds
the graph first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from geocalc.architectures.base import Network, NetworkInput, NetworkOutput
from geocalc.core.lengths import safe_lengths
from geocalc.core.systems import Prediction, Systems, sum_per_system
from geocalc.errors import InputError
from geocalc.frames.learned.base import Canonicalizer, Geometry, PolicyFrames
from geocalc.frames.policy import FramePick, FramePolicy, Frames, FrameSource
from geocalc.graphs.neighbors import Graph, edge_vectors
from geocalc.graphs.reduction import NO_REWIRING, Rewiring, keep_atoms, restore_atoms
from geocalc.graphs.strategies import RADIUS, GraphSettings, edge_weights, make_graph
from geocalc.graphs.supernodes import Nodes
from geocalc.nn.ewald.waves import make_waves
from geocalc.nn.repulsion import Repulsion
from geocalc.potentials.checks import check_systems
from geocalc.potentials.derivatives import LeafGeometry, derivatives, fixed_geometry, leaf_geometry
from geocalc.potentials.domain import Domain
from geocalc.potentials.frame_averaging import (
    mean_over_copies,
    mean_over_frames,
    replicate,
    spread_of_members,
    vectors_to_lab,
)
from geocalc.potentials.level_domain import LevelDomain


class ForceMode(StrEnum):
    """Origin of forces: no forces, minus the gradient of the energy, or a direct head."""

    NONE = "none"
    GRADIENT = "gradient"
    DIRECT = "direct"


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Units of a network's output.

    Attributes:
        energy: eV per network unit of energy.
        forces: eV/Angstrom (or Angstrom) per network unit of direct force (or displacement).
        references: (n_levels, 119) eV, added for each atom of an element at each level of theory.
    """

    energy: float
    forces: float
    references: Tensor


class EnergyModel(nn.Module):
    """A network with its units, reference energies and short-range repulsion.

    Args:
        network: network from `geocalc.architectures`.
        scales: units of the network.
        repulsion_reach: reach of the short-range repulsion, see `Repulsion`; None for no repulsion.
        reads_tags: whether the network reads tags; without, it gets tag 0 for every atom.
        rewiring: atoms and edges that the network does not see, or sees as supernodes.
        displaces: whether the vectors of the network are displacements to the relaxed structure
            instead of forces.
        graph: settings of the graph.
    Raises:
        InputError: the graph settings contradict the network's `max_neighbors`.
    """

    references: Tensor

    def __init__(
        self,
        network: Network,
        scales: Scales,
        repulsion_reach: float | None,
        reads_tags: bool = True,
        rewiring: Rewiring = NO_REWIRING,
        displaces: bool = False,
        graph: GraphSettings = RADIUS,
    ) -> None:
        super().__init__()
        graph.check(network.max_neighbors)
        self.graph = graph
        self.network: Network = network
        self.reads_tags, self.rewiring, self.displaces = reads_tags, rewiring, displaces
        self.energy_scale, self.force_scale = scales.energy, scales.forces
        self.register_buffer("references", scales.references.double(), persistent=False)
        self.repulsion = None if repulsion_reach is None else Repulsion(repulsion_reach)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network's weights."""
        return next(self.network.parameters()).dtype

    def reference_energies(self, systems: Systems, levels: Tensor) -> Tensor:
        """Look up the reference energy of each atom at the level of its structure, (n_atoms,) eV.

        Args:
            systems: batch of structures.
            levels: (n_systems,) int64, the level of theory of each.
        """
        return self.references[levels[systems.system_idx], systems.numbers]

    def add_repulsion(
        self, energy: Tensor, systems: Systems, graph: Graph, edge_vec: Tensor
    ) -> Tensor:
        """Add the short-range repulsion of each structure to energies (n_systems,) in eV.

        Args:
            energy: (n_systems,) eV.
            systems: batch of structures.
            graph: edges of the batch.
            edge_vec: (n_edges, 3) Angstrom.
        """
        if self.repulsion is None or graph.n_edges == 0:
            return energy
        i, j = systems.numbers[graph.receivers], systems.numbers[graph.senders]
        squared = (edge_vec.detach() * edge_vec.detach()).sum(1)
        # bonds of usual length have no repulsion
        near = torch.nonzero(squared < self.repulsion.limit(i, j) ** 2).squeeze(1)
        length = safe_lengths(edge_vec.index_select(0, near))
        owner = systems.system_idx[graph.receivers[near]]
        return energy.index_add(0, owner, self.repulsion(length, i[near], j[near]))


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The surroundings of every atom of a batch.

    Attributes:
        features: (n_atoms, width), of the last layer of a network, averaged over frames.
        systems: structures as the network sees them.
        graph: their edges.
        edge_vec: (n_edges, 3) Angstrom.
    """

    features: Tensor
    systems: Systems
    graph: Graph
    edge_vec: Tensor


@dataclass(frozen=True, kw_only=True)
class NetworkPotential:
    """Energies and forces of a loaded model; the same batch gives the same prediction.

    Attributes:
        model: network with its units.
        policy: frame policy.
        force_mode: origin of the forces.
        stress: whether stress is computed (gradient forces only).
        seed: seed of the random frames of a stochastic policy, drawn anew in every call (for
            studies only).
        level: number of the level of theory to predict.
        domain: what the training data hold; None where it is not known.
        elements: atomic numbers that are accepted; empty for all that the network can embed.
        graphs: builds the graph of a batch, such as a `NeighborCache`; None searches neighbors in
            every call.
    Raises:
        InputError: the policy is stochastic and there is no seed, the policy is `learned` and the
            network has no canonicalizer, or stress is requested for a model that has none.
    """

    model: EnergyModel
    policy: FramePolicy
    force_mode: ForceMode = ForceMode.GRADIENT
    stress: bool = False
    seed: int | None = None
    level: int = 0
    domain: Domain | LevelDomain | None = None
    elements: tuple[int, ...] = ()
    graphs: Callable[[Systems], Graph] | None = None

    def __post_init__(self) -> None:
        """Refuse a frame policy without its seed or canonicalizer, and stress without gradient."""
        if self.policy.pick is FramePick.STOCHASTIC and self.seed is None:
            raise InputError(
                "this frame policy draws frames at random and needs a seed; give one, or use"
                " `averaged` or `single`"
            )
        _frame_source(self.model.network, self.policy)
        if self.stress and self.force_mode is not ForceMode.GRADIENT:
            raise InputError(
                "stress is the derivative of the energy by strain, which needs gradient forces;"
                " turn stress off"
            )
        if self.stress and self.model.rewiring.merges:
            raise InputError(
                "this model merges subsurface atoms into supernodes, which have no stress; turn"
                " stress off"
            )

    def __call__(self, systems: Systems) -> Prediction:
        """Predict energies, and forces where the model has them, of every structure.

        Raises:
            InputError: the batch or one of its structures is empty, has an element the model was
                not trained on or tags other than OC20's, or the neighbor list cannot handle it
                (zero cell with pbc, positions that are not numbers).
        """
        network, rewiring = self.model.network, self.model.rewiring
        check_systems(systems, self.elements, network.n_elements, self.model.reads_tags)
        systems = systems.to(self.model.references.device)
        kept = rewiring.atoms(systems)
        atoms = keep_atoms(systems, kept)
        nodes = rewiring.nodes(atoms)
        seen = atoms if nodes is None else nodes.systems
        prediction = evaluate(
            self.model,
            atoms,
            rewiring.edges(self._graph(seen), seen),
            torch.full_like(seen.counts, self.level),
            self.policy,
            self.force_mode,
            nodes=nodes,
            domain=self.domain,
            stress=self.stress,
            generator=None if self.seed is None else torch.Generator().manual_seed(self.seed),
        )
        return restore_atoms(prediction.detach(), kept, systems)

    def surroundings(self, systems: Systems) -> Surroundings:
        """Compute what the last layer of the network knows of every atom.

        Raises:
            InputError: see `__call__`; also if the network gives no features, or sees supernodes.
        """
        network, rewiring = self.model.network, self.model.rewiring
        check_systems(systems, self.elements, network.n_elements, self.model.reads_tags)
        systems = systems.to(self.model.references.device)
        seen = keep_atoms(systems, rewiring.atoms(systems))
        graph, levels = (
            rewiring.edges(self._graph(seen), seen),
            torch.full_like(seen.counts, self.level),
        )
        with torch.no_grad():
            inputs, frames, edge_vec = posed(self.model, seen, graph, levels, self.policy)
            features = network(inputs).features
        if features is None or rewiring.merges:
            raise InputError(
                f"the network {type(network).__name__} gives no features of atoms; use another"
            )
        features = mean_over_copies(features, frames, seen)
        return Surroundings(features=features, systems=seen, graph=graph, edge_vec=edge_vec)

    def _graph(self, seen: Systems) -> Graph:
        if self.graphs is not None:
            return self.graphs(seen)
        network = self.model.network
        return make_graph(seen, network.cutoff, network.max_neighbors, self.model.graph)


def evaluate(
    model: EnergyModel,
    systems: Systems,
    graph: Graph,
    levels: Tensor,
    policy: FramePolicy,
    force_mode: ForceMode,
    *,
    nodes: Nodes | None = None,
    domain: Domain | LevelDomain | None = None,
    stress: bool = False,
    training: bool = False,
    generator: torch.Generator | Tensor | None = None,
) -> Prediction:
    """Compute energy, forces and stress of a batch, averaged over its frames, in one forward pass.

    Args:
        model: network and units.
        systems: batch of structures.
        graph: edges of the structures as the network sees them.
        levels: (n_systems,) int64, the level of theory of each structure.
        policy: frame policy; gradient forces include the derivative of the frames.
        force_mode: none, gradient or direct.
        nodes: supernodes that replace subsurface atoms; None where the network sees atoms.
        domain: judges the structures; not where there are supernodes, which have other features.
        stress: also compute the stress (gradient forces only).
        training: keep the autograd graph, so that a loss of the forces can be differentiated.
        generator: random numbers for stochastic policies, see `geocalc.frames.make_frames`.
    """
    gradient = force_mode is ForceMode.GRADIENT
    with torch.set_grad_enabled(gradient or training):
        geometry = leaf_geometry(systems, stress) if gradient else fixed_geometry(systems)
        seen = _seen(systems, geometry, nodes)
        inputs, frames, edge_vec = posed(model, seen, graph, levels, policy, generator)
        # features of the layers are dropped here, so that autograd frees them as early as it can
        output = replace(model.network(inputs), layers=None)
        from_network, spread = _mean_energy(output, frames, systems.n_systems, model.energy_scale)
        references = model.reference_energies(systems, levels)
        constant = sum_per_system(references, systems)
        energy = from_network + model.add_repulsion(constant, seen, graph, edge_vec)
        slopes = derivatives(energy, geometry, systems, keep_graph=training)
        vectors = _vectors(output, inputs, frames, seen, nodes, model.force_scale)
        atoms = _atom_energies(output, frames, seen, nodes, model.energy_scale)
    novelty = novel_atom = unseen = None
    if domain is not None and nodes is None and output.features is not None:
        features = mean_over_copies(output.features.detach(), frames, seen)
        novelty, novel_atom, unseen = domain.check(features, seen, graph, edge_vec)
    direct = force_mode is ForceMode.DIRECT and not model.displaces
    return Prediction(
        energy=energy,
        forces=vectors if direct else slopes.forces,
        stress=slopes.stress,
        energy_std=spread,
        frame_degenerate=frames.degenerate,
        direct_forces=None if model.displaces else vectors,
        displacement=vectors if model.displaces else None,
        atom_energies=None if atoms is None else atoms + references,
        novelty=novelty,
        novel_atom=novel_atom,
        unseen=unseen,
    )


def posed(
    model: EnergyModel,
    systems: Systems,
    graph: Graph,
    levels: Tensor,
    policy: FramePolicy,
    generator: torch.Generator | Tensor | None = None,
) -> tuple[NetworkInput, Frames, Tensor]:
    """Turn a batch into every frame of each structure; differentiable by positions and cells.

    Args:
        model, graph, levels, policy, generator: see `evaluate`.
        systems: structures as the network sees them, with supernodes in place.
    Returns:
        The input of the network, the frames, and the edge vectors (n_edges, 3) in Angstrom before
        any rotation.
    """
    # no frame may see an edge appear at the cutoff
    policy = replace(policy, reach=min(policy.reach, model.network.cutoff))
    edge_vec = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
    weights = edge_weights(systems.positions, systems.cell, systems.system_idx, graph, edge_vec)
    geometry = Geometry(
        positions=systems.positions,
        cell=systems.cell,
        systems=systems,
        graph=graph,
        edge_vec=edge_vec,
        edge_weight=weights,
    )
    frames = _frame_source(model.network, policy)(geometry, generator)
    seen = systems if model.reads_tags else replace(systems, tags=torch.zeros_like(systems.tags))
    wanted = model.network.reciprocal
    waves = (
        None
        if wanted is None
        else make_waves(systems.positions, systems.cell, systems.system_idx, systems.pbc, wanted)
    )
    return (
        replicate(seen, graph, levels, frames, edge_vec, model.dtype, waves, weights),
        frames,
        edge_vec,
    )


def _frame_source(network: Network, policy: FramePolicy) -> Canonicalizer:
    """Return the module that computes the frames of a policy."""
    if policy.source is not FrameSource.LEARNED:
        return PolicyFrames(policy)
    if network.canonicalizer is None:
        raise InputError(
            "this network has no canonicalizer, so it has no learned frames; use `averaged` or"
            " `single`"
        )
    return network.canonicalizer


def _seen(systems: Systems, geometry: LeafGeometry, nodes: Nodes | None) -> Systems:
    """Put the structures, with supernodes where there are any, at a differentiable geometry."""
    positions, cell = geometry.positions, geometry.cell
    if nodes is None:
        return replace(systems, positions=positions, cell=cell)
    return replace(
        nodes.systems, positions=nodes.node_positions(positions, cell, systems), cell=cell
    )


def _mean_energy(
    output: NetworkOutput, frames: Frames, n_systems: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Average the energies of the frames of each structure.

    Returns:
        Mean (n_systems,) in eV, and its spread (n_systems,) in eV over the networks of an ensemble,
        otherwise over the frames.
    """
    energy, spread = mean_over_frames(output.energy.double() * scale, frames, n_systems)
    if output.member_energies is not None:
        members = output.member_energies.detach().double() * scale
        spread = spread_of_members(members, frames, n_systems)
    return energy, spread


def _vectors(
    output: NetworkOutput,
    inputs: NetworkInput,
    frames: Frames,
    seen: Systems,
    nodes: Nodes | None,
    scale: float,
) -> Tensor | None:
    """Average the vectors of the direct head over frames, (n_atoms, 3); None without a head."""
    if output.forces is None:
        return None
    vectors = vectors_to_lab(output.forces.double() * scale, inputs, frames, seen)
    return vectors if nodes is None else nodes.vectors_to_atoms(vectors)


def _atom_energies(
    output: NetworkOutput, frames: Frames, seen: Systems, nodes: Nodes | None, scale: float
) -> Tensor | None:
    """Average the energies of atoms over frames, (n_atoms,) in eV; None where there are none."""
    if output.atom_energies is None:
        return None
    energies = mean_over_copies(output.atom_energies.double() * scale, frames, seen)
    return energies if nodes is None else nodes.energies_to_atoms(energies)
