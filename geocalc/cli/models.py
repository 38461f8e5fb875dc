"""`geocalc models`: the table of installed models, and the card of one."""

from __future__ import annotations

from geocalc.errors import ModelFileError
from geocalc.potentials.registry import find_model, list_models
from geocalc.tasks import read_any_card


def table_text() -> str:
    """Write a line per installed model: name, task, kind of energy or property, domain."""
    found = sorted(list_models().items())
    rows: list[tuple[str, ...]] = [("model", "task", "predicts", "domain")]
    for name, places in found:
        try:
            card = read_any_card(places[0])
        except ModelFileError as error:  # one damaged model does not hide the others
            rows.append((name, f"(!) {error}"))
            continue
        twice = (
            f"  (!) found twice: {' and '.join(str(place) for place in places)}"
            if len(places) > 1
            else ""
        )
        rows.append((name, card.task.value, card.predicts, card.domain + twice))
    if not found:
        return "no models are installed; train one with `geocalc train` and register it"
    whole = [row for row in rows if len(row) == 4]
    widths = [
        max(len(row[0]) for row in rows),
        *(max(len(row[k]) for row in whole) for k in (1, 2)),
    ]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    """Align the cells of a row, all but the last."""
    cells = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=False)]
    return " ".join([*cells, row[-1]])


def card_text(name: str) -> str:
    """Write the card of one model: its README, then its folder."""
    folder = find_model(name)
    card = read_any_card(folder)
    readme = folder / "README.md"
    text = readme.read_text().rstrip() if readme.is_file() else f"# {card.name}\n\n{card.domain}"
    return f"{text}\n\nFolder: {folder}\nWeights SHA-256: {card.weights_sha256}"
