"""FAENet with weights of the published package gives its energies and forces.

The record is written by `tests/reference/make_published_faenet.py` (faenet 0.1.3, torch-geometric
2.4.0, mendeleev 0.15.0).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.published_names import PROPERTY_ORDER, translate_settings, translate_state
from torch import Tensor

from geocalc.architectures import FAENet
from geocalc.architectures.base import NetworkInput, NetworkOutput
from geocalc.core import elements
from geocalc.nn.edges import EdgeIndex

RECORD = Path(__file__).parents[1] / "reference" / "published_faenet.npz"
CONFIGS = [
    "is2re",
    "s2ef",
    "qm7x",
    "simple",
    "updownscale",
    "updown_local_env",
    "updown_local_env_complex",
]
NORMALISED = ["is2re", "s2ef", "simple", "updown_local_env"]
SINGLES = ["adslab", "molecule", "bulk"]
AGREEMENT = 1e-11
ATOMIC_VOLUME, POLARIZABILITY = 1, 3


@cache
def record() -> dict[str, np.ndarray]:
    with np.load(RECORD) as stored:
        return dict(stored)


def under(prefix: str) -> dict[str, Tensor]:
    """Arrays below `prefix`, by the rest of their names."""
    return {
        k.removeprefix(prefix): torch.from_numpy(v)
        for k, v in record().items()
        if k.startswith(prefix)
    }


def network(name: str, norm: str = "graph") -> FAENet:
    """Our network with the published weights and property table, float64."""
    settings = translate_settings(json.loads(str(record()[f"settings/{name}"])), norm)
    weights = translate_state(under(f"state/{name}/"), settings)
    net = FAENet(settings).eval()
    if "embedding.properties" in weights and not settings.phys_hidden_channels:
        net.embedding.properties.copy_(weights.pop("embedding.properties"))
    net.load_state_dict(weights)
    return net.double()


def predict(net: FAENet, structure: str) -> dict[str, Tensor]:
    graph = under(f"input/{structure}/")
    senders, receivers = graph["edge_index"]
    edge_vec = graph["rel_pos"].requires_grad_()
    output: NetworkOutput = net(
        NetworkInput(
            numbers=graph["numbers"],
            tags=graph["tags"],
            system_idx=graph["batch"],
            n_systems=int(graph["batch"].max()) + 1,
            index=EdgeIndex.build(senders, receivers, len(graph["numbers"])),
            edge_vec=edge_vec,
            levels=torch.zeros(int(graph["batch"].max()) + 1, dtype=torch.int64),
        )
    )
    (gradient,) = torch.autograd.grad(output.energy.sum(), edge_vec)
    forces = torch.zeros((len(graph["numbers"]), 3), dtype=torch.double)
    forces = forces.index_add(0, receivers, gradient).index_add(0, senders, -gradient)
    found = {"energy": output.energy, "gradient_forces": forces, "forces": output.forces}
    return {key: value.detach() for key, value in found.items() if value is not None}


def deviations(name: str, structure: str, norm: str) -> dict[str, float]:
    """Largest deviation of each quantity, relative to its largest component."""
    published, ours = under(f"output/{name}/{structure}/"), predict(network(name, norm), structure)
    assert set(ours) == set(published)
    assert all(float(value.abs().max()) > 1e-3 for value in published.values())
    return {
        key: float((ours[key] - value).abs().max() / value.abs().max())
        for key, value in published.items()
    }


@pytest.mark.parametrize("structure", SINGLES)
@pytest.mark.parametrize("name", CONFIGS)
def test_energies_and_forces_alone(name: str, structure: str) -> None:
    assert max(deviations(name, structure, "graph").values()) < AGREEMENT


@pytest.mark.parametrize("name", CONFIGS)
def test_energies_and_forces_of_a_batch_need_the_legacy_norm(name: str) -> None:
    assert max(deviations(name, "both", "legacy_graph").values()) < AGREEMENT
    if name in NORMALISED:
        assert deviations(name, "both", "graph")["energy"] > 1e-3


def test_every_weight_of_the_package_is_used() -> None:
    for name in CONFIGS:
        published = under(f"state/{name}/")
        count = sum(
            value.numel()
            for key, value in published.items()
            if "phys_emb" not in key and "offset" not in key
        )
        ours = sum(
            value.numel()
            for key, value in network(name).state_dict().items()
            if key != "embedding.properties"
        )
        assert ours == count


def test_property_tables() -> None:
    """Ours against the package's; two columns differ because mendeleev changed its data."""
    published = under("state/is2re/")["embed_block.phys_emb.properties"].double()[:, PROPERTY_ORDER]
    ours = torch.from_numpy(elements.element_properties())[: len(published)]
    largest = (ours - published).abs().amax(0)
    same = [k for k in range(largest.shape[0]) if k not in (ATOMIC_VOLUME, POLARIZABILITY)]
    assert float(largest[same].max()) < 0.05
    assert float(largest[POLARIZABILITY]) < 0.2


def test_periods_and_groups_are_those_of_the_package() -> None:
    buffers = under("state/is2re/embed_block.phys_emb.")
    assert torch.equal(torch.from_numpy(elements.periods())[1:101], buffers["period"][1:])
    assert torch.equal(torch.from_numpy(elements.groups())[1:101], buffers["group"][1:])
