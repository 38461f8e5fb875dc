"""Gas molecules above clean slabs of the teacher's wide set, up to where they feel nothing.

The energy is that of the gas molecule at the default level, plus what the teacher says of the
interaction and of the molecule's shape. Without such structures a network trained on adsorbates
puts a barrier between gas and surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import iread, write
from label import Teacher
from parents import ADSORBATE
from scipy.spatial.transform import Rotation
from wide import RATTLED

SYSTEMS = 300
# share of each molecule
SHARES = {"CO": 0.4, "H2O": 0.12, "CH4": 0.1, "H3N": 0.1, "CO2": 0.12, "C2H4": 0.08, "H2": 0.08}
HEIGHTS = (2.5, 5.5)  # Angstrom, of the lowest atom above the highest one of the slab
HYDROGEN = 1
UPRIGHT = (
    0.6  # share of molecules that stand on their lightest atom but H, leaning by at most `LEAN`
)
LEAN = 25.0  # degrees
STRETCH = 0.03  # Angstrom, standard deviation of each atom


@dataclass(frozen=True)
class Lift:
    """A slab, and a gas molecule above it; `energy` of the molecule at the default level, eV."""

    molecule: Atoms
    slab: Atoms
    both: Atoms
    energy: float


def gas_molecules(labels: Path) -> dict[str, tuple[Atoms, float]]:
    """Gas molecules of known energy (eV), by formula."""
    found = {}
    for file in sorted(labels.glob("*.extxyz")):
        for atoms in iread(file):
            if atoms.info["kind"] == "relaxed":
                energy = float(atoms.info["REF_energy"])
                found[atoms.get_chemical_formula()] = (atoms, energy)
    return found


def clean_slabs(clean: Path) -> list[Atoms]:
    """The last structure of each path of a clean slab."""
    last: dict[str, Atoms] = {}
    for atoms in iread(clean):
        if int(atoms.info["frame"]) < RATTLED:
            last[str(atoms.info["system"])] = atoms
    return list(last.values())


def lifts(molecules: dict[str, tuple[Atoms, float]], slabs: Sequence[Atoms]) -> list[Lift]:
    """Two molecules above each of some slabs."""
    rng = np.random.default_rng(5)
    weights = np.array(list(SHARES.values()))
    found = []
    for k in rng.permutation(len(slabs))[:SYSTEMS]:
        for name in rng.choice(list(SHARES), size=2, replace=False, p=weights / weights.sum()):
            gas, energy = molecules[str(name)]
            found.append(Lift(gas, slabs[k], _above(slabs[k], gas, rng), energy))
    return found


def _above(slab: Atoms, gas: Atoms, rng: np.random.Generator) -> Atoms:
    """A slab with a molecule above it."""
    arms = gas.positions - gas.positions.mean(0)
    binding = min(range(len(gas)), key=lambda k: (gas.numbers[k] == HYDROGEN, gas.numbers[k]))
    first = arms[binding] - np.delete(arms, binding, axis=0).mean(0)
    turn = Rotation.random(random_state=rng)
    if rng.uniform() < UPRIGHT and np.linalg.norm(first) > 0.1:  # not CH4
        down, _ = Rotation.align_vectors([[0.0, 0.0, -1.0]], [first / np.linalg.norm(first)])
        axis = rng.normal(size=3)
        lean = np.deg2rad(LEAN) * rng.uniform()
        turn = Rotation.from_rotvec(lean * axis / np.linalg.norm(axis)) * down
    arms = turn.apply(arms) + rng.normal(scale=STRETCH, size=arms.shape)
    across = rng.uniform(size=2) @ slab.cell[:2]
    height = slab.positions[:, 2].max() + rng.uniform(*HEIGHTS) - arms[:, 2].min()
    added = Atoms(gas.numbers, arms + across + [0.0, 0.0, height])
    both = slab + added
    both.set_tags([*slab.get_tags(), *[ADSORBATE] * len(added)])
    return both


def write_lifts(labels: Path, clean: Path, teacher: Teacher, target: Path) -> None:
    """Write labeled molecules above slabs.

    Args:
        labels: folder of labeled gas molecules.
        clean: file of clean slabs of the wide set.
        teacher: labels.
        target: file that is written.
    """
    made = lifts(gas_molecules(labels), clean_slabs(clean))
    boxed = [_boxed(lift.molecule) for lift in made]
    gas, _ = teacher(boxed)
    slab, _ = teacher([lift.slab for lift in made])
    energies, forces = teacher([lift.both for lift in made])
    found = []
    for k, lift in enumerate(made):
        atoms, surface = lift.both.copy(), str(lift.slab.info["surface"])
        atoms.info = {"sid": f"lift-{k}", "parent": f"lift-{k}", "surface": surface}
        atoms.info["REF_energy"] = lift.energy + energies[k] - slab[k] - gas[k]
        atoms.set_array("REF_forces", forces[k])
        found.append(atoms)
    write(target, found, format="extxyz")
    print(f"{target.name}: {len(found)} structures", flush=True)


def _boxed(molecule: Atoms) -> Atoms:
    """A molecule in a box of its own."""
    return Atoms(molecule.numbers, molecule.positions, cell=[14.0, 14.0, 14.0], pbc=True)
