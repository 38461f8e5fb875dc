"""Record what the published FAENet package computes, for `tests/test_published_faenet.py`.

The package and its requirements are no part of this project; give them an environment of their own:

    python3.11 -m venv faenet-env
    faenet-env/bin/pip install torch==2.13.0 torch-geometric==2.4.0 pandas ase
    faenet-env/bin/pip install --no-deps faenet==0.1.3 mendeleev==0.15.0
    faenet-env/bin/python tests/reference/make_published_faenet.py

Later torch-geometric refuses the keyword with which updown_local_env sends messages.

Small networks with random weights run in float64 on small structures, each alone and two together.
Gaussian spacings are powers of two, so that the width the package rounds to float32 is exact.
`torch_scatter` and `mendeleev.fetch` are stood in for by the few lines below: a sum per index, and
the two tables read from the database that mendeleev carries.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from torch import Tensor, nn

OUTPUT = Path(__file__).with_name("published_faenet.npz")
CUTOFF = 4.0
COMMON = {
    "cutoff": CUTOFF,
    "num_gaussians": 17,
    "hidden_channels": 48,
    "num_filters": 36,
    "num_interactions": 2,
}
FINAL, INITIAL = "weighted-av-final-embeds", "weighted-av-initial-embeds"


def decoder(kind: str, channels: int, norm: str | None) -> dict[str, object]:
    """Settings of a direct force head."""
    head = {kind: {"hidden_channels": channels, "norm": norm}}
    return {
        "regress_forces": "direct",
        "force_decoder_type": kind,
        "force_decoder_model_config": head,
    }


CONFIGS = {
    "is2re": {
        "mp_type": "base",
        "graph_norm": True,
        "complex_mp": True,
        "phys_embeds": True,
        "energy_head": FINAL,
    }
    | {
        "skip_co": "concat",
        "second_layer_MLP": False,
        "tag_hidden_channels": 6,
        "pg_hidden_channels": 7,
    },
    "s2ef": {
        "mp_type": "updownscale_base",
        "graph_norm": True,
        "complex_mp": True,
        "phys_embeds": False,
        "energy_head": FINAL,
    }
    | {
        "skip_co": False,
        "second_layer_MLP": False,
        "tag_hidden_channels": 5,
        "pg_hidden_channels": 8,
    }
    | decoder("mlp", 24, "batch1d"),
    "qm7x": {
        "mp_type": "updownscale_base",
        "graph_norm": False,
        "complex_mp": True,
        "phys_embeds": True,
        "energy_head": None,
    }
    | {
        "skip_co": "concat",
        "second_layer_MLP": True,
        "tag_hidden_channels": 0,
        "pg_hidden_channels": 6,
    }
    | decoder("res_updown", 20, "batch1d"),
    "simple": {
        "mp_type": "simple",
        "graph_norm": True,
        "complex_mp": False,
        "phys_embeds": False,
        "energy_head": INITIAL,
    }
    | {
        "skip_co": "add",
        "second_layer_MLP": False,
        "tag_hidden_channels": 4,
        "pg_hidden_channels": 0,
        "num_filters": 48,
    }
    | decoder("simple", 16, None),
    "updownscale": {
        "mp_type": "updownscale",
        "graph_norm": False,
        "complex_mp": True,
        "phys_embeds": True,
        "energy_head": FINAL,
    }
    | {
        "skip_co": "concat_atom",
        "second_layer_MLP": True,
        "tag_hidden_channels": 0,
        "pg_hidden_channels": 5,
    }
    | {"phys_hidden_channels": 6}
    | decoder("res", 16, "layer"),
    "updown_local_env": {
        "mp_type": "updown_local_env",
        "graph_norm": True,
        "complex_mp": False,
        "phys_embeds": False,
    }
    | {
        "energy_head": None,
        "skip_co": False,
        "second_layer_MLP": False,
        "tag_hidden_channels": 4,
        "pg_hidden_channels": 4,
    }
    | decoder("mlp", 16, None),
    "updown_local_env_complex": {
        "mp_type": "updown_local_env",
        "graph_norm": False,
        "complex_mp": True,
        "phys_embeds": True,
    }
    | {
        "energy_head": INITIAL,
        "skip_co": "concat",
        "second_layer_MLP": False,
        "tag_hidden_channels": 4,
        "pg_hidden_channels": 4,
    },
}


def stand_in() -> None:
    """Put `torch_scatter` and `mendeleev.fetch` in place."""

    def scatter(src: Tensor, index: Tensor, dim: int, reduce: str) -> Tensor:
        if (dim, reduce) != (0, "add"):
            raise NotImplementedError(f"scatter along {dim} with {reduce}")
        return src.new_zeros((int(index.max()) + 1, *src.shape[1:])).index_add(0, index, src)

    database = Path(importlib.util.find_spec("mendeleev").origin).with_name("elements.db")

    def fetch_table(name: str) -> pd.DataFrame:
        with sqlite3.connect(database) as connection:
            return pd.read_sql_query(f"select * from {name}", connection)

    def fetch_ionization_energies(degree: list[int]) -> pd.DataFrame:
        table = fetch_table("ionizationenergies").pivot(
            index="atomic_number", columns="degree", values="energy"
        )
        return table[degree].rename(columns={d: f"IE{d}" for d in degree})

    for name, contents in {
        "torch_scatter": {"scatter": scatter},
        "mendeleev": {},
        "mendeleev.fetch": {
            "fetch_table": fetch_table,
            "fetch_ionization_energies": fetch_ionization_energies,
        },
    }.items():
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module


def structures() -> dict[str, dict[str, Tensor]]:
    """A slab with an adsorbate, a molecule and a bulk, and the first two together."""
    slab = fcc111("Pt", (2, 2, 2), vacuum=8.0)
    slab.set_tags([0] * 4 + [1] * 4)
    slab.symbols[5] = "Cu"
    add_adsorbate(slab, molecule("CO"), 2.0, "ontop")
    slab.set_tags([*slab.get_tags()[:8], 2, 2])
    alcohol = molecule("CH3OH")
    alcohol.set_tags(2)
    salt = bulk("MgO", "rocksalt", 4.21, cubic=True)
    salt.set_tags(1)
    for seed, atoms in enumerate((slab, alcohol, salt)):
        atoms.rattle(0.1, seed=seed)
    single = {
        name: graph(atoms)
        for name, atoms in {"adslab": slab, "molecule": alcohol, "bulk": salt}.items()
    }
    first, second = single["adslab"], single["molecule"]
    shifted = second | {
        "edge_index": second["edge_index"] + len(slab),
        "batch": second["batch"] + 1,
    }
    both = {
        key: torch.cat([first[key], shifted[key]], dim=1 if key == "edge_index" else 0)
        for key in first
    }
    return single | {"both": both}


def graph(atoms: Atoms) -> dict[str, Tensor]:
    """Edges as in OC20: row 0 is the neighbor, row 1 the center, and vectors point from center to
    neighbor.
    """
    center, neighbor, vectors = neighbor_list("ijD", atoms, CUTOFF)
    return {
        "numbers": torch.from_numpy(atoms.numbers.astype(np.int64)),
        "tags": torch.from_numpy(atoms.get_tags().astype(np.int64)),
        "batch": torch.zeros(len(atoms), dtype=torch.long),
        "edge_index": torch.from_numpy(np.stack([neighbor, center])),
        "rel_pos": torch.from_numpy(vectors),
    }


def randomize(model: nn.Module, seed: int) -> None:
    """Random weights, biases and statistics; float32 values, so that they are stored exactly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("phys_emb.properties"):
                continue
            scale = 0.3 if weight.dim() < 2 else weight.shape[1] ** -0.5
            shift = 1.0 if "norm" in name and not name.endswith("bias") else 0.0
            weight.copy_(shift + scale * torch.randn(weight.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)


def predict(model: nn.Module, graph: dict[str, Tensor]) -> dict[str, Tensor]:
    """Energies, direct forces where there are any, and minus the gradient of the energies."""
    rel_pos = graph["rel_pos"].clone().requires_grad_()
    data = SimpleNamespace(**graph | {"rel_pos": rel_pos})
    output = model(data, mode="eval")
    (gradient,) = torch.autograd.grad(output["energy"].sum(), rel_pos)
    neighbor, center = graph["edge_index"]
    forces = torch.zeros((len(graph["numbers"]), 3), dtype=torch.double)
    forces = forces.index_add(0, center, gradient).index_add(0, neighbor, -gradient)
    found = {"energy": output["energy"].flatten(), "gradient_forces": forces}
    if "forces" in output:
        found["forces"] = output["forces"]
    return {name: value.detach() for name, value in found.items()}


def main() -> None:
    """Write the record."""
    stand_in()
    from faenet import FAENet

    def preprocess(
        data: SimpleNamespace, cutoff: float, max_num_neighbors: int
    ) -> tuple[Tensor, ...]:
        return data.numbers, data.batch, data.edge_index, data.rel_pos, data.rel_pos.norm(dim=-1)

    record: dict[str, np.ndarray] = {}
    graphs = structures()
    for name, graph in graphs.items():
        record |= {f"input/{name}/{key}": value.numpy() for key, value in graph.items()}
    for seed, (name, settings) in enumerate(CONFIGS.items()):
        settings = COMMON | settings
        model = FAENet(preprocess=preprocess, **settings)
        randomize(model, seed)
        record[f"settings/{name}"] = np.array(json.dumps(settings))
        record |= {
            f"state/{name}/{key}": value.clone().numpy()
            for key, value in model.state_dict().items()
        }
        model = model.double().eval()
        for structure, graph in graphs.items():
            outputs = predict(model, graph)
            record |= {
                f"output/{name}/{structure}/{key}": value.numpy() for key, value in outputs.items()
            }
    np.savez_compressed(OUTPUT, **record)


if __name__ == "__main__":
    main()
