"""Store finished training runs as files of numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from broken import ThetaPart

T = TypeVar("T", "Fit", "FieldFit")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A network that has learned to break a symmetry, or could not.

    Attributes:
        name: of the task.
        network: relaxed or equivariant.
        seed: of its weights.
        group: that the task leaves of the symmetry of the input.
        recovered: that the relaxed weights leave of it.
        target: mean square of what is to be learned.
        floor: mean squared error of the best equivariant answer.
        loss, losses: mean squared error at the end and at every evaluation.
        seconds: of training.
        parts: the relaxed weights.
    """

    name: str
    network: str
    seed: int
    group: str
    recovered: str
    target: float
    floor: float
    loss: float
    losses: tuple[float, ...]
    seconds: float
    parts: tuple[ThetaPart, ...]

    @property
    def key(self) -> str:
        """Its name among all, which is that of its file."""
        return f"{self.name}-{self.network}-{self.seed}".replace(" ", "-")


@dataclass(frozen=True, kw_only=True)
class FieldFit:
    """A network that has learned the acceleration of a charged particle.

    Attributes:
        name: one layer, two layers, equivariant.
        fields: crossed along the axes, crossed or free.
        seed: of weights, fields and data.
        electric, magnetic: (3,) the fields.
        target: mean square of accelerations.
        loss: mean squared error on trajectories not seen.
        seconds: of training.
        parts: the relaxed weights.
    """

    name: str
    fields: str
    seed: int
    electric: tuple[float, ...]
    magnetic: tuple[float, ...]
    target: float
    loss: float
    seconds: float
    parts: tuple[ThetaPart, ...]

    @property
    def key(self) -> str:
        """Its name among all, which is that of its file."""
        return f"{self.name}-{self.fields}-{self.seed}".replace(" ", "-")


def kept(kind: type[T], path: Path, make: Callable[[], T]) -> T:
    """What an earlier run has left at `path`, or else what is made now and left there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(asdict(make())) + "\n")
        unfinished.replace(path)
    return load(kind, path)


def load(kind: type[T], path: Path) -> T:
    """Read a finished training."""
    values = json.loads(path.read_text())
    parts = tuple(
        ThetaPart(**part | {"values": tuple(part["values"])}) for part in values.pop("parts")
    )
    plain = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return kind(**plain, parts=parts)
