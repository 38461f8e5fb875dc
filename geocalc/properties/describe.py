"""A first README for the folder of a model of properties."""

from __future__ import annotations

from collections.abc import Mapping

from geocalc.properties.base import PropertyLevel
from geocalc.properties.card import PropertyCard

TOGETHER = "the networks together, on what all of them held out"
SINGLE = "single networks, each on what it held out: means over the networks"
ROWS = {PropertyLevel.NODE: "nodes", PropertyLevel.GRAPH: "graphs"}


def property_model_page(
    card: PropertyCard, errors: Mapping[str, float], of: str | None = None
) -> str:
    """What the card says, in words and one table.

    Args:
        card: of the model.
        errors: see `PropertyErrors`, and correlations of each target by number.
        of: whose errors they are, where there are several networks.
    """
    how = (
        f"{card.architecture}, the mean of {card.members} networks"
        if card.members > 1
        else card.architecture
    )
    lines = [
        f"# {card.name}",
        "",
        f"{how}; predicts the {card.target} ({card.unit}) of each {card.task.value}.",
        f"Domain: {card.domain}.",
        "",
        "## Errors on what was held out",
        "",
        *([f"Of {of}.", ""] if of else []),
        *(
            ["Means over the targets, but for correlations that name one.", ""]
            if card.n_targets > 1
            else []
        ),
        "| measure | meaning | value |",
        "|---|---|---|",
        *(
            f"| {name} | {_meaning(name, card)} | {_number(name, value)} |"
            for name, value in errors.items()
        ),
        "",
        "## Data",
        "",
        *(f"- {entry}" for entry in card.data),
        "",
        "## Limits",
        "",
        *(f"- {entry}" for entry in card.limits),
        "",
    ]
    return "\n".join(lines)


def _meaning(name: str, card: PropertyCard) -> str:
    rows = ROWS[card.task]
    meanings = {
        "n": f"{rows} that were held out and count",
        "mae": f"mean absolute error ({card.unit})",
        "rmse": f"root of the mean squared error ({card.unit})",
        "r2": "share of the variance that is explained",
        "pearson": f"Pearson's correlation over all {rows} together",
        "pearson_each": "Pearson's correlation within each structure, mean over structures",
    }
    return (
        meanings.get(name)
        or f"the same as pearson, of target {name.removeprefix('pearson_')} alone"
    )


def _number(name: str, value: float) -> str:
    return f"{value:,.0f}" if name == "n" else f"{value:.4g}"
