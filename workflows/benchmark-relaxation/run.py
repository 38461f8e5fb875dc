"""Model calls of geocalc's optimisers and of ASE's on the EMT sets, in one run.

Usage: python workflows/benchmark-relaxation/run.py [--sizes 32,128] [--seed 0]
Writes calls.json and the table of README.md. EMT, float64, one thread, fmax 0.05 eV/Angstrom, at most 300 calls.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.optimize import BFGS, FIRE, LBFGS, BFGSLineSearch
from emt_sets import emt_set

from geocalc import from_atoms
from geocalc.ase_potential import AsePotential
from geocalc.optim import OPTIMIZERS
from geocalc.process import settle_process
from geocalc.relaxation import relax_systems

HERE = Path(__file__).parent
FMAX, CALLS = 0.05, 300
SAME_BASIN = 0.01  # eV
THEIRS = {"ASE FIRE": FIRE, "ASE BFGS": BFGS, "ASE LBFGS": LBFGS, "ASE BFGSLineSearch": BFGSLineSearch}
REFERENCE = "ASE BFGS"


class CountingEMT(EMT):  # type: ignore[misc]
    """EMT that counts its evaluations."""

    n_calls = 0

    def calculate(self, *arguments: object) -> None:
        """Count and compute."""
        self.n_calls += 1
        super().calculate(*arguments)


@dataclass(frozen=True)
class Ended:
    """One relaxation: calls, energy in eV, and whether it converged."""

    calls: int
    energy: float
    converged: bool


@dataclass(frozen=True)
class Row:
    """One line of the table; `other_basin` and `lower` are shares of structures that end over 10 meV from and below ASE's BFGS."""

    n: int
    optimizer: str
    calls_mean: float
    calls_median: float
    calls_most: int
    converged: float
    other_basin: float
    lower: float
    seconds: float


def by_ase(optimizer: type, atoms: Atoms) -> Ended:
    """A relaxation by an optimiser of ASE with its defaults."""
    atoms = atoms.copy()
    atoms.calc = CountingEMT()
    converged = bool(optimizer(atoms, logfile=None).run(fmax=FMAX, steps=CALLS))
    return Ended(atoms.calc.n_calls, float(atoms.get_potential_energy()), converged)


def by_geocalc(name: str, atoms: Atoms) -> Ended:
    """A relaxation by an optimiser of geocalc with its defaults."""
    systems = from_atoms(atoms, use_tags=False)
    (ended,) = relax_systems(systems, AsePotential(calculator=EMT()), OPTIMIZERS[name](), FMAX, CALLS)
    return Ended(ended.n_evaluations, ended.energy, ended.converged)


def measure(structures: list[Atoms]) -> list[Row]:
    """Every optimiser on every structure."""
    ways: dict[str, Callable[[Atoms], Ended]] = {name: lambda a, o=o: by_ase(o, a) for name, o in THEIRS.items()}
    ways |= {f"geocalc {name}": lambda a, name=name: by_geocalc(name, a) for name in OPTIMIZERS}
    found: dict[str, list[Ended]] = {}
    seconds: dict[str, float] = {}
    for name, way in ways.items():
        start = time.perf_counter()
        found[name] = [way(atoms) for atoms in structures]
        seconds[name] = time.perf_counter() - start
        print(name, f"{np.mean([e.calls for e in found[name]]):.1f}", flush=True)
    reference = np.array([e.energy for e in found[REFERENCE]])
    return [_row(name, ended, reference, seconds[name]) for name, ended in found.items()]


def _row(name: str, ended: list[Ended], reference: np.ndarray, seconds: float) -> Row:
    calls, above = np.array([e.calls for e in ended]), np.array([e.energy for e in ended]) - reference
    return Row(
        n=len(ended),
        optimizer=name,
        calls_mean=float(calls.mean()),
        calls_median=float(np.median(calls)),
        calls_most=int(calls.max()),
        converged=float(np.mean([e.converged for e in ended])),
        other_basin=float((np.abs(above) > SAME_BASIN).mean()),
        lower=float((above < -SAME_BASIN).mean()),
        seconds=seconds,
    )


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| slabs | optimiser | calls, mean | median | most | converged | another basin | of these lower | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r.n} | {r.optimizer} | {r.calls_mean:.1f} | {r.calls_median:.1f} | {r.calls_most} | {r.converged:.0%} | "
            f"{r.other_basin:.0%} | {r.lower:.0%} | {r.seconds:.0f} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--sizes", default="32,128", show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(sizes: str, seed: int) -> None:
    """Run and write."""
    settle_process()
    rows = [row for size in sizes.split(",") for row in measure(emt_set(int(size), seed))]
    (HERE / "calls.json").write_text(json.dumps({"seed": seed, "rows": [asdict(r) for r in rows]}, indent=1) + "\n")
    page = HERE / "README.md"
    head, rest = page.read_text().split("<!-- table -->\n")
    page.write_text(f"{head}<!-- table -->\n{table(rows)}\n<!-- /table -->{rest.split('<!-- /table -->')[1]}")
    print(table(rows))


if __name__ == "__main__":
    main()
