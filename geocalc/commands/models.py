"""What `geocalc models` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geocalc.card import PROPERTY, ModelCard
from geocalc.errors import ModelFileError
from geocalc.registry import card_values, find_model, list_models, read_card

if TYPE_CHECKING:
    from geocalc.properties.card import PropertyCard


def table_text() -> str:
    """A line per installed model: name, task, kind of energy or property, domain."""
    rows, found = [], sorted(list_models().items())
    width = max([len("model"), *(len(name) for name, _ in found)])
    for name, places in found:
        try:
            card = _card(places[0])
        except ModelFileError as error:  # one damaged model does not hide the others
            rows.append(f"{name:<{width}} (!) {error}")
            continue
        twice = f"  (!) found twice: {' and '.join(str(place) for place in places)}" if len(places) > 1 else ""
        told = card.energy_kind.value if isinstance(card, ModelCard) else card.target
        rows.append(f"{name:<{width}} {card.task.value:<6} {told:<11} {card.domain}{twice}")
    if not rows:
        return "no models are installed; train one with `geocalc train` and register it"
    return "\n".join([f"{'model':<{width}} {'task':<6} {'predicts':<11} domain", *rows])


def card_text(name: str) -> str:
    """The card of one model: its README, then where it lies."""
    folder = find_model(name)
    card = _card(folder)
    readme = folder / "README.md"
    text = readme.read_text().rstrip() if readme.is_file() else f"# {card.name}\n\n{card.domain}"
    return f"{text}\n\nFolder: {folder}\nWeights SHA-256: {card.weights_sha256}"


def _card(folder: Path) -> ModelCard | PropertyCard:
    """The card of a model of either kind."""
    if card_values(folder).get("kind") != PROPERTY:
        return read_card(folder)
    from geocalc.properties.registry import read_property_card

    return read_property_card(folder)
