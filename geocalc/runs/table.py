"""The table of a run on a terminal: a line for each structure, and the totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from geocalc.potentials.domain import Light
from geocalc.runs.records import Record, SecondOpinion

ROWS = 40  # structures that are listed at most
WIDTH = 80  # columns where the width of the terminal is not known
NAME, FORMULA = 16, 14  # columns: at least for a name, at most for a formula
NOTHING = "-"
BAR = " ± 0.00"  # follows an energy that has an error bar


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column of the table: a head and a cell for each structure; text is cut to fit, numbers are
    not.
    """

    head: str
    cells: tuple[str, ...]
    text: bool = False

    @property
    def width(self) -> int:
        return max(map(len, (self.head, *self.cells)))

    def lines(self, width: int) -> list[str]:
        """The head and the cells, padded to one width."""
        if self.text:
            return [_short(cell, width).ljust(width) for cell in (self.head, *self.cells)]
        return [cell.rjust(width) for cell in (self.head, *self.cells)]


def format_table(records: Sequence[Record], width: int = WIDTH) -> str:
    """Format the records of a run for the terminal; of a long run only structures that did not
    converge, and always the totals.

    Args:
        records: of a run.
        width: columns of the terminal; names of structures are cut to fit.
    """
    shown = (
        records if len(records) <= ROWS else [r for r in records if not r.converged or _marks(r)]
    )
    head, *rows = _rows(shown[:ROWS], width)
    lines = [head]
    for record, row in zip(shown, rows, strict=False):
        lines.append((row + "  " + ", ".join(_marks(record))).rstrip())
        if record.error is not None:
            lines.append(f"  {record.error}")
    if len(shown) > ROWS:
        lines.append(f"... and {len(shown) - ROWS} more; all are in results.jsonl")
    counts = Counter(record.status for record in records)
    told = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    calls, seconds = sum(r.n_evaluations for r in records), sum(r.wall_s for r in records)
    lines.append(
        f"{len(records)} structures: {told or 'none'}; {calls} model calls, {seconds:.1f} s"
    )
    return "\n".join([*lines, *_outside(records), *_opinions(records)])


def _marks(record: Record) -> list[str]:
    """The words that follow the row of a structure."""
    if record.domain in (None, Light.GREEN):
        return list(record.anomalies)
    return [*record.anomalies, f"{record.domain}: {record.domain_reason}"]


def _outside(records: Sequence[Record]) -> list[str]:
    """Say how many structures lie outside the domain of the model; no line where none does."""
    lights = Counter(r.domain for r in records)
    told = []
    if lights[Light.RED]:
        told.append(
            f"{lights[Light.RED]} red: outside what {records[0].model} has learned; these energies"
            " may have any error"
        )
    if lights[Light.AMBER]:
        told.append(f"{lights[Light.AMBER]} amber: near the edge of what it has learned")
    return told


def _rows(records: Sequence[Record], width: int) -> list[str]:
    """Format the head of the table and a row for each record, without anomalies and errors."""
    bars = any(r.energy_error_68 is not None for r in records)
    numbers = [
        _Column(head="status", cells=tuple(r.status for r in records), text=True),
        _Column(head="steps", cells=tuple(str(r.n_steps) for r in records)),
        _Column(
            head="fmax eV/Å",
            cells=tuple(NOTHING if r.fmax is None else f"{r.fmax:.4f}" for r in records),
        ),
        _Column(
            head="energy eV",
            cells=tuple(_energy(r.energy, r.energy_error_68, bars) for r in records),
        ),
    ]
    if any(r.property for r in records):
        numbers += _property(records)
    if any(r.second_opinion for r in records):
        numbers.append(_Column(head="direct eV", cells=_direct(records)))
    numbers = [column for column in numbers if set(column.cells) != {NOTHING}]
    name = _Column(head="structure", cells=tuple(r.sid for r in records), text=True)
    formula = _Column(head="formula", cells=tuple(r.formula or NOTHING for r in records), text=True)
    room = width - sum(2 + column.width for column in numbers)
    wide = min(formula.width, FORMULA)
    parts = [name.lines(min(name.width, max(room, NAME)))]
    if room - 2 - wide >= min(name.width, NAME):
        parts = [name.lines(min(name.width, room - 2 - wide)), formula.lines(wide)]
    parts += [column.lines(column.width) for column in numbers]
    return ["  ".join(line) for line in zip(*parts, strict=True)]


def _property(records: Sequence[Record]) -> list[_Column]:
    """Mean and standard deviation of a property, over particles and targets."""
    found = [r.property for r in records]
    name = next(f"{one.name} {one.unit}" for one in found if one is not None)
    return [
        _Column(head=name, cells=tuple(NOTHING if p is None else _mean(p.mean) for p in found)),
        _Column(head="std", cells=tuple(NOTHING if p is None else _mean(p.std) for p in found)),
    ]


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.4f}" if known else NOTHING


def _direct(records: Sequence[Record]) -> tuple[str, ...]:
    """The energies of second opinions."""
    opinions = [r.second_opinion for r in records]
    bars = any(o is not None and o.energy_error_68 is not None for o in opinions)
    return tuple(
        NOTHING if o is None else _energy(o.energy, o.energy_error_68, bars) for o in opinions
    )


def _energy(energy: float | None, error: float | None, bars: bool) -> str:
    """Format an energy (eV) with half its 68 % interval where it has one.

    Args:
        energy: eV, None where it is not known.
        error: eV, half the interval.
        bars: whether other energies of the column have intervals.
    """
    if energy is None:
        return NOTHING
    if not bars:
        return f"{energy:.4f}"
    if error is None:
        return f"{energy:.3f}{' ' * len(BAR)}"
    return f"{energy:.3f} ± {error:.2f}"


def _opinions(records: Sequence[Record]) -> list[str]:
    """Summarize the second opinions of a run in a line; no line where there are none."""
    found = [(r.sid, r.second_opinion) for r in records if r.second_opinion is not None]
    if not found:
        return []
    told = [_differences(found)] if any(o.difference is not None for _, o in found) else []
    notes = Counter(o.note for _, o in found if o.note is not None)
    told += [
        note if n == len(found) else f"{n} of {len(found)}: {note}"
        for note, n in notes.most_common(2)
    ]
    told += [f"and {len(notes) - 2} other notes"] if len(notes) > 2 else []
    return [f"second opinion of {found[0][1].model}: " + "; ".join(told)]


def _differences(found: Sequence[tuple[str, SecondOpinion]]) -> str:
    """Summarize the differences of second opinions from relaxed energies."""
    sizes = [
        (abs(opinion.difference), sid) for sid, opinion in found if opinion.difference is not None
    ]
    largest, sid = max(sizes)
    return (
        f"it differs by {sum(size for size, _ in sizes) / len(sizes):.3f} eV on average, at most by"
        f" {largest:.3f} eV ({sid})"
    )


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
