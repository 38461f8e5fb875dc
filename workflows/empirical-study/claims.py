"""Compare the claims of the poster with the measured rows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import fmean

from results import Results, interval

from geocalc.core import read_yaml

HOLDS, FAILS, OPEN, UNTESTED = "holds", "does not hold", "cannot be told", "not run"


class Relation(StrEnum):
    """What a claim says of the first rows of its pairs against the second ones."""

    LESS = "less"
    MORE = "more"
    SAME = "same"
    NO_MORE = "no more"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence about rows of a table.

    Attributes:
        table: where the rows are.
        text: the sentence.
        quantity: what is compared.
        relation: how.
        pairs: rows, first against second.
        margin: share of the second rows' mean within which two are the same.
        unit: of the difference on the page.
        scale: factor to that unit.
    """

    table: str
    text: str
    quantity: str
    relation: Relation
    pairs: tuple[tuple[str, str], ...]
    margin: float
    unit: str
    scale: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """On a claim: one of four words, and the difference that says so with its 95 % interval and
    number of pairs of runs.
    """

    word: str
    difference: float
    half_width: float
    n: int


def read_claims(path: Path) -> list[Claim]:
    """The claims of a file."""
    return [
        Claim(
            table=one["table"],
            text=one["text"],
            quantity=one["quantity"],
            relation=Relation(one["relation"]),
            pairs=tuple((first, second) for first, second in one["pairs"]),
            margin=one.get("margin", 0.05),
            unit=one.get("unit", "meV"),
            scale=one.get("scale", 1000.0),
        )
        for one in read_yaml(path)["claims"]
    ]


def judge(claim: Claim, results: Results) -> Verdict:
    """What the differences say; an effect counts where its 95 % interval leaves out zero."""
    found = results.differences(claim.table, claim.pairs, claim.quantity)
    if len(found) < 2:
        return Verdict(
            word=UNTESTED, difference=float("nan"), half_width=float("nan"), n=len(found)
        )
    mean, half = fmean(found), interval(found)
    if claim.relation in (Relation.SAME, Relation.NO_MORE):
        levels = [
            value
            for _, row in claim.pairs
            for value in results.seeds(claim.table, row, claim.quantity).values()
        ]
        margin = claim.margin * abs(fmean(levels))
        above = mean if claim.relation is Relation.NO_MORE else abs(mean)
        word = HOLDS if above + half <= margin else FAILS if above - half > margin else OPEN
    else:
        wanted = mean if claim.relation is Relation.MORE else -mean
        word = HOLDS if wanted - half > 0 else FAILS if wanted + half < 0 else OPEN
    return Verdict(word=word, difference=mean, half_width=half, n=len(found))
