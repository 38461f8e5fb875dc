"""Small models with random weights, in memory and as folders, so that no test depends on a model
that was trained.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save

from geocalc.architectures import ARCHITECTURES
from geocalc.architectures.base import Network
from geocalc.core.settings import read_yaml
from geocalc.frames import frame_policy
from geocalc.potentials.card import ModelCard
from geocalc.potentials.network import EnergyModel, ForceMode, NetworkPotential, Scales
from geocalc.potentials.registry import CARD, WEIGHTS, write_card

SMALL = {
    "cutoff": 4.2,
    "hidden_channels": 28,
    "num_filters": 12,
    "num_interactions": 2,
    "num_gaussians": 6,
    "tag_hidden_channels": 3,
    "pg_hidden_channels": 3,
    "force_decoder_channels": 8,
    "message_scale": 0.3,
}
SMALL_SCHNET = {  # Gaussians are 0.75 Angstrom apart, a number that float32 holds
    "cutoff": 3.75,
    "hidden_channels": 20,
    "num_filters": 12,
    "num_interactions": 2,
    "num_gaussians": 6,
}
SMALL_RELAXED = {
    "cutoff": 3.75,
    "features": "6x0e + 2x0o + 4x1o + 2x1e + 2x2e",
    "num_gaussians": 6,
    "radial_hidden": 8,
    "num_radial": 4,
    "neighbors": 0.1,  # so that messages count beside what an atom is alone
}
SIZES = {"faenet": SMALL, "regnn": SMALL_RELAXED, "schnet": SMALL_SCHNET}
REFERENCES = {1: -1.5, 6: -4.0, 8: -3.0, 29: 0.5}


def random_network(seed: int = 0, architecture: str = "faenet", **settings: object) -> Network:
    """A small network in evaluation mode with every weight and bias random, so that no part of it
    is silent.
    """
    kind = ARCHITECTURES[architecture]
    with torch.random.fork_rng(devices=[]):
        network = kind.build(kind.settings.model_validate({**SIZES[architecture], **settings}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            scale = 0.3 if weight.dim() < 2 else weight.shape[1] ** -0.5
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
            if "norm.weight" in name:
                weight.add_(1.0)
    return network.eval()


def random_potential(
    policy: str = "averaged",
    *,
    force_mode: ForceMode = ForceMode.GRADIENT,
    stress: bool = False,
    seed: int = 0,
    repulsion_reach: float | None = None,
    architecture: str = "faenet",
    **settings: object,
) -> NetworkPotential:
    """A float64 potential of a random network; `settings` are those of its architecture."""
    network = random_network(seed, architecture, **settings).double()
    references = torch.zeros(network.n_levels, 119, dtype=torch.float64)
    for level in range(network.n_levels):
        for number, energy in REFERENCES.items():
            references[level, number] = (1 + level) * energy
    scales = Scales(energy=1.7, forces=1.3, references=references)
    model = EnergyModel(network, scales, repulsion_reach)
    return NetworkPotential(
        model=model.eval().requires_grad_(False),
        policy=frame_policy(policy),
        force_mode=force_mode,
        stress=stress,
    )


def write_model(
    parent: Path,
    name: str = "tiny",
    *,
    seed: int = 0,
    card: dict[str, object] | None = None,
    settings: dict[str, object] | None = None,
) -> Path:
    """A model folder `parent/name`; `card` replaces entries of model.yaml, `settings` those of the
    network.
    """
    folder = parent / name
    folder.mkdir(parents=True)
    content = save(
        {
            key: value.contiguous()
            for key, value in random_network(seed, **(settings or {})).state_dict().items()
        }
    )
    (folder / WEIGHTS).write_bytes(content)
    values = {
        "name": name,
        "architecture": "faenet",
        "settings": SMALL | (settings or {}),
        "cutoff": SMALL["cutoff"],
        "elements": ("H", "C", "O", "Cu"),
        "energy_kind": "adsorption",
        "level_of_theory": "none: random weights",
        "reference_text": "none",
        "reference_energies": {"H": -1.5, "C": -4.0},
        "energy_scale": 1.7,
        "force_scale": 1.3,
        "frames": "averaged",
        "force_mode": "gradient",
        "conservative": True,
        "repulsion_reach": 0.8,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "license": "MIT",
        "domain": "tests",
    }
    write_card(folder, ModelCard.parse(values | (card or {}), name))
    return folder


def edit_card(folder: Path, text: str, replacement: str) -> None:
    """Change model.yaml as someone with an editor would."""
    path = folder / CARD
    before = path.read_text()
    assert before.count(text) == 1
    path.write_text(before.replace(text, replacement))
    assert read_yaml(path)
