"""Suggestions for mistyped names, and that every message with one has the same form."""

from __future__ import annotations

from pathlib import Path

import pytest

import geocalc
from geocalc.core.nearest import nearest


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("fmaks", ["fmax", "steps", "optimizer"], "did you mean `fmax`?"),
        ("tyni", ["tiny", "faenet"], "did you mean `tiny`?"),
        ("FMAX", ["fmax", "steps"], "did you mean `fmax`?"),
        ("D4k", ["D2", "D4", "D4h", "Oh"], "did you mean `D4` or `D4h`?"),
        (
            "hidden_chanels",
            ["hidden_channels", "pg_hidden_channels"],
            "did you mean `hidden_channels`?",
        ),
        ("zzz", ["fmax", "steps"], "known are fmax, steps"),
        ("zzz", [], "known are "),
    ],
)
def test_the_most_similar_names_are_suggested_and_else_all(
    name: str, known: list[str], hint: str
) -> None:
    assert nearest(name, known) == hint


def test_another_text_may_replace_the_list() -> None:
    assert nearest("zzz", ["fmax"], otherwise="") == ""
    assert nearest("fmx", ["fmax"], otherwise="") == "did you mean `fmax`?"


def test_no_other_module_compares_spellings() -> None:
    files = Path(geocalc.__file__).parent.rglob("*.py")
    users = {path.name for path in files if "difflib" in path.read_text()}
    assert users == {"nearest.py"}
