from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest

from geocalc.errors import InputError
from geocalc.runs.records import PropertySummary, Record, SecondOpinion, exit_status
from geocalc.runs.table import format_table

GOOD = Record(
    sid="slabs.traj#3",
    formula="Cu12CO",
    n_atoms=14,
    model="emt",
    model_hash="abc",
    energy=-1.25,
    energy_kind="total",
    energy_std=None,
    energy_error_68=None,
    energy_error_95=None,
    fmax=0.04,
    n_steps=12,
    n_evaluations=13,
    converged=True,
    status="CONVERGED",
    stop_reason="Forces are small.",
    anomalies=(),
    wall_s=0.5,
    device="cpu",
    dtype="float64",
    version="0.1.0",
    error=None,
)
OPEN = replace(GOOD, converged=False, status="MAX_STEPS")
OPINION = SecondOpinion(
    model="direct",
    model_hash="def",
    energy=-1.1,
    energy_error_68=0.12,
    energy_error_95=0.4,
    difference=0.15,
    note=None,
)
PROPERTY = PropertySummary(
    name="propensity", unit="sigma_AA", n=9, mean=(0.5, 1.5), std=(0.1, None)
)
FAILED = replace(
    GOOD, converged=False, status="ERROR", energy=None, fmax=None, error="the file is empty"
)
FIELDS = [
    "sid",
    "formula",
    "n_atoms",
    "model",
    "model_hash",
    "energy",
    "energy_kind",
    "energy_std",
    "energy_error_68",
    "energy_error_95",
    "domain",
    "domain_reason",
    "novelty",
    "second_opinion",
    "property",
    "fmax",
    "n_steps",
    "n_evaluations",
    "converged",
    "status",
    "stop_reason",
    "anomalies",
    "wall_s",
    "device",
    "dtype",
    "version",
    "error",
]


def test_fields_are_those_of_the_contract_with_intervals_in_order() -> None:
    assert [f.name for f in fields(Record)] == FIELDS
    assert list(json.loads(GOOD.to_json())) == FIELDS


@pytest.mark.parametrize(
    "record",
    [
        GOOD,
        OPEN,
        FAILED,
        replace(GOOD, anomalies=("desorbed",), energy=0.1 + 0.2),
        replace(GOOD, second_opinion=OPINION),
        replace(GOOD, energy=None, property=PROPERTY),
    ],
)
def test_json_round_trip_is_exact_and_one_line(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record
    assert "\n" not in record.to_json()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(value: float) -> None:
    text = replace(GOOD, energy=value, energy_std=value).to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["energy"] is None
    assert Record.from_json(text).energy_std is None


@pytest.mark.parametrize(
    "line", ["", "{}", "[1]", '{"sid": 1', GOOD.to_json().replace('"sid"', '"name"')]
)
def test_a_line_that_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(InputError, match="not a record"):
        Record.from_json(line)


@pytest.mark.parametrize(
    ("records", "status"),
    [
        ([GOOD, GOOD], 0),
        ([GOOD, OPEN], 3),
        ([replace(GOOD, anomalies=("surface_changed",))], 3),
        ([OPEN, FAILED, GOOD], 3),
        ([FAILED, GOOD], 3),
        ([replace(GOOD, converged=False, status="SINGLE_POINT")], 0),
        ([FAILED, FAILED], 1),
        ([], 1),
    ],
)
def test_exit_status(records: list[Record], status: int) -> None:
    assert exit_status(records) == status


def test_table_lists_structures_errors_and_counts() -> None:
    text = format_table([GOOD, OPEN, FAILED])
    assert all(part in text for part in ("slabs.traj#3", "-1.2500", "the file is empty"))
    assert (
        text.splitlines()[-1]
        == "3 structures: 1 CONVERGED, 1 MAX_STEPS, 1 ERROR; 39 model calls, 1.5 s"
    )


def test_table_of_a_long_run_shows_only_what_needs_a_look() -> None:
    text = format_table([GOOD] * 500 + [replace(OPEN, sid="odd-one")] + [FAILED] * 60)
    assert "odd-one" in text
    assert "... and 21 more" in text
    assert len(text.splitlines()) < 90
    assert "500 CONVERGED" in text


def test_energies_have_their_error_bars_within_eighty_columns() -> None:
    barred = replace(
        GOOD,
        sid="a/long/way/to/slabs-of-the-second-batch.traj#3",
        energy_error_68=0.08,
        energy_error_95=0.4,
    )
    lines = format_table([barred, replace(OPEN, energy_error_68=None), FAILED]).splitlines()
    assert "-1.250 ± 0.08" in lines[1]
    assert lines[2].endswith("-1.250")
    assert lines[2].index("-1.250") == lines[1].index("-1.250")
    assert max(map(len, lines)) <= 80
    assert "Cu12CO" in lines[1]
    assert "-1.2500" in format_table([GOOD])  # without bars as many decimals as ever


def test_second_opinions_have_a_column_and_a_line() -> None:
    barred = replace(
        GOOD,
        sid="a/long/way/to/slabs-of-the-second-batch.traj#3",
        energy_error_68=0.08,
        energy_error_95=0.4,
    )
    silent = replace(
        OPINION, energy=None, energy_error_68=None, difference=None, note="direct does not know Sc"
    )
    rows = [replace(barred, second_opinion=OPINION), replace(barred, second_opinion=silent)]
    head, first, second, _, last = format_table(rows).splitlines()
    assert head.split() == [
        "structure",
        "status",
        "steps",
        "fmax",
        "eV/Å",
        "energy",
        "eV",
        "direct",
        "eV",
    ]
    assert first.endswith("-1.250 ± 0.08  -1.100 ± 0.12")
    assert second.endswith("-")
    assert max(map(len, (head, first, second))) <= 80
    assert last.startswith(
        "second opinion of direct: it differs by 0.150 eV on average, at most by 0.150 eV (a/long"
    )
    assert last.endswith("; 1 of 2: direct does not know Sc")
    assert "formula" in format_table(rows, width=120)


def test_columns_that_say_nothing_are_left_out() -> None:
    predicted = replace(GOOD, status="PREDICTED", fmax=None, n_steps=0)
    assert "fmax" not in format_table([predicted])


def test_a_long_run_in_which_all_is_well_has_no_rows() -> None:
    lines = format_table([GOOD] * 100).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("100 structures: 100 CONVERGED")
