"""Fit the displacements of 45 atoms around a Ba atom of BaTiO3 from the cubic to the tetragonal and
the orthorhombic phase.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
import spglib
import torch
from broken import read_theta, recovered, sources, symmetric_part
from descent import descend
from network import Cluster, RelaxedStack, drawn
from record import Fit
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from geocalc.symmetry import identify_point_group, point_group

FOLDER = "batio3-phases"
SPECIES = (56, 22, 8)
IRREPS = ("3x0e", "2x0e + 2x1o + 1x2e", "1x1o")
# Angstrom; every atom hears the Ba atom in the middle after two convolutions
CUTOFF, L_HARMONICS, L_RELAXED = 3.6, 2, 2
STEPS = 20
SAME = 1e-4  # Angstrom
OTHER_SPECIES = 1e3  # Angstrom; no atom is matched with one of another element


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase and how its cell lies in the cubic one.

    Attributes:
        name: of it.
        file: of its atoms.
        basis: (3, 3) rows, the vectors that were a, b and c of the cubic cell in those of the file.
    """

    name: str
    file: str
    basis: tuple[tuple[float, float, float], ...]


PSEUDO_CUBIC = ((0.5, 0.5, 0.0), (-0.5, 0.5, 0.0), (0.0, 0.0, 1.0))
SAME_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
CUBIC = Phase(name="cubic", file="BaTiO3_cubic.vasp", basis=SAME_AXES)
TETRAGONAL = Phase(name="tetragonal", file="BaTiO3_tetra.vasp", basis=SAME_AXES)
ORTHORHOMBIC = Phase(name="orthorhombic", file="BaTiO3_orth.vasp", basis=PSEUDO_CUBIC)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Atoms about a Ba atom.

    Attributes:
        numbers: (45,).
        positions: (45, 3) Angstrom, from the Ba atom, along the cubic axes.
        space_group: of the crystal, from spglib.
    """

    numbers: np.ndarray
    positions: np.ndarray
    space_group: str


def read_phase(phase: Phase, data: Path) -> Surroundings:
    """The atoms of a phase, along cubic axes: those that a and b, or their sum and difference,
    show.
    """
    atoms = ase.io.read(data / FOLDER / phase.file, format="vasp")
    numbers, cell, basis = atoms.numbers, atoms.cell.array, np.array(phase.basis)
    place = atoms.positions - atoms.positions[list(numbers).index(SPECIES[0])]
    # the cell of the file is along Cartesian axes
    turn = (basis / np.linalg.norm(basis, axis=1, keepdims=True)).T
    return Surroundings(
        numbers=numbers,
        positions=place @ turn,
        space_group=_space_group(numbers, place, basis @ cell),
    )


@dataclass(frozen=True, kw_only=True)
class Transition:
    """From the cubic phase to another.

    Attributes:
        cluster: the cubic atoms.
        displacements: (45, 3) Angstrom, their mean is zero.
        floor: mean squared error (Angstrom^2) of the best equivariant answer.
        before, after: (n, 3, 3) symmetries of the cubic atoms, and those that the displacements
            keep.
        space_group: of the other phase.
    """

    cluster: Cluster
    displacements: Tensor
    floor: float
    before: np.ndarray
    after: np.ndarray
    space_group: str


def transition(phase: Phase, data: Path) -> Transition:
    """Which cubic atom moves where."""
    cubic, other = read_phase(CUBIC, data), read_phase(phase, data)
    away = np.linalg.norm(cubic.positions[:, None] - other.positions[None], axis=2)
    away += OTHER_SPECIES * (cubic.numbers[:, None] != other.numbers[None])
    moved = other.positions[linear_sum_assignment(away)[1]] - cubic.positions
    moved -= moved.mean(axis=0)
    before = point_group("Oh")
    kept = [
        g for g in before if np.abs(moved[sources(cubic.positions, g)] @ g.T - moved).max() < SAME
    ]
    best = symmetric_part(moved, cubic.positions, before, before)
    species = torch.from_numpy((cubic.numbers[:, None] == np.array(SPECIES)).astype(np.float64))
    return Transition(
        cluster=Cluster.build(torch.from_numpy(cubic.positions), species, CUTOFF),
        displacements=torch.from_numpy(moved),
        floor=float(((moved - best) ** 2).mean()),
        before=before,
        after=np.array(kept),
        space_group=other.space_group,
    )


def fit_phase(phase: Phase, data: Path, *, relaxed: bool, seed: int, steps: int = STEPS) -> Fit:
    """Train a relaxed network or its equivariant twin.

    Args:
        phase: to learn.
        data: folder of data sets.
        relaxed: or not.
        seed: of the weights.
        steps: at most.
    """
    task = transition(phase, data)
    settings = {
        "l_harmonics": L_HARMONICS,
        "l_relaxed": L_RELAXED if relaxed else 0,
        "cutoff": CUTOFF,
    }
    network = drawn(
        lambda: RelaxedStack(IRREPS, **settings, neighbors=task.cluster.neighbors), seed
    )
    began = time.perf_counter()
    descent = descend(network, lambda: network(task.cluster) - task.displacements, steps)
    parts = read_theta(network, task.after)
    return Fit(
        name=phase.name,
        network="relaxed" if relaxed else "equivariant",
        seed=seed,
        group=f"{identify_point_group(task.after)}, {task.space_group}",
        recovered=recovered(parts, task.before),
        target=float(task.displacements.square().mean()),
        floor=task.floor,
        loss=descent.losses[-1],
        losses=descent.losses,
        seconds=time.perf_counter() - began,
        parts=parts,
    )


def _space_group(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray) -> str:
    """Of the crystal whose atoms these are, some of them more than once."""
    scaled = positions @ np.linalg.inv(cell)
    away = scaled[:, None] - scaled[None]
    same = (np.abs((away - np.rint(away)) @ cell).max(axis=2) < SAME) & (
        numbers[:, None] == numbers[None]
    )
    first = np.unique(same.argmax(axis=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how spglib tells errors
        found = spglib.get_symmetry_dataset((cell, scaled[first], numbers[first]), symprec=SAME)
    return f"{found.international} ({found.number})"
