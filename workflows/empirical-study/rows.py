"""Build the recipes of the rows of tables.yaml: a base recipe and the changes of each row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairs import FIRST, LAST

from geocalc.core import override, read_yaml
from geocalc.train import Recipe, parse_recipe

HERE = Path(__file__).parent
PAIRS = "pairs.yaml"  # the recipe whose data pairs.py writes


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
        table, name: where it stands, and its name in files.
        label: its name on the page.
        recipe: file that it starts from.
        changes: dotted keys of the recipe and their values.
        run: table and name of the row whose runs it shares, its own unless both recipes are one.
        poster: what the poster has for it, where that is known to us.
        also: what is measured beside errors and speed, `symmetry` or `mad`.
        frames: that it is measured with, None for those of its recipe.
    """

    table: str
    name: str
    label: str
    recipe: str
    changes: Mapping[str, Any]
    run: tuple[str, str]
    poster: str
    also: tuple[str, ...]
    frames: str | None

    @property
    def measured(self) -> str:
        """The file of its numbers in the folder of a run."""
        return "measured.json" if self.frames is None else f"measured-{self.frames}.json"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All rows, and the seeds that each is trained with."""

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]

    def chosen(self, tables: str | None, names: str | None) -> Iterator[Row]:
        """Rows of some tables and of some names, both with commas between them; None for all.

        Raises:
            SystemExit: there is no such table or row.
        """
        known = ({row.table for row in self.rows}, {row.name for row in self.rows})
        wanted = [None if text is None else set(text.split(",")) for text in (tables, names)]
        for some, there in zip(wanted, known, strict=True):
            if some is not None and some - there:
                raise SystemExit(
                    f"there is no {min(some - there)!r}; there are {', '.join(sorted(there))}"
                )
        for row in self.rows:
            if all(
                some is None or at in some
                for some, at in zip(wanted, (row.table, row.name), strict=True)
            ):
                yield row


def read_tables(path: Path = HERE / "tables.yaml", full: bool = False) -> Tables:
    """The tables of a file, at its full scale if asked for."""
    values = read_yaml(path)
    sizes = values["full"] if full else {}
    rows = [
        _row(table, name, values["tables"], sizes)
        for table, content in values["tables"].items()
        for name in content["rows"]
    ]
    return Tables(rows=tuple(rows), seeds=tuple(values["seeds"]))


def _row(
    table: str, name: str, tables: Mapping[str, Any], sizes: Mapping[str, Mapping[str, Any]]
) -> Row:
    """The row of that name; one that is the same as another has the recipe of that. `sizes` change
    recipes before rows do.
    """
    row = tables[table]["rows"][name]
    run_table, run_name = row.get("same_as", f"{table}/{name}").split("/")
    content, run = tables[run_table], tables[run_table]["rows"][run_name]
    recipe = run.get("recipe", content["recipe"])
    return Row(
        table=table,
        name=name,
        label=row["label"],
        recipe=recipe,
        changes=content.get("set", {}) | sizes.get(recipe, {}) | run.get("set", {}),
        run=(run_table, run_name),
        poster=row.get("poster", ""),
        also=tuple(content.get("also", ())),
        frames=row.get("frames"),
    )


def recipe_of(row: Row, seed: int, pairs: Path, more: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a row with a seed; `pairs` is the folder of `PAIRS`' data, `more` changes after
    those of the row, for another scale.
    """
    changes = {**row.changes, "training.seed": seed, **(more or {})}
    if row.recipe == PAIRS:
        changes |= {
            "data.sources.0.path": str(pairs / FIRST),
            "data.sources.0.relaxed": str(pairs / LAST),
        }
    assignments = tuple(f"{key}={json.dumps(value)}" for key, value in changes.items())
    name = "-".join(row.run)
    return parse_recipe(override(read_yaml(HERE / row.recipe), assignments) | {"name": name}, name)
