"""Property networks by name; a new one is a file and a line in `NETWORKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from geocalc.core.settings import Settings
from geocalc.properties.base import PropertyNetwork
from geocalc.properties.gcn import GCN, GCNSettings
from geocalc.properties.graph_network import GraphNetwork, GraphNetworkSettings
from geocalc.properties.moment_network import MomentNetwork, MomentNetworkSettings


@dataclass(frozen=True)
class PropertyArchitecture:
    """Network class with the class of its settings."""

    settings: type[Settings]
    build: Callable[[Any], PropertyNetwork]


NETWORKS: Mapping[str, PropertyArchitecture] = {
    "graph-network": PropertyArchitecture(GraphNetworkSettings, GraphNetwork),
    "gcn": PropertyArchitecture(GCNSettings, GCN),
    "moment-network": PropertyArchitecture(MomentNetworkSettings, MomentNetwork),
}
