"""What `geocalc models` prints."""

from __future__ import annotations

from geocalc.errors import ModelFileError
from geocalc.registry import find_model, list_models, read_card


def table_text() -> str:
    """A line per installed model: name, task, kind of energy, domain, folder."""
    rows, found = [], sorted(list_models().items())
    width = max([len("model"), *(len(name) for name, _ in found)])
    for name, places in found:
        try:
            card = read_card(places[0])
        except ModelFileError as error:  # one damaged model does not hide the others
            rows.append(f"{name:<{width}} (!) {error}")
            continue
        twice = f"  (!) found twice: {' and '.join(str(place) for place in places)}" if len(places) > 1 else ""
        rows.append(f"{name:<{width}} {card.task.value:<6} {card.energy_kind.value:<11} {card.domain}{twice}")
    if not rows:
        return "no models are installed; train one with `geocalc train` and register it"
    return "\n".join([f"{'model':<{width}} {'task':<6} {'energy':<11} domain", *rows])


def card_text(name: str) -> str:
    """The card of one model: its README, then where it lies."""
    folder = find_model(name)
    card = read_card(folder)
    readme = folder / "README.md"
    text = readme.read_text().rstrip() if readme.is_file() else f"# {card.name}\n\n{card.domain}\n{card.references}"
    return f"{text}\n\nFolder: {folder}\nWeights SHA-256: {card.weights_sha256}"
