"""Measure the time outside the model: milliseconds per slab and model call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from calls import THEIRS
from egg_box import Clock

from geocalc import Prediction, Systems, from_atoms
from geocalc.core import concatenate
from geocalc.optim import OPTIMIZERS
from geocalc.relaxation import relax_systems

OURS = ("fire", "bfgs", "lbfgs", "quasi-newton")
# every structure takes all the steps, so that batches stay as large as they are
STEPS, NEVER = 20, 1e-9
SHAPES = {37: (3, 3, 4), 101: (5, 5, 4), 201: (5, 5, 8)}
ROUNDS = 15


class EggBoxPotential:
    """The egg box for geocalc."""

    def __init__(self) -> None:
        self.clock = Clock()

    def __call__(self, systems: Systems) -> Prediction:
        """Energy and forces."""
        energy, forces = self.clock.egg_box(
            systems.positions, systems.system_idx, systems.n_systems
        )
        return Prediction(energy=energy, forces=forces)


class EggBoxCalculator(Calculator):
    """The egg box for ASE."""

    def __init__(self) -> None:
        super().__init__()
        self.implemented_properties = ["energy", "forces"]
        self.clock = Clock()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Energy and forces; ASE calls this."""
        super().calculate(atoms, list(properties), list(system_changes))
        if atoms is None:
            raise ValueError("the egg box needs a structure")
        place = torch.from_numpy(atoms.positions)
        energy, forces = self.clock.egg_box(place, torch.zeros(len(place), dtype=torch.int64), 1)
        self.results = {"energy": float(energy), "forces": forces.numpy()}


@dataclass(frozen=True)
class Overhead:
    """One line: milliseconds outside the model for each slab and model call, median over rounds.

    Attributes:
        n_atoms, batch, optimizer: what ran.
        ms: of `STEPS` steps, with all that comes before and after them.
        ms_later: of the second half of these steps.
    """

    n_atoms: int
    batch: int
    optimizer: str
    ms: float
    ms_later: float


def slabs(n: int, n_atoms: int, constrained: bool = True, seed: int = 0) -> list[Atoms]:
    """`n` slabs of copper with an O atom, rattled; the lower half is fixed where asked."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        atoms = fcc111("Cu", SHAPES[n_atoms], vacuum=8.0)
        add_adsorbate(atoms, "O", 1.3, "fcc")
        middle = atoms.positions[:, 2].mean()
        atoms.rattle(0.1, rng=rng)
        if constrained:
            atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.positions[:, 2] < middle)))
        found.append(atoms)
    return found


def by_geocalc(
    name: str, structures: list[Atoms], fmax: float = NEVER, steps: int = STEPS
) -> tuple[float, Clock]:
    """Seconds of one batched relaxation, all included, and the clock of its potential."""
    systems = concatenate([from_atoms(atoms, use_tags=False) for atoms in structures])
    potential = EggBoxPotential()
    start = time.thread_time()
    relax_systems(systems, potential, OPTIMIZERS[name](), fmax, steps)
    return time.thread_time() - start, potential.clock


def by_ase(
    optimizer: type, structures: list[Atoms], fmax: float = NEVER, steps: int = STEPS
) -> tuple[float, Clock]:
    """The same of a loop over ASE relaxations."""
    calculator = EggBoxCalculator()
    copies = [atoms.copy() for atoms in structures]
    start = time.thread_time()
    for atoms in copies:
        atoms.calc = calculator
        optimizer(atoms, logfile=None).run(fmax=fmax, steps=steps)
    return time.thread_time() - start, calculator.clock


def outside(measured: tuple[float, Clock]) -> float:
    """Milliseconds outside the model for each slab and model call."""
    seconds, clock = measured
    return 1e3 * (seconds - clock.seconds) / clock.structures


def later(whole: tuple[float, Clock], half: tuple[float, Clock]) -> float:
    """The same for the calls that `whole` has more than `half`."""
    more = whole[0] - whole[1].seconds - (half[0] - half[1].seconds)
    return 1e3 * more / (whole[1].structures - half[1].structures)


def measure(rounds: int = ROUNDS) -> list[Overhead]:
    """Every optimizer, in turn within every round; ASE on one slab at a time, as it takes them
    anyway.
    """
    rows = []
    for n_atoms, batch in ((37, 32), (37, 1), (101, 1)):
        structures = slabs(batch, n_atoms)
        ways: dict[str, Callable[..., tuple[float, Clock]]] = {}
        for name in OURS:
            ways[f"geocalc {name}"] = partial(by_geocalc, name, structures)
        for name, optimizer in THEIRS.items() if batch != 32 else ():
            ways[name] = partial(by_ase, optimizer, structures)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, way in ways.items():
                whole, half = way(steps=STEPS), way(steps=STEPS // 2)
                if turn:  # the first warms up
                    found[name].append((outside(whole), later(whole, half)))
        for name, values in found.items():
            ms, ms_later = np.median(values, axis=0).tolist()
            rows.append(Overhead(n_atoms, batch, name, ms, ms_later))
    return rows
