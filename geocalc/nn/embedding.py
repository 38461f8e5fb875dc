"""Embedding of atoms: element, tag, period, group and physical properties, and the level of theory
that is asked for.

Source: Duval et al., PhAST (2022), with tables long enough for every element.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geocalc.core import elements
from geocalc.errors import InputError
from geocalc.nn.activation import swish

N_TAGS = 3


class AtomEmbedding(nn.Module):
    """Concatenation of embeddings, then a Linear layer and an activation.

    Args:
        width: size of the result; the element table takes what the other parts leave.
        tag_width, period_group_width: sizes of the tag table and of each of the period and group
            tables; 0 leaves one out.
        properties: append the 14 standardised physical properties.
        property_width: project the properties (then trainable) to this size; 0 appends them as they
            are.
        second_layer: a second Linear layer and activation.
        n_elements: rows of the element table, so atomic numbers up to `n_elements - 1`.
        n_levels: levels of theory; with more than one each shifts what enters the first Linear
            layer's activation.
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
                f" properties ({n_properties}); make it larger"
            )
        self.element = nn.Embedding(n_elements, element_width)
        # elements rare in training then rest on period, group and properties
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
            nn.init.zeros_(self.level.weight)  # levels begin as one

    def forward(self, numbers: Tensor, tags: Tensor, levels: Tensor) -> Tensor:
        """Atomic numbers, tags and levels (n_atoms,) to features (n_atoms, width)."""
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
