"""Read published numbers from published.yaml."""

from __future__ import annotations

from pathlib import Path

from geocalc.core import Settings, read_yaml


class Published(Settings):
    """A published correlation.

    Attributes:
        name, short: of the method, in words and on a picture.
        learned: configurations behind it.
        pearson: of all particles together.
        judged_by: what it was measured on.
        source: where it is from.
    """

    name: str
    short: str
    learned: int
    pearson: float
    judged_by: str
    source: str


class _File(Settings):
    published: tuple[Published, ...]


def read_published(path: Path) -> tuple[Published, ...]:
    """All of a file, in its order."""
    return _File.parse(read_yaml(path), str(path)).published
