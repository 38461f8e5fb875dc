"""The work of `geocalc models`: a table of models, or one card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geocalc.errors import ModelFileError
from geocalc.potentials.card import ModelCard
from geocalc.potentials.registry import card_values, find_model, is_property, list_models, read_card

if TYPE_CHECKING:
    from geocalc.properties.card import PropertyCard


def table_text() -> str:
    """A line per installed model: name, task, kind of energy or property, domain."""
    found = sorted(list_models().items())
    rows: list[tuple[str, ...]] = [("model", "task", "predicts", "domain")]
    for name, places in found:
        try:
            card = _card(places[0])
        except ModelFileError as error:  # one damaged model does not hide the others
            rows.append((name, f"(!) {error}"))
            continue
        twice = (
            f"  (!) found twice: {' and '.join(str(place) for place in places)}"
            if len(places) > 1
            else ""
        )
        told = card.energy_kind.value if isinstance(card, ModelCard) else card.target
        rows.append((name, card.task.value, told, card.domain + twice))
    if not found:
        return "no models are installed; train one with `geocalc train` and register it"
    whole = [row for row in rows if len(row) == 4]
    widths = [
        max(len(row[0]) for row in rows),
        *(max(len(row[k]) for row in whole) for k in (1, 2)),
    ]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    """Cells below each other, all but the last of a row."""
    cells = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=False)]
    return " ".join([*cells, row[-1]])


def card_text(name: str) -> str:
    """The card of one model: its README, then where it lies."""
    folder = find_model(name)
    card = _card(folder)
    readme = folder / "README.md"
    text = readme.read_text().rstrip() if readme.is_file() else f"# {card.name}\n\n{card.domain}"
    return f"{text}\n\nFolder: {folder}\nWeights SHA-256: {card.weights_sha256}"


def _card(folder: Path) -> ModelCard | PropertyCard:
    """The card of a model of either kind."""
    if not is_property(card_values(folder)):
        return read_card(folder)
    from geocalc.properties.registry import read_property_card

    return read_property_card(folder)
