"""The card of a model of properties."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from geocalc.core.settings import Settings
from geocalc.potentials.card import CARD_SCHEMA, PROPERTY
from geocalc.properties.base import PropertyLevel
from geocalc.properties.recipe import GlassGraph


class PropertyCard(Settings):
    """`model.yaml` of a model of properties; mean and spread of the property are among its weights.

    Attributes:
        kind: tells it from the card of an energy model.
        task: what the property belongs to.
        target, unit: of the property.
        n_targets: numbers for each node or graph, as many as there are times.
        architecture, settings: of the network.
        members: networks whose mean is the answer.
        graph: how a configuration of a glass becomes a graph; None for molecules, whose bonds are
            given.
        counted: types of particles that the property was learned for.
        weights_sha256: of weights.safetensors.
    """

    schema_version: int = Field(CARD_SCHEMA, ge=1)
    kind: Literal["property"] = PROPERTY
    name: str
    task: PropertyLevel
    target: str
    unit: str
    n_targets: int = Field(ge=1)
    architecture: str
    settings: dict[str, Any]
    members: int = Field(1, ge=1)
    graph: GlassGraph | None = None
    counted: tuple[int, ...] = ()
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    license: str
    domain: str
    data: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
