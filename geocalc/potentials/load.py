"""Models of energies by name: from a model folder to a potential."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from geocalc.architectures.base import Network
from geocalc.architectures.catalog import ARCHITECTURES
from geocalc.architectures.ensemble import Ensemble
from geocalc.core import elements
from geocalc.core.devices import DTYPES, choose_device
from geocalc.core.systems import Prediction, Systems
from geocalc.errors import InputError, ModelFileError, RecipeError
from geocalc.frames.learned.catalog import build_canonicalizer
from geocalc.frames.policy import frame_policy
from geocalc.graphs.reduction import Rewiring
from geocalc.graphs.strategies import graph_builder
from geocalc.potentials.card import ModelCard, Task
from geocalc.potentials.level_domain import domain_at
from geocalc.potentials.network import EnergyModel, NetworkPotential, Scales
from geocalc.potentials.registry import (
    CARD,
    Installed,
    find_model,
    read_card,
    read_domain,
    read_weights,
)

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class LoadedModel(Installed[ModelCard]):
    """A model of energies, ready for use.

    Attributes:
        potential: predicts energies and forces.
    """

    potential: NetworkPotential

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return self.potential.model.references.device

    def __call__(self, systems: Systems) -> Prediction:
        """Predict a batch; see `NetworkPotential`."""
        return self.potential(systems)


def load_model(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str = "float32",
    frames: str | None = None,
    stress: bool = False,
    seed: int | None = None,
    level: str | None = None,
) -> LoadedModel:
    """Load a model of energies by name or path; no code of its folder is run.

    Args:
        name: a name from `geocalc models`, or the path of a model folder.
        device: auto (a GPU if there is one), cpu, cuda or cuda:1.
        dtype: float32 or float64, of the network; geometry is always float64.
        frames: a frame policy other than the card's default.
        stress: compute stress by strain even if the model was not trained for it (for studies).
        seed: for stochastic frame policies, which need one.
        level: of theory, for models with several; by default the card's first.
    Raises:
        ModelNotFoundError, ModelFileError: see `find_model`, `read_card`; also a wrong hash or an
            LFS pointer.
        InputError: unknown dtype, device, frame policy or level.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    folder = find_model(name)
    card = read_card(folder)
    number = card.level_number(level)
    policy = frame_policy(frames) if frames else _in_card(card, lambda: frame_policy(card.frames))
    target = choose_device(device)
    model = build(card, read_weights(folder, card)).to(target)
    model.network.to(DTYPES[dtype])
    known = read_domain(folder, card)
    potential = NetworkPotential(
        model=model.eval().requires_grad_(False),
        policy=policy,
        force_mode=card.force_mode,
        stress=stress or card.stress,
        seed=seed,
        level=number,
        elements=tuple(_atomic_number(symbol, card) for symbol in card.elements),
        domain=(
            None
            if known is None
            else domain_at(known, card.name, number, len(card.levels)).to(target)
        ),
        graphs=graph_builder(model.network.cutoff, model.network.max_neighbors, card.graph),
    )
    return LoadedModel(card=card.at(number), potential=potential, folder=folder)


def build(card: ModelCard, tensors: dict[str, torch.Tensor]) -> EnergyModel:
    """Build the energy model of a card with given weights.

    Raises:
        ModelFileError: the architecture or one of its settings is unknown, the weights do not fit
            it, or the cutoff of the card is not that of the network.
    """
    if card.architecture not in ARCHITECTURES:
        raise ModelFileError(
            f"model {card.name} needs the architecture {card.architecture!r}, which this geocalc"
            " does not have"
        )
    references = torch.zeros(len(card.levels), elements.N_ELEMENTS + 1, dtype=torch.float64)
    for number, level in enumerate(card.levels):
        for symbol, energy in level.reference_energies.items():
            references[number, _atomic_number(symbol, card)] = energy
    scales = Scales(energy=card.energy_scale, forces=card.force_scale, references=references)
    with torch.random.fork_rng(devices=[]):
        networks = [_in_card(card, lambda: _network(card)) for _ in range(card.members)]
    network = networks[0] if card.members == 1 else Ensemble(networks)
    if network.n_levels != len(card.levels):
        raise ModelFileError(
            f"the card of {card.name} has {len(card.levels)} levels of theory, its network"
            f" {network.n_levels}; one of them was changed; install the model again"
        )
    if network.cutoff != card.cutoff:
        raise ModelFileError(
            f"the card of {card.name} says cutoff {card.cutoff} Angstrom, the settings of its"
            f" network say {network.cutoff}; one of them was changed; install the model again"
        )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelFileError(
            f"the weights of {card.name} do not fit its card: {' '.join(str(error).split())}"
        ) from None
    rewiring = _in_card(
        card, lambda: Rewiring(card.drop_subsurface, card.adsorbate_edges, card.supernodes)
    )
    displaces, reach = card.task is Task.IS2RE, card.repulsion_reach
    return _in_card(
        card,
        lambda: EnergyModel(
            network, scales, reach, card.reads_tags, rewiring, displaces, card.graph
        ),
    )


def _network(card: ModelCard) -> Network:
    """Build one network of the card, with its canonicalizer and random weights."""
    architecture = ARCHITECTURES[card.architecture]
    network = architecture.build(architecture.settings.parse(card.settings, "settings"))
    if card.canonicalizer is not None:
        if card.members > 1:
            raise InputError(
                "networks of an ensemble share their frames, so they cannot have canonicalizers"
            )
        network.canonicalizer = build_canonicalizer(card.canonicalizer, network.cutoff)
    return network


def _in_card(card: ModelCard, read: Callable[[], Part]) -> Part:
    """Parse a part of the card; errors become errors of the model file."""
    try:
        return read()
    except (InputError, RecipeError) as error:
        raise ModelFileError(f"the card of {card.name} cannot be used: {error}") from None


def _atomic_number(symbol: str, card: ModelCard) -> int:
    known = elements.symbols()[1:]
    if symbol not in known:
        raise ModelFileError(
            f"the card of {card.name} names the element {symbol!r}, which does not exist; correct"
            f" its {CARD}"
        )
    return known.index(symbol) + 1
