"""The card of a model of properties."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from geocalc.potentials.card import Card, Task
from geocalc.properties.recipe import GlassGraph, Property


class PropertyCard(Card, Property):
    """The card of a model of properties; mean and spread of the property are among its weights.

    Attributes:
        task: node for a property of particles, graph for one of molecules.
        n_targets: numbers for each node or graph, as many as there are times.
        graph: how a configuration of a glass becomes a graph; None for molecules, whose bonds are
            given.
        counted: types of particles that the property was trained for.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({Task.NODE, Task.GRAPH})

    task: Literal[Task.NODE, Task.GRAPH]
    n_targets: int = Field(ge=1)
    graph: GlassGraph | None = None
    counted: tuple[int, ...] = ()

    @property
    def predicts(self) -> str:
        """The name of the property."""
        return self.target
