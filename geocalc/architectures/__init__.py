"""Networks by name: one file each, one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from geocalc.architectures.base import Network
from geocalc.architectures.faenet import FAENet, FAENetSettings
from geocalc.architectures.regnn.network import RelaxedE3NN, RelaxedE3NNSettings
from geocalc.architectures.schnet import SchNet, SchNetSettings
from geocalc.core.settings import Settings


@dataclass(frozen=True)
class Architecture:
    """A network class and the settings it is built from."""

    settings: type[Settings]
    build: Callable[[Any], Network]


ARCHITECTURES: Mapping[str, Architecture] = {
    "faenet": Architecture(FAENetSettings, FAENet),
    "relaxed-e3nn": Architecture(RelaxedE3NNSettings, RelaxedE3NN),
    "schnet": Architecture(SchNetSettings, SchNet),
}

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "FAENet",
    "FAENetSettings",
    "RelaxedE3NN",
    "RelaxedE3NNSettings",
    "SchNet",
    "SchNetSettings",
]
