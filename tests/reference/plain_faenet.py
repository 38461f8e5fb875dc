"""FAENet written plainly: one Linear per block on concat(edge, h_i, h_j), `index_add`, autograd and
nothing else.

It takes the settings and the weights of `geocalc.architectures.FAENet`, and is both the numerical
oracle of its tests and the baseline of speed measurements.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from geocalc.architectures import FAENetSettings
from geocalc.architectures.base import NetworkInput, NetworkOutput
from geocalc.core import elements

JOINED = ("edge", "center", "neighbor")  # column blocks of the Linear on concat(edge, h_i, h_j)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class PlainFAENet(nn.Module):
    """FAENet without tricks.

    Args:
        settings: of the network to imitate.
        state: its `state_dict()`; weights are copied.
    """

    def __init__(self, settings: FAENetSettings, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.settings, self.cutoff, self.max_neighbors = (
            settings,
            settings.cutoff,
            settings.max_neighbors,
        )
        weights = {
            name: value.detach().clone()
            for name, value in state.items()
            if not name.endswith(STATISTICS)
        }
        self.statistics = {
            name: value.clone() for name, value in state.items() if name.endswith(STATISTICS)
        }
        self.columns: dict[str, list[int]] = {}
        for block in (f"blocks.{k}" for k in range(settings.num_interactions)):
            if f"{block}.center.weight" in weights:
                parts = [weights.pop(f"{block}.{part}.weight") for part in JOINED]
                self.columns[block] = [part.shape[1] for part in parts]
                weights[f"{block}.joined.weight"] = torch.cat(parts, dim=1)
                weights[f"{block}.joined.bias"] = weights.pop(f"{block}.edge.bias")
        self.weights = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(value) for name, value in weights.items()}
        )

    def gradients(self) -> dict[str, Tensor | None]:
        """Gradients by the parameter names of `geocalc.architectures.FAENet`."""
        found = {name.replace("/", "."): weight.grad for name, weight in self.weights.items()}
        for block, widths in self.columns.items():
            joined = found.pop(f"{block}.joined.weight")
            found[f"{block}.edge.bias"] = found.pop(f"{block}.joined.bias")
            pieces = [None] * len(JOINED) if joined is None else joined.split(widths, dim=1)
            found.update(
                {
                    f"{block}.{part}.weight": piece
                    for part, piece in zip(JOINED, pieces, strict=True)
                }
            )
        return found

    def forward(self, inputs: NetworkInput) -> NetworkOutput:
        """Energies and, with a direct head, forces; as `geocalc.architectures.FAENet`."""
        s = self.settings
        edge, envelope = self._edges(inputs.edge_vec)
        hidden = self._atoms(inputs)
        layers = [hidden]
        for k in range(s.num_interactions):
            hidden = hidden + self._block(f"blocks.{k}", hidden, edge, envelope, inputs)
            layers.append(hidden)
        if s.skip_co == "concat_atom":
            hidden = functional.silu(self._linear("join", torch.cat(layers, dim=1)))
        if s.skip_co in ("none", "concat_atom"):
            energy = self._energy(hidden, layers[0], inputs)
        else:
            energies = [self._energy(layer, layers[0], inputs) for layer in layers]
            energy = (
                sum(energies)
                if s.skip_co == "add"
                else self._linear("mix", torch.stack(energies, dim=1))[:, 0]
            )
        return NetworkOutput(
            energy=energy, forces=self._forces(hidden) if s.direct_forces else None
        )

    def _weight(self, name: str) -> Tensor | None:
        return self.weights.get(name.replace(".", "/"), None)

    def _linear(self, name: str, values: Tensor) -> Tensor:
        return functional.linear(
            values, self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        )

    def _edges(self, edge_vec: Tensor) -> tuple[Tensor, Tensor]:
        s = self.settings
        length = edge_vec.norm(dim=1, keepdim=True)
        vector = edge_vec
        if s.directional_gaussians:
            bumps = _gaussians(length, s.directional_gaussians, s.cutoff)
            pieces = [
                edge_vec / length * bumps[:, k : k + 1] for k in range(s.directional_gaussians)
            ]
            vector = torch.cat([vector, torch.stack(pieces, dim=2).flatten(1)], dim=1)
        radial = self._linear("edge_length", _gaussians(length, s.num_gaussians, s.cutoff))
        edge = functional.silu(torch.cat([self._linear("edge_vector", vector), radial], dim=1))
        if s.second_layer_MLP:
            edge = functional.silu(self._linear("edge_second", edge))
        x = length / s.cutoff
        smooth = torch.where(x < 1, 1 - 21 * x**5 + 35 * x**6 - 15 * x**7, 0)
        return edge, smooth if s.smooth_cutoff else torch.ones_like(length)

    def _atoms(self, inputs: NetworkInput) -> Tensor:
        s, numbers = self.settings, inputs.numbers
        parts = [self._weight("embedding.element.weight")[numbers]]
        if s.tag_hidden_channels:
            parts.append(self._weight("embedding.tag.weight")[inputs.tags])
        if s.phys_embeds and s.phys_hidden_channels:
            parts.append(
                self._linear("embedding.project", self._weight("embedding.properties")[numbers])
            )
        elif s.phys_embeds:
            parts.append(
                torch.from_numpy(elements.element_properties()).float().to(parts[0])[numbers]
            )
        if s.pg_hidden_channels:
            first = 1 if s.compact_tables else 0
            parts.append(
                self._weight("embedding.period.weight")[
                    torch.from_numpy(elements.periods()).to(numbers)[numbers] - first
                ]
            )
            parts.append(
                self._weight("embedding.group.weight")[
                    torch.from_numpy(elements.groups()).to(numbers)[numbers] - first
                ]
            )
        hidden = functional.silu(self._linear("embedding.linear", torch.cat(parts, dim=1)))
        return (
            functional.silu(self._linear("embedding.second", hidden))
            if s.second_layer_MLP
            else hidden
        )

    def _block(
        self, name: str, hidden: Tensor, edge: Tensor, envelope: Tensor, inputs: NetworkInput
    ) -> Tensor:
        s, kind = self.settings, self.settings.mp_type
        senders, receivers = inputs.index.senders, inputs.index.receivers
        if s.norm == "layer":
            weight, bias = (
                self._weight(f"{name}.layer_norm.weight"),
                self._weight(f"{name}.layer_norm.bias"),
            )
            hidden = functional.layer_norm(hidden, hidden.shape[1:], weight, bias)
        value = (
            hidden
            if kind in ("simple", "base")
            else functional.silu(self._linear(f"{name}.down", hidden))
        )
        if kind in ("base", "updownscale_base"):
            joined = torch.cat([edge, hidden[receivers], hidden[senders]], dim=1)
            filters = functional.silu(self._linear(f"{name}.joined", joined))
        elif kind == "updownscale":
            filters = functional.silu(self._linear(f"{name}.edge", edge))
        else:
            filters = edge if kind == "simple" else self._linear(f"{name}.edge", edge)
        nothing = torch.zeros_like(value)
        update = s.message_scale * nothing.index_add(
            0, receivers, envelope * filters * value[senders]
        )
        if s.norm in ("graph", "legacy_graph"):
            update = functional.silu(self._graph_norm(f"{name}.graph_norm", update, inputs))
        if kind == "updown_local_env":
            around = s.message_scale * nothing.index_add(0, receivers, envelope * edge)
            update = self._linear(f"{name}.up", torch.cat([update, around], dim=1))
        else:
            update = functional.silu(self._linear(f"{name}.up", update))
        return functional.silu(self._linear(f"{name}.last", update)) if s.complex_mp else update

    def _graph_norm(self, name: str, values: Tensor, inputs: NetworkInput) -> Tensor:
        whole = self.settings.norm == "legacy_graph"
        parts = (
            [values] if whole else [values[inputs.system_idx == k] for k in range(inputs.n_systems)]
        )
        scaled = []
        for part in parts:
            part = part - self._weight(f"{name}.mean_scale") * part.mean(0)
            scaled.append(part / ((part**2).mean(0) + 1e-5).sqrt())
        return self._weight(f"{name}.weight") * torch.cat(scaled) + self._weight(f"{name}.bias")

    def _energy(self, hidden: Tensor, first: Tensor, inputs: NetworkInput) -> Tensor:
        per_atom = self._linear(
            "energy.last", functional.silu(self._linear("energy.first", hidden))
        )
        if self.settings.energy_head != "none":
            initial = self.settings.energy_head == "weighted-av-initial-embeds"
            per_atom = per_atom * self._linear("alpha", first if initial else hidden)
        return torch.zeros_like(per_atom[: inputs.n_systems, 0]).index_add(
            0, inputs.system_idx, per_atom[:, 0]
        )

    def _forces(self, hidden: Tensor) -> Tensor:
        depth = {"res": 2, "res_updown": 3}.get(self.settings.force_decoder_type, 0)
        inner = hidden
        for k in range(depth):
            inner = self._dense(f"force_head.residual.0.{k}", inner)
        if depth:
            hidden = hidden + inner
        return self._linear("force_head.last", self._dense("force_head.dense", hidden))

    def _dense(self, name: str, values: Tensor) -> Tensor:
        values = self._linear(f"{name}.linear", values)
        weight, bias = self._weight(f"{name}.norm.weight"), self._weight(f"{name}.norm.bias")
        mean, variance = (self.statistics.get(f"{name}.norm.{kind}") for kind in STATISTICS[:2])
        if mean is not None:
            values = functional.batch_norm(
                values, mean, variance, weight, bias, training=self.training
            )
        elif weight is not None:
            values = functional.layer_norm(values, values.shape[1:], weight, bias)
        return functional.silu(values)


def _gaussians(length: Tensor, count: int, cutoff: float) -> Tensor:
    centers = torch.linspace(0.0, cutoff, count, device=length.device).to(length)
    return torch.exp(-0.5 * ((length - centers) / (cutoff / (count - 1))) ** 2)
