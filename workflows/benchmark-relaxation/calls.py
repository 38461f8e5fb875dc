"""Count model calls of the optimizers of geocalc and ASE on the EMT sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.optimize import BFGS, FIRE, LBFGS, BFGSLineSearch
from emt_sets import KINDS, emt_set

from geocalc import from_atoms
from geocalc.optim import OPTIMIZERS
from geocalc.potentials import AsePotential
from geocalc.relaxation import relax_systems

FMAX, CALLS = 0.05, 300
SAME_BASIN = 0.01  # eV
THEIRS = {
    "ASE FIRE": FIRE,
    "ASE BFGS": BFGS,
    "ASE LBFGS": LBFGS,
    "ASE BFGSLineSearch": BFGSLineSearch,
}
OURS = ("fire", "bfgs", "lbfgs", "quasi-newton")
REFERENCE = "ASE BFGS"


class CountingEMT(EMT):
    """EMT that counts its evaluations."""

    n_calls = 0

    def calculate(self, *arguments: object) -> None:
        """Count and compute."""
        self.n_calls += 1
        super().calculate(*arguments)

    def reset(self) -> None:
        """Keep the list of neighbors, half of the cost of a call: each calculator here sees one
        structure only.
        """


@dataclass(frozen=True)
class Ended:
    """One relaxation: calls, energy in eV, and whether it converged."""

    calls: int
    energy: float
    converged: bool


@dataclass(frozen=True)
class Row:
    """One line of the table; `other_basin` and `lower` are shares of structures that end over 10
    meV from and below ASE's BFGS.
    """

    kind: str
    seed: int
    n: int
    optimizer: str
    calls_mean: float
    calls_median: float
    calls_most: int
    converged: float
    other_basin: float
    lower: float


def by_ase(optimizer: type, atoms: Atoms) -> Ended:
    """A relaxation by an optimizer of ASE with its defaults."""
    atoms = atoms.copy()
    atoms.calc = CountingEMT()
    converged = bool(optimizer(atoms, logfile=None).run(fmax=FMAX, steps=CALLS))
    return Ended(atoms.calc.n_calls, float(atoms.get_potential_energy()), converged)


def by_geocalc(name: str, atoms: Atoms) -> Ended:
    """A relaxation by an optimizer of geocalc with its defaults."""
    systems = from_atoms(atoms, use_tags=False)
    (ended,) = relax_systems(
        systems, AsePotential(calculator=CountingEMT()), OPTIMIZERS[name](), FMAX, CALLS
    )
    return Ended(ended.n_evaluations, ended.energy, ended.converged)


def measure(kind: str, seed: int, sizes: list[int]) -> list[Row]:
    """Every optimizer on the largest set; smaller ones of the same kind and seed are how it begins."""
    structures = emt_set(max(sizes), seed, KINDS[kind])
    ways: dict[str, Callable[[Atoms], Ended]] = {
        name: partial(by_ase, optimizer) for name, optimizer in THEIRS.items()
    }
    ways |= {f"geocalc {name}": partial(by_geocalc, name) for name in OURS}
    found: dict[str, list[Ended]] = {}
    for name, way in ways.items():
        found[name] = [way(atoms) for atoms in structures]
        print(
            kind,
            seed,
            len(structures),
            name,
            f"{np.mean([e.calls for e in found[name]]):.1f}",
            flush=True,
        )
    reference = np.array([e.energy for e in found[REFERENCE]])
    return [
        _row(kind, seed, name, ended[:n], reference[:n])
        for n in sizes
        for name, ended in found.items()
    ]


def _row(kind: str, seed: int, name: str, ended: list[Ended], reference: np.ndarray) -> Row:
    calls, above = (
        np.array([e.calls for e in ended]),
        np.array([e.energy for e in ended]) - reference,
    )
    return Row(
        kind=kind,
        seed=seed,
        n=len(ended),
        optimizer=name,
        calls_mean=float(calls.mean()),
        calls_median=float(np.median(calls)),
        calls_most=int(calls.max()),
        converged=float(np.mean([e.converged for e in ended])),
        other_basin=float((np.abs(above) > SAME_BASIN).mean()),
        lower=float((above < -SAME_BASIN).mean()),
    )
