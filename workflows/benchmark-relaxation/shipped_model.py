"""Compare `geocalc.relax` with worker processes and the usual ASE loop, on adslabs with the default
model; and structures computed together with those computed alone, with other models too.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, fields

import numpy as np
from ase import Atoms
from emt_sets import KINDS, emt_set
from side import Side

import geocalc
from geocalc.runs import RelaxSettings

FMAX, STEPS, SAME_BASIN = 0.05, 300, 0.01
WORKERS = 2
DEFAULT = RelaxSettings().model


@dataclass(frozen=True)
class Ours:
    """A way of `geocalc.relax`."""

    model: str = DEFAULT
    optimizer: str = "quasi-newton"
    reproducible: bool = False

    def __str__(self) -> str:
        alone = ", reproducible" if self.reproducible else ""
        return f"geocalc.relax {self.model}, {self.optimizer}{alone}, {WORKERS} workers"


# `faenet-sfa` with averaged frames, each structure alone, was the default before
OURS = (
    Ours(),
    Ours(reproducible=True),
    Ours(optimizer="bfgs"),
    Ours("faenet-sfa-small"),
    Ours("faenet-sfa-small", reproducible=True),
    Ours("faenet-sfa"),
    Ours("faenet-sfa", reproducible=True),
)


@dataclass(frozen=True)
class Way:
    """One line: all structures relaxed in one way.

    Attributes:
        way: its name.
        seconds: wall time, of the start of worker processes too.
        processor_s: of all cores together, which a busy machine changes little.
        start_s: how much of it was spent until the workers had started; 0 for the loop, whose model
            is loaded beforehand.
        calls_mean: model calls for each structure.
        converged: share.
        same_basin: share that ends within 10 meV of the last loop; None with another model.
        difference_mev: largest difference of energy among these.
        faster: the wall time of the first loop, divided by this.
    """

    way: str
    seconds: float
    processor_s: float
    start_s: float
    calls_mean: float
    converged: float
    same_basin: float | None
    difference_mev: float
    faster: float


@dataclass(frozen=True)
class _Run:
    seconds: float
    processor_s: float
    energies: list[float]
    calls: list[int]
    converged: list[bool]


def measure(
    n: int = 128,
    seed: int = 0,
    blocks: int = 4,
    rounds: int = 2,
    threads: tuple[str, ...] = ("default", "1"),
) -> list[Way]:
    """The loop with each setting of threads in turn, block by block; `geocalc.relax` on everything,
    `rounds` times between.
    """
    structures = emt_set(n, seed, KINDS["model"])
    ours: dict[Ours, list[_Run]] = {way: [] for way in OURS}
    loops: dict[str, list[_Run]] = {name: [] for name in threads}
    with Side("ase_loop.py", threads=None) as loop:
        default_threads = loop.ask(
            n=1, seed=seed, first=0, last=1, threads=None, fmax=FMAX, steps=1
        )["threads"]
        edges = np.linspace(0, n, blocks + 1).astype(int).tolist()
        for k in range(blocks):
            if k * rounds % blocks < rounds:
                for way in OURS:
                    ours[way].append(_by_geocalc(structures, way))
                    print(way, f"{ours[way][-1].seconds:.1f} s", flush=True)
            for name in threads:
                used = default_threads if name == "default" else int(name)
                found = loop.ask(
                    n=n,
                    seed=seed,
                    first=edges[k],
                    last=edges[k + 1],
                    threads=used,
                    fmax=FMAX,
                    steps=STEPS,
                )
                loops[name].append(_Run(*(found[f.name] for f in fields(_Run))))
                print("ASE BFGS, threads", name, f"{found['seconds']:.1f} s", flush=True)
    whole = {label: _joined(runs) for label, runs in loops.items()}
    base, reference = whole[threads[0]].seconds, np.array(whole[threads[-1]].energies)
    told = {"default": f"default threads ({default_threads} here)", "1": "1 thread"}
    rows = [
        _way(f"ASE BFGS loop, {told.get(label, label)}", run, 0.0, base, reference)
        for label, run in whole.items()
    ]
    start_s = float(np.median([_start(structures[:WORKERS]) for _ in range(3)]))
    for way, runs in ours.items():
        middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
        known = reference if way.model == DEFAULT else np.full(n, np.nan)
        rows.append(_way(str(way), middle, start_s, base, known))
    return rows


def _by_geocalc(structures: list[Atoms], way: Ours) -> _Run:
    start, processor = time.perf_counter(), _processor()
    results = geocalc.relax(
        structures,
        way.model,
        optimizer=way.optimizer,
        fmax=FMAX,
        steps=STEPS,
        workers=WORKERS,
        reproducible=way.reproducible,
    )
    seconds, processor_s = time.perf_counter() - start, _processor() - processor
    records = [result.record for result in results]
    energies = [float("nan") if r.energy is None else r.energy for r in records]
    return _Run(
        seconds,
        processor_s,
        energies,
        [r.n_evaluations for r in records],
        [r.converged for r in records],
    )


def _processor() -> float:
    """Processor seconds of this process and of all that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _start(few: list[Atoms]) -> float:
    """Seconds until workers begin: what a run of one step for each takes beyond its computing."""
    start = time.perf_counter()
    results = geocalc.relax(few, DEFAULT, fmax=FMAX, steps=1, workers=WORKERS)
    spent = time.perf_counter() - start
    return spent - max(result.record.wall_s for result in results)


def _joined(runs: list[_Run]) -> _Run:
    return _Run(
        sum(run.seconds for run in runs),
        sum(run.processor_s for run in runs),
        [energy for run in runs for energy in run.energies],
        [calls for run in runs for calls in run.calls],
        [converged for run in runs for converged in run.converged],
    )


def _way(name: str, run: _Run, start_s: float, base: float, reference: np.ndarray) -> Way:
    difference = np.abs(np.array(run.energies) - reference)
    same = difference < SAME_BASIN
    return Way(
        way=name,
        seconds=run.seconds,
        processor_s=run.processor_s,
        start_s=start_s,
        calls_mean=float(np.mean(run.calls)),
        converged=float(np.mean(run.converged)),
        same_basin=float(same.mean()) if np.isfinite(reference).any() else None,
        difference_mev=1e3 * float(difference[same].max(initial=0.0)),
        faster=base / run.seconds,
    )
