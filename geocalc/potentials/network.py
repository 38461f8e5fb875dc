"""A loaded network as a potential: graph, frames, network and references give a prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from geocalc.architectures.base import Network, NetworkInput, NetworkOutput
from geocalc.core.elements import N_ELEMENTS, symbols
from geocalc.core.systems import Prediction, Systems
from geocalc.errors import InputError
from geocalc.frames import FramePick, FramePolicy, Frames, FrameSource
from geocalc.frames.learned import Canonicalizer, Geometry, PolicyFrames
from geocalc.graphs.neighbors import Graph, edge_vectors
from geocalc.graphs.reduction import NO_REWIRING, Rewiring, keep_atoms
from geocalc.graphs.strategies import RADIUS, GraphSettings, edge_weights, make_graph
from geocalc.graphs.supernodes import Nodes
from geocalc.nn.embedding import N_TAGS
from geocalc.nn.ewald.waves import make_waves
from geocalc.nn.repulsion import Repulsion
from geocalc.potentials.frame_averaging import (
    mean_over_copies,
    mean_over_frames,
    replicate,
    spread_of_members,
    vectors_to_lab,
)


class ForceMode(StrEnum):
    """Where forces come from: nowhere, minus the gradient of the energy, or the network's own head."""

    NONE = "none"
    GRADIENT = "gradient"
    DIRECT = "direct"


@dataclass(frozen=True, kw_only=True)
class Scales:
    """From network units to eV.

    Attributes:
        energy: eV per network unit of energy.
        forces: eV/Angstrom (or Angstrom) per network unit of direct force (or displacement).
        references: (n_levels, 119) eV added for each atom of an element at each level of theory.
    """

    energy: float
    forces: float
    references: Tensor


class EnergyModel(nn.Module):
    """Network, references and short-range repulsion: everything but the frames.

    Args:
        network: from `geocalc.architectures`.
        scales: units of the network.
        repulsion_reach: see `Repulsion`; None leaves it out.
        reads_tags: whether the network sees tags; else every tag is 0 and the energy cannot depend
            on them.
        rewiring: what of a structure the network sees.
        displaces: whether its vectors are displacements to the relaxed structure, and no forces.
        graph: how its graphs are made.
    Raises:
        InputError: the graph does not go with the network's `max_neighbors`.
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
        """Floating type of the network's weights."""
        return next(self.network.parameters()).dtype


@dataclass(frozen=True, kw_only=True)
class NetworkPotential:
    """A pure function of structures: the same batch gives the same prediction.

    Attributes:
        model: network with its units.
        policy: frames.
        force_mode: where forces come from.
        stress: whether stress is computed (gradient forces only).
        seed: of the frames that a stochastic policy draws, anew in every call (studies only).
        level: number of the level of theory that is predicted.
        elements: atomic numbers it accepts; empty for all that the network has an embedding for.
        graphs: makes the graph of a batch, such as a `NeighborCache`; None searches anew in every
            call.
    Raises:
        InputError: the policy is stochastic and there is no seed, the frames are learned ones and
            the network has no canonicalizer, or stress is asked for without gradient forces.
    """

    model: EnergyModel
    policy: FramePolicy
    force_mode: ForceMode = ForceMode.GRADIENT
    stress: bool = False
    seed: int | None = None
    level: int = 0
    elements: tuple[int, ...] = ()
    graphs: Callable[[Systems], Graph] | None = None

    def __post_init__(self) -> None:
        """Refuse frames that nothing could draw, and stress that nothing would compute."""
        if self.policy.pick is FramePick.STOCHASTIC and self.seed is None:
            raise InputError(
                "this frame policy draws frames at random and needs a seed; give one, or use"
                " `lattice` or `cell`"
            )
        _canonicalizer(self.model.network, self.policy)
        if self.stress and self.force_mode is not ForceMode.GRADIENT:
            raise InputError(
                "stress is the derivative of the energy by strain, which needs gradient forces;"
                " leave stress off"
            )
        if self.stress and self.model.rewiring.merges:
            raise InputError(
                "supernodes are placed in the cell as it is, so their energy has no stress; leave"
                " stress off"
            )

    def __call__(self, systems: Systems) -> Prediction:
        """Energies and forces of every structure.

        Raises:
            InputError: no structure or one without atoms, an element the model was not trained on,
                tags other than OC20's, or a structure the neighbor list cannot handle (zero cell
                with pbc, positions that are not numbers).
        """
        network = self.model.network
        _check(systems, self.elements, network.n_elements, self.model.reads_tags)
        systems = systems.to(self.model.references.device)
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        kept = self.model.rewiring.atoms(systems)
        atoms = keep_atoms(systems, kept)
        nodes = self.model.rewiring.nodes(atoms)
        seen = atoms if nodes is None else nodes.systems
        settings = self.model.graph
        graph = (
            self.graphs(seen)
            if self.graphs
            else make_graph(seen, network.cutoff, network.max_neighbors, settings)
        )
        graph = self.model.rewiring.edges(graph, seen)
        levels = torch.full_like(seen.counts, self.level)
        prediction = evaluate(
            self.model,
            atoms,
            graph,
            levels,
            self.policy,
            self.force_mode,
            nodes=nodes,
            stress=self.stress,
            generator=generator,
        )
        return spread_out(detach(prediction), kept)


def spread_out(prediction: Prediction, kept: Tensor) -> Prediction:
    """The prediction with zeros for the atoms outside a (n_atoms,) bool mask, which the network did
    not see.
    """
    if bool(kept.all()):
        return prediction
    values = {}
    for name in ("forces", "direct_forces", "displacement", "atom_energies"):
        part = getattr(prediction, name)
        if part is not None:
            values[name] = part.new_zeros((len(kept), *part.shape[1:])).index_put_((kept,), part)
    return replace(prediction, **values)


def _check(systems: Systems, known: tuple[int, ...], n_elements: int, reads_tags: bool) -> None:
    """Refuse what would end as an index error inside the network, or as a number without meaning."""
    if systems.n_systems == 0:
        raise InputError("no structures were given; at least one is needed")
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


def detach(prediction: Prediction) -> Prediction:
    """The same prediction without autograd history."""
    values = {k: v.detach() for k, v in vars(prediction).items() if isinstance(v, Tensor)}
    return replace(prediction, **values)


def evaluate(
    model: EnergyModel,
    systems: Systems,
    graph: Graph,
    levels: Tensor,
    policy: FramePolicy,
    force_mode: ForceMode,
    *,
    nodes: Nodes | None = None,
    stress: bool = False,
    training: bool = False,
    generator: torch.Generator | Tensor | None = None,
) -> Prediction:
    """Energy, forces and stress of a batch, averaged over its frames in one forward pass.

    Args:
        model: network and units.
        systems: batch.
        graph: edges of what the network sees of it.
        levels: (n_systems,) int64, the level of theory of each.
        policy: frames; gradient forces differentiate through them.
        force_mode: none, gradient or direct.
        nodes: what the network sees in place of the atoms; None for the atoms themselves.
        stress: also the strain derivative of the energy divided by the volume (gradient mode).
        training: keep the autograd graph of the forces, so that a loss on them can be
            differentiated.
        generator: randomness for stochastic policies, see `geocalc.frames.make_frames`.
    """
    gradient = force_mode is ForceMode.GRADIENT
    with torch.set_grad_enabled(gradient or training):
        positions, cell, strain = systems.positions, systems.cell, None
        if gradient:
            positions = positions.detach().requires_grad_()
        if gradient and stress:
            strain = torch.zeros_like(cell).requires_grad_()
            symmetric = 0.5 * (strain + strain.transpose(1, 2))
            deformed = positions + torch.einsum(
                "ai,aij->aj", positions, symmetric[systems.system_idx]
            )
            cell = cell + cell @ symmetric
        else:
            deformed = positions
        seen = replace(systems, positions=deformed, cell=cell)
        if nodes is not None:
            seen = replace(
                nodes.systems, positions=nodes.node_positions(deformed, cell, systems), cell=cell
            )
        inputs, frames, edge_vec = posed(model, seen, graph, levels, policy, generator)
        # autograd alone says how long they live
        output: NetworkOutput = replace(model.network(inputs), layers=None)
        per_frame = output.energy.double() * model.energy_scale
        energy, spread = mean_over_frames(per_frame, frames, systems.n_systems)
        if output.member_energies is not None:
            spread = spread_of_members(
                output.member_energies.detach().double() * model.energy_scale,
                frames,
                systems.n_systems,
            )
        references = model.references[levels[systems.system_idx], systems.numbers]
        per_system = references.new_zeros(systems.n_systems).index_add(
            0, systems.system_idx, references
        )
        energy = energy + _repelled(per_system, model, seen, graph, edge_vec)
        forces, stresses = None, None
        if gradient:
            leaves = [positions] if strain is None else [positions, strain]
            grads = torch.autograd.grad(energy.sum(), leaves, create_graph=training)
            forces = -grads[0]
            if strain is not None:
                stresses = grads[1] / _volumes(systems)[:, None, None]
        direct = (
            None
            if output.forces is None
            else vectors_to_lab(output.forces.double() * model.force_scale, inputs, frames, seen)
        )
        shares = (
            None
            if output.atom_energies is None
            else mean_over_copies(output.atom_energies.double() * model.energy_scale, frames, seen)
        )
        if nodes is not None:
            direct, shares = nodes.vectors_to_atoms(direct), nodes.energies_to_atoms(shares)
    return Prediction(
        energy=energy,
        forces=direct if force_mode is ForceMode.DIRECT and not model.displaces else forces,
        stress=stresses,
        energy_std=spread,
        frame_degenerate=frames.degenerate,
        direct_forces=None if model.displaces else direct,
        displacement=direct if model.displaces else None,
        atom_energies=None if shares is None else shares + references,
    )


def posed(
    model: EnergyModel,
    systems: Systems,
    graph: Graph,
    levels: Tensor,
    policy: FramePolicy,
    generator: torch.Generator | Tensor | None = None,
) -> tuple[NetworkInput, Frames, Tensor]:
    """What the network is given, in each frame of every structure; the frames; the edges (n_edges,
    3) Angstrom as they lie.

    Arguments as of `evaluate`, but that `systems` are what the network sees; differentiable by
    positions and cells.
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
    frames = _canonicalizer(model.network, policy)(geometry, generator)
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


def _canonicalizer(network: Network, policy: FramePolicy) -> Canonicalizer:
    """What gives the frames of a policy."""
    if policy.source is not FrameSource.LEARNED:
        return PolicyFrames(policy)
    if network.canonicalizer is None:
        raise InputError(
            "this network has no canonicalizer, so it has no learned frames; use `lattice` or"
            " `cell`"
        )
    return network.canonicalizer


def _volumes(systems: Systems) -> Tensor:
    """Volumes of the cells, (n_systems,) cubic Angstrom; NaN where there is none."""
    volume = torch.linalg.det(systems.cell).abs()
    return torch.where(volume > 0, volume, torch.nan)


def _repelled(
    energy: Tensor, model: EnergyModel, systems: Systems, graph: Graph, edge_vec: Tensor
) -> Tensor:
    """Energies (n_systems,) in eV with the short-range repulsion of each structure."""
    if model.repulsion is None or graph.n_edges == 0:
        return energy
    i, j = systems.numbers[graph.receivers], systems.numbers[graph.senders]
    squared = (edge_vec.detach() * edge_vec.detach()).sum(1)
    # of bonds as long as usual, none
    near = torch.nonzero(squared < model.repulsion.limit(i, j) ** 2).squeeze(1)
    vector = edge_vec.index_select(0, near)
    length = (vector * vector).sum(1).clamp(min=1e-12).sqrt()
    owner = systems.system_idx[graph.receivers[near]]
    return energy.index_add(0, owner, model.repulsion(length, i[near], j[near]))
