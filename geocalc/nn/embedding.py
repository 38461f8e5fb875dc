"""Embedding of atoms by element, tag, period, group, physical properties and level of theory.

Source: Duval et al., PhAST (2022), with tables that cover every element.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geocalc.core import elements
from geocalc.errors import InputError
from geocalc.nn.activation import swish

N_TAGS = 3


class AtomEmbedding(nn.Module):
    """Concatenation of embeddings, followed by a linear layer and an activation.

    Args:
        width: number of output features; the element table has the width that the other parts
            leave.
        tag_width: width of the tag table; 0 omits it.
        period_group_width: width of the period table and of the group table; 0 omits them.
        properties: append the 14 standardized physical properties.
        property_width: width of a linear projection of the (then trainable) properties; 0 appends
            the properties themselves.
        second_layer: add a second linear layer and activation.
        n_elements: rows of the element table, for atomic numbers up to `n_elements - 1`.
        compact_tables: use period and group tables without rows for atomic number 0, as published.
        n_levels: number of levels of theory; with more than one, each adds a learned vector to the
            output of the first linear layer.
    Raises:
        InputError: no channel is left for the element table.
    """

    periods: Tensor
    groups: Tensor
    properties: Tensor | None

    def __init__(
        self,
        width: int,
        tag_width: int,
        period_group_width: int,
        properties: bool,
        property_width: int,
        second_layer: bool,
        n_elements: int,
        compact_tables: bool,
        n_levels: int = 1,
    ) -> None:
        super().__init__()
        table = torch.from_numpy(elements.element_properties()).float()[:n_elements]
        n_properties = (property_width or table.shape[1]) if properties else 0
        element_width = width - tag_width - 2 * period_group_width - n_properties
        if element_width < 1:
            raise InputError(
                f"hidden_channels={width} leaves {element_width} channels for the element table"
                f" after tags ({tag_width}), period and group (2 x {period_group_width}) and"
                f" properties ({n_properties}); increase hidden_channels"
            )
        self.element = nn.Embedding(n_elements, element_width)
        # initialized to zero, so the embedding of a rare element depends on period, group and
        # properties
        nn.init.zeros_(self.element.weight)
        self.tag = nn.Embedding(N_TAGS, tag_width) if tag_width else None
        # `compact_tables` has the published number of rows (periods 1..7, groups 1..18 and none),
        # stored from index 0
        self.offset = 1 if compact_tables else 0
        rows = (7, 19) if compact_tables else (8, 20)
        self.period = nn.Embedding(rows[0], period_group_width) if period_group_width else None
        self.group = nn.Embedding(rows[1], period_group_width) if period_group_width else None
        self.register_buffer("periods", torch.from_numpy(elements.periods()), persistent=False)
        self.register_buffer("groups", torch.from_numpy(elements.groups()), persistent=False)
        if properties and property_width:
            self.properties = nn.Parameter(table)
        else:
            self.register_buffer("properties", table if properties else None, persistent=False)
        self.project = (
            nn.Linear(table.shape[1], property_width) if properties and property_width else None
        )
        self.linear = nn.Linear(width, width)
        self.second = nn.Linear(width, width) if second_layer else None
        self.level = nn.Embedding(n_levels, width) if n_levels > 1 else None
        if self.level is not None:
            nn.init.zeros_(self.level.weight)  # all levels are equal at first

    def forward(self, numbers: Tensor, tags: Tensor, levels: Tensor) -> Tensor:
        """Embed atomic numbers, tags and levels, (n_atoms,) each, as features (n_atoms, width)."""
        parts = [self.element(numbers)]
        if self.tag is not None:
            parts.append(self.tag(tags))
        if self.properties is not None:
            known = self.properties[numbers]
            parts.append(known if self.project is None else self.project(known))
        if self.period is not None and self.group is not None:
            parts.append(self.period(self.periods[numbers] - self.offset))
            parts.append(self.group(self.groups[numbers] - self.offset))
        hidden = self.linear(torch.cat(parts, dim=1))
        hidden = swish(hidden if self.level is None else hidden + self.level(levels))
        return hidden if self.second is None else swish(self.second(hidden))

    def fold_level(self, number: int) -> None:
        """Keep one level of theory, whose vector becomes a part of the bias."""
        if self.level is not None:
            with torch.no_grad():
                self.linear.bias.add_(self.level.weight[number])
            self.level = None
