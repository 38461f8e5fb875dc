"""Write results.json and the tables of README.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from published import Published
from scores import Ceiling, Row, Score, Tested

from geocalc.core import Settings, write_atomically

NOTHING = "–"


class Generated(Settings):
    """What is said of generated configurations, at each of `times`."""

    times: tuple[float, ...]
    row: Row
    tested: Tested | None
    ceilings: tuple[Ceiling, ...]


class Study(Settings):
    """All numbers.

    Attributes:
        rows: of the real configurations.
        fewer: of a baseline, by the number of configurations.
        tested: on the test configurations.
        ceilings: of configurations 9 and 10, of all ten and of the test.
        generated: of the other set, or None.
    """

    rows: tuple[Row, ...]
    fewer: tuple[Row, ...] = ()
    tested: tuple[Tested, ...] = ()
    ceilings: tuple[Ceiling, ...]
    generated: Generated | None = None


def write(study: Study, published: Sequence[Published], folder: Path) -> None:
    """results.json, and the tables between their marks in README.md of a folder."""
    write_atomically(folder / "results.json", [study.model_dump_json(indent=1) + "\n"])
    text = (folder / "README.md").read_text()
    text = _placed(text, "held out", held_out(study))
    text = _placed(text, "test", tested(study))
    text = _placed(text, "published", beside(published))
    if study.generated is not None:
        text = _placed(text, "times", at_times(study.generated))
    write_atomically(folder / "README.md", [text])


def _placed(text: str, mark: str, lines: Iterable[str]) -> str:
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}"


def held_out(study: Study) -> list[str]:
    """A line for each row, and the ceiling: correlations on what was held out of the ten
    configurations.
    """
    head = ("9, 10: pooled", "within", "pooled at the last step", "all ten: pooled", "within")
    lines = [_cells("", "weights", "steps", "seconds", "trained on", *head), _rule(10)]
    for row in study.rows:
        trained = (f"{row.steps:,}", f"{row.seconds:.0f}") if row.steps else (NOTHING, NOTHING)
        whole = row.validation if row.folds > 1 else ()
        at_end = NOTHING if row.at_end is None else _number(row.at_end)
        numbers = (*_pooled_and_within(row.last), at_end, *_pooled_and_within(whole))
        lines.append(_cells(row.name, f"{row.weights:,}", *trained, str(row.learned), *numbers))
    most = [
        _number(x)
        for one in study.ceilings[:2]
        for x in (one.pooled[0], _mean([each[0] for each in one.each]))
    ]
    return [*lines, _cells("**ceiling**", *[NOTHING] * 4, *most[:2], NOTHING, *most[2:])]


def tested(study: Study) -> list[str]:
    """A line for each row that was tested, and the ceiling."""
    most = study.ceilings[2]
    names = [name.rpartition("_")[2] for name in most.names]
    lines = [_cells("", "trained on", "pooled", *names, "R2"), _rule(4 + len(names))]
    for one in study.tested:
        score = one.scores[0]
        lines.append(
            _cells(one.name, str(one.learned), *map(_number, (score.pooled, *score.each, score.r2)))
        )
    numbers = (most.pooled[0], *(each[0] for each in most.each))
    return (
        [*lines, _cells("**ceiling**", NOTHING, *map(_number, numbers), NOTHING)]
        if study.tested
        else ["Not tested yet."]
    )


def beside(published: Sequence[Published]) -> list[str]:
    """A line for each published number."""
    lines = [
        _cells("published", "trained on", "Pearson, pooled", "tested on", "source"),
        _rule(5),
    ]
    return lines + [
        _cells(p.name, str(p.learned or NOTHING), _number(p.pearson), p.judged_by, p.source)
        for p in published
    ]


def at_times(generated: Generated) -> list[str]:
    """A line for each kind of number, a column for each time."""
    validation, test = generated.ceilings
    rows = [
        (
            f"validation, trained on {generated.row.learned}",
            [score.pooled for score in generated.row.validation],
        ),
        ("its ceiling", validation.pooled),
    ]
    if generated.tested is not None:
        rows.append(
            (
                f"test, trained on {generated.tested.learned}",
                [score.pooled for score in generated.tested.scores],
            )
        )
        rows.append(("its ceiling", test.pooled))
    lines = [
        _cells("time", *(f"{time:g}" for time in generated.times)),
        _rule(len(generated.times) + 1),
    ]
    picture = ["", "![Pearson correlation against time](times.png)"]
    return lines + [_cells(name, *map(_number, numbers)) for name, numbers in rows] + picture


def _pooled_and_within(scores: Sequence[Score]) -> tuple[str, str]:
    return (_number(scores[0].pooled), _number(scores[0].mean)) if scores else (NOTHING, NOTHING)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(n: int) -> str:
    return "|" + "---|" * n


def _number(value: float) -> str:
    return f"{value:.3f}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
