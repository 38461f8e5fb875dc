"""Measure the time per structure and the memory for one to ten thousand structures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from emt_sets import KINDS, METALS, emt_set
from overhead import EggBoxPotential
from side import ROOT, Side

sys.path.insert(0, str(ROOT / "tests"))
from helpers.models import write_model

import geocalc
from geocalc.runs import Input, NamedPotential, RelaxSettings, relax_inputs

TEMPLATES = 128  # different structures; more of them are copies, rattled anew
SHAKE = 0.05  # Angstrom
DEFAULT = RelaxSettings().model
EDGES = 20_000  # of a batch, where structures are relaxed in batches


@dataclass(frozen=True)
class Scale:
    """One line: `n` structures relaxed in one call, and milliseconds for each of them."""

    way: str
    n: int
    seconds: float
    ms_each: float


def stream(n: int, kind: str = "plain", seed: int = 0) -> Iterator[Atoms]:
    """`n` structures, one at a time."""
    templates, rng = emt_set(min(n, TEMPLATES), seed, KINDS[kind]), np.random.default_rng(seed)
    for k in range(n):
        atoms = templates[k % TEMPLATES].copy()
        if k >= TEMPLATES:
            atoms.rattle(SHAKE, rng=rng)
        atoms.info["sid"] = f"{k}"
        yield atoms


def without_cost(counts: tuple[int, ...] = (1, 10, 100, 1000, 10_000)) -> list[Scale]:
    """A potential that costs next to nothing: what everything around the model takes, one by one
    and in batches.
    """
    rows = []
    for way, edges in (("egg box, one by one", None), ("egg box, in batches", EDGES)):
        for n in counts:
            model = NamedPotential(
                potential=EggBoxPotential(), name="egg box", hash=f"egg box {n}", reads_tags=False
            )
            settings = RelaxSettings(
                optimizer="quasi-newton", traj="none", workers=1, batch_edges=edges
            )
            jobs = [Input(sid=atoms.info["sid"], atoms=atoms) for atoms in stream(n)]
            rows.append(_timed(way, n, partial(relax_inputs, jobs, model, settings)))
    return rows


def with_model(counts: tuple[int, ...] = (1, 10, 100), workers: int = 2) -> list[Scale]:
    """The shipped model, start of the worker processes included."""
    rows = []
    for n in counts:
        run = partial(
            geocalc.relax,
            list(stream(n, "model")),
            DEFAULT,
            optimizer="quasi-newton",
            workers=workers,
        )
        rows.append(_timed(f"{DEFAULT}, {workers} workers", n, run))
    return rows


def _timed(way: str, n: int, run: Callable[[], Iterable[Any]]) -> Scale:
    start = time.perf_counter()
    done = sum(1 for _ in run())
    seconds = time.perf_counter() - start
    if done != n:
        raise RuntimeError(f"{way}: {done} of {n} structures came back")
    print(way, n, f"{1e3 * seconds / n:.2f} ms each", flush=True)
    return Scale(way, n, seconds, 1e3 * seconds / n)


def memory(n: int = 10_000, n_shipped: int = 300) -> list[dict[str, Any]]:
    """MB of fresh processes that stream structures through `geocalc.iter_relax`, see
    `memory_side.py`.

    `n` of them with a small network of random weights, for the shipped model takes minutes for a
    thousand; `n_shipped` with that.
    """
    rows = []
    with TemporaryDirectory() as folder:
        small = write_model(
            Path(folder), "random-weights", card={"elements": (*METALS, "H", "C", "N", "O")}
        )
        for model, count, steps in ((str(small), n, 3), (DEFAULT, n_shipped, 3)):
            with Side("memory_side.py", arguments=(model,)) as other:
                found = other.ask(n=count, steps=steps)
            name = Path(model).name
            print(
                name,
                f"{found['loaded_mb']:.0f} MB loaded, {found['peak_mb']:.0f} MB at most, {found['seconds']:.0f} s",
                flush=True,
            )
            rows.append({"model": name, **found})
    return rows
