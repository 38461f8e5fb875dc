"""Network architectures by name; a new one is a file and a line in `ARCHITECTURES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from geocalc.architectures.base import Network
from geocalc.architectures.faenet import FAENet, FAENetSettings
from geocalc.architectures.regnn.network import REGNN, REGNNSettings
from geocalc.architectures.schnet import SchNet, SchNetSettings
from geocalc.core.settings import Settings


@dataclass(frozen=True)
class Architecture:
    """A network class and the settings it is built from."""

    settings: type[Settings]
    build: Callable[[Any], Network]


ARCHITECTURES: Mapping[str, Architecture] = {
    "faenet": Architecture(FAENetSettings, FAENet),
    "regnn": Architecture(REGNNSettings, REGNN),
    "schnet": Architecture(SchNetSettings, SchNet),
}
