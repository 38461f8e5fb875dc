"""Write the table of models in docs/models.md from the cards: models/*/model.yaml and metrics.json.

Usage: python workflows/model-card/table.py
A folder without weights is a recipe and no model yet; it is not listed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geocalc.potentials import CARD, WEIGHTS, ModelCard, Task, model_task, read_card
from geocalc.train import METRICS

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- models -->\n", "<!-- /models -->"
HEAD = (
    "| name | predicts | domain | force MAE (eV/Å) | relaxed energy MAE (eV) | one call, 65 atoms | size | license | |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
NOTHING = "–"
ATOMS = "65 atoms"


def table(models: Path = ROOT / "models") -> str:
    """The table of every model of energies in a folder, with its last newline."""
    whole = [
        card.parent
        for card in sorted(models.glob(f"*/{CARD}"))
        if (card.parent / WEIGHTS).is_file()
    ]
    folders = [folder for folder in whole if model_task(folder) in ModelCard.tasks]
    return "\n".join([HEAD, *(_row(folder) for folder in folders), ""])


def with_table(page: str, models: Path = ROOT / "models") -> str:
    """Return the text of docs/models.md with the table between its markers."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + table(models) + END + rest.split(END)[1]


def _row(folder: Path) -> str:
    card, measured = read_card(folder), json.loads((folder / METRICS).read_text())
    points = _first(measured.get("single_points") or measured.get("validation") or {})
    relaxed = points if card.task is Task.IS2RE else _first(measured.get("relaxations") or {})
    cells = (
        f"`{folder.name}`",
        predicts(card),
        card.domain,
        f"{points['force_mae']:.3f}" if "force_mae" in points else NOTHING,
        f"{relaxed['energy_mae']:.3f} (median {relaxed['energy_median']:.3f})"
        if relaxed
        else NOTHING,
        _time(card, measured.get("milliseconds") or {}),
        f"{(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB",
        card.license,
        f"[card](../models/{folder.name}/README.md)",
    )
    return f"| {' | '.join(cells)} |"


def predicts(card: ModelCard) -> str:
    """What a model gives, in words."""
    if card.task is Task.IS2RE:
        geometry = " and geometry" if card.settings.get("direct_forces") else ""
        return f"relaxed {card.energy_kind.value} energy{geometry} from the unrelaxed structure"
    bars = " with the spread of several networks" if card.members > 1 else ""
    return f"{card.energy_kind.value} energy{bars}, forces{', stress' if card.stress else ''}"


def _first(groups: dict[str, Any]) -> dict[str, float]:
    """Errors on the first source of the data, under the settings by default."""
    return next(iter(groups.values()), {})


def _time(card: ModelCard, milliseconds: dict[str, float]) -> str:
    """Of one call with the frames that the model uses by default."""
    measured = milliseconds.get(ATOMS if card.frames == "none" else f"{ATOMS}, {card.frames}")
    return NOTHING if measured is None else f"{measured:.0f} ms"


def main() -> None:
    """Renew the table."""
    page = ROOT / "docs" / "models.md"
    page.write_text(with_table(page.read_text()))


if __name__ == "__main__":
    main()
