"""From the settings and weights of the published FAENet package to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from geocalc.architectures import FAENetSettings

SAME = [
    "cutoff",
    "num_gaussians",
    "hidden_channels",
    "num_filters",
    "num_interactions",
    "mp_type",
    "complex_mp",
    "phys_embeds",
    "second_layer_MLP",
    "tag_hidden_channels",
    "pg_hidden_channels",
    "phys_hidden_channels",
]
REFERENCE = {"n_elements": 85, "compact_tables": True, "smooth_cutoff": False}
# the package lists the radii of double and triple bonds before those of single bonds
PROPERTY_ORDER = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 9, 10, 12, 13]
LAYERS = {
    "embed_block.emb": "embedding.element",
    "embed_block.tag_embedding": "embedding.tag",
    "embed_block.period_embedding": "embedding.period",
    "embed_block.group_embedding": "embedding.group",
    "embed_block.phys_emb.properties": "embedding.properties",
    "embed_block.phys_lin": "embedding.project",
    "embed_block.lin": "embedding.linear",
    "embed_block.lin_2": "embedding.second",
    "embed_block.lin_e1": "edge_vector",
    "embed_block.lin_e12": "edge_length",
    "embed_block.lin_e2": "edge_second",
    "output_block.lin1": "energy.first",
    "output_block.lin2": "energy.last",
    "output_block.w_lin": "alpha",
    "w_lin": "alpha",
}
BLOCK = {
    "lin_geom": "edge",
    "lin_down": "down",
    "lin_up": "up",
    "lin_h": "up",
    "other_mlp": "last",
    "graph_norm": "graph_norm",
}
UNUSED = ("distance_expansion.offset", "embed_block.phys_emb.group", "embed_block.phys_emb.period")


def translate_settings(published: Mapping[str, Any], norm: str) -> FAENetSettings:
    """Our settings for those of the package.

    Args:
        published: keyword arguments of the package's class.
        norm: what its `graph_norm=True` stands for: "graph" (alone, the same) or "legacy_graph".
    """
    values = {key: published[key] for key in SAME if key in published} | REFERENCE
    values["norm"] = norm if published["graph_norm"] else "none"
    values["energy_head"] = published["energy_head"] or "none"
    values["skip_co"] = published["skip_co"] or "none"
    if published.get("regress_forces"):
        kind = published["force_decoder_type"]
        head = published["force_decoder_model_config"][kind]
        values |= {
            "direct_forces": True,
            "force_decoder_type": kind,
            "force_decoder_channels": head["hidden_channels"],
        }
        values["force_decoder_norm"] = head.get("norm", "batch1d") or "none"
    return FAENetSettings.model_validate(values)


def translate_state(state: Mapping[str, Tensor], settings: FAENetSettings) -> dict[str, Tensor]:
    """Our weights for those of the package; `embedding.properties` is among them also where it is a
    buffer.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in UNUSED:
            continue
        owner, _, kind = name.rpartition(".")
        if name == "embed_block.phys_emb.properties":
            found[LAYERS[name]] = value[: settings.n_elements, PROPERTY_ORDER]
        elif owner in ("embed_block.period_embedding", "embed_block.group_embedding"):
            # ours starts at period 1, theirs leaves row 0 unused
            found[f"{LAYERS[owner]}.{kind}"] = torch.roll(value, -1, 0)
        elif owner == "mlp_skip_co":
            found[f"{'mix' if settings.skip_co == 'concat' else 'join'}.{kind}"] = value
        elif owner.startswith("interaction_blocks."):
            found |= _block(owner, kind, value, settings)
        elif owner.startswith("decoder."):
            found[f"{_decoder(owner, settings.force_decoder_type)}.{kind}"] = value
        else:
            found[f"{LAYERS[owner]}.{kind}"] = value
    if settings.phys_embeds and not settings.phys_hidden_channels:
        start = settings.hidden_channels - 2 * settings.pg_hidden_channels - len(PROPERTY_ORDER)
        columns = torch.arange(settings.hidden_channels)
        columns[start : start + len(PROPERTY_ORDER)] = start + torch.tensor(PROPERTY_ORDER)
        found["embedding.linear.weight"] = found["embedding.linear.weight"][:, columns]
    elif settings.phys_embeds:
        found["embedding.project.weight"] = found["embedding.project.weight"][:, PROPERTY_ORDER]
    return found


def _block(owner: str, kind: str, value: Tensor, settings: FAENetSettings) -> dict[str, Tensor]:
    """One weight of an interaction block; Linear columns: edge, neighbor, center."""
    _, k, layer = owner.split(".")
    block = f"blocks.{k}"
    if (
        layer == "lin_geom"
        and kind == "weight"
        and settings.mp_type in ("base", "updownscale_base")
    ):
        widths = [settings.num_filters, settings.hidden_channels, settings.hidden_channels]
        parts = zip(("edge", "neighbor", "center"), value.split(widths, dim=1), strict=True)
        return {f"{block}.{part}.weight": columns for part, columns in parts}
    return {f"{block}.{BLOCK[layer]}.{kind}": value}


def _decoder(owner: str, kind: str) -> str:
    """Our name of a layer of the force head: the last stage is Linear, norm, activation, Linear;
    earlier ones are residual.
    """
    stage, layer = re.fullmatch(r"decoder\.(\w+)\.(\d)", owner).groups()
    stages = {"res": 3, "res_updown": 4}.get(kind, 1)
    number = 1 if stage == "model" else int(stage.removeprefix("mlp_"))
    if number < stages:
        return f"force_head.residual.0.{number - 1}." + ("linear", "norm")[int(layer)]
    if int(layer) == (2 if kind == "simple" else 3):
        return "force_head.last"
    return "force_head.dense." + ("linear", "norm")[int(layer)]
