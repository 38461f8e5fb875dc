"""Write the tables of README.md and the plot from the JSON files in this folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plot import draw

Rows = list[dict[str, Any]]


def write(folder: Path) -> None:
    """Fill in the tables whose results are there, and draw the plot if all of them are."""
    found = {
        piece: json.loads(path.read_text())
        for piece in TABLES
        if (path := folder / f"{piece}.json").exists()
    }
    readme = folder / "README.md"
    text = readme.read_text()
    for piece, content in found.items():
        begin, end = f"<!-- {piece} -->\n", f"<!-- /{piece} -->"
        head, rest = text.split(begin)
        machine = content["machine"]
        note = f"Load of the machine during the run: {machine['load']} on {machine['cores']} cores."
        text = f"{head}{begin}{TABLES[piece](content['rows'])}\n\n{note}\n{end}{rest.split(end)[1]}"
    readme.write_text(text)
    if {"calls", "model", "overhead", "scaling", "torch-sim"} <= found.keys():
        draw(
            {piece: content["rows"] for piece, content in found.items()}, folder / "relaxation.png"
        )


def calls(rows: Rows) -> str:
    """Model calls on the EMT sets."""
    head = "set | seed | slabs | optimizer | calls, mean | median | maximum | converged | another basin | of these lower"
    body = [
        f"{r['kind']} | {r['seed']} | {r['n']} | {r['optimizer']} | {r['calls_mean']:.1f} | {r['calls_median']:.1f} | "
        f"{r['calls_most']} | {r['converged']:.0%} | {r['other_basin']:.0%} | {r['lower']:.0%}"
        for r in rows
    ]
    return _table(head, body)


def cells(rows: Rows) -> str:
    """Cells that relax."""
    head = "what is free | optimizer | calls, mean | maximum | converged | sum of energies (eV)"
    body = [
        f"{r['what']} | {r['optimizer']} | {r['calls_mean']:.1f} | {r['calls_most']} | {r['converged']:.0%} | {r['energy']:.3f}"
        for r in rows
    ]
    return _table(head, body)


def together(rows: Rows) -> str:
    """Together and alone."""
    head = "set | slabs | seconds together | alone | same status | within 1e-5 eV | within 1e-4 Å | largest difference (meV) | (Å)"
    body = [
        f"{r['kind']} | {r['n']} | {r['seconds']:.1f} | {r['seconds_alone']:.1f} | {r['same_status']:.1%} | {r['within_energy']:.1%} | "
        f"{r['within_positions']:.1%} | {r['energy_mev']:.2g} | {r['position']:.2g}"
        for r in rows
    ]
    return _table(head, body)


def model(rows: Rows) -> str:
    """The shipped model."""
    head = "method | seconds | of these, start | processor seconds | calls, mean | converged | same basin | largest difference in it (meV) | speedup"
    body = []
    for r in rows:
        same = (
            "|" if r["same_basin"] is None else f"{r['same_basin']:.0%} | {r['difference_mev']:.1f}"
        )
        body.append(
            f"{r['way']} | {r['seconds']:.1f} | {r['start_s']:.1f} | {r['processor_s']:.0f} | {r['calls_mean']:.1f} | {r['converged']:.0%} | "
            f"{same} | {r['faster']:.1f}"
        )
    return _table(head, body)


def overhead(rows: Rows) -> str:
    """Time outside the model."""
    body = [
        f"{r['n_atoms']} | {r['batch']} | {r['optimizer']} | {r['ms']:.3f} | {r['ms_later']:.3f}"
        for r in rows
    ]
    return _table(
        "atoms | slabs in the batch | optimizer | ms per slab and model call | in the second half",
        body,
    )


def scaling(rows: Rows) -> str:
    """Time of each structure."""
    body = [f"{r['way']} | {r['n']:,} | {r['seconds']:.2f} | {r['ms_each']:.2f}" for r in rows]
    return _table("method | structures | seconds | ms per structure", body)


def memory(rows: Rows) -> str:
    """Memory of streaming."""
    body = [
        f"{r['model']} | {r['n']:,} | {r['loaded_mb']:.0f} | {r['peak_mb']:.0f} | {r['peak_mb'] - r['loaded_mb']:.0f} | "
        f"{r['held_mb'][0]:.0f} | {r['held_mb'][-1]:.0f}"
        for r in rows
    ]
    head = "model | structures | MB with the model loaded | peak MB | growth | MB after 10 % | MB at the end"
    return _table(head, body)


def torch_sim(rows: Rows) -> str:
    """Next to torch-sim."""
    body = [f"{r['way']} | {r['batch']} | {r['calls_mean']:.1f} | {r['ms']:.3f}" for r in rows]
    return _table(
        "method | slabs in the batch | model calls per slab | ms outside the model per slab and call",
        body,
    )


def chgnet(rows: Rows) -> str:
    """CHGNet."""
    body = [
        f"{r['way']} | {r['n']} | {r['calls_mean']:.1f} | {r['converged']:.0%} | {r['seconds']:.1f} | {r['same_basin']:.0%} | "
        f"{r['difference_mev']:.2f}"
        for r in rows
    ]
    return _table(
        "method | slabs | calls, mean | converged | seconds | same basin | largest difference in it (meV)",
        body,
    )


def _table(head: str, body: Sequence[str]) -> str:
    rule = "|".join("---" for _ in head.split("|"))
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {line} |" for line in body)])


TABLES: dict[str, Callable[[Rows], str]] = {
    "calls": calls,
    "cells": cells,
    "model": model,
    "together": together,
    "overhead": overhead,
    "torch-sim": torch_sim,
    "scaling": scaling,
    "memory": memory,
    "chgnet": chgnet,
}
