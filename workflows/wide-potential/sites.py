"""Small adsorbates all over the surfaces of the metals that DFT knows, for a teacher to relax a few steps.

The wide set has 50 adsorbates on 35 metals, and few of those whose energies can be corrected to the
default level; see `corrected.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc110, fcc111, fcc211, hcp0001
from ase.constraints import FixAtoms
from ase.data import atomic_numbers, covalent_radii, reference_states
from parents import ADSORBATE
from scipy.spatial.transform import Rotation

FCC, HCP = ("Ag", "Au", "Cu", "Ir", "Ni", "Pd", "Pt", "Rh"), ("Co", "Ru")
# lattice constants in fcc cells (Angstrom) of metals that are not fcc
AS_FCC = {"Co": 3.54, "Ru": 3.82}
BUILDERS = {  # and cells
    "fcc111": (fcc111, (2, 2, 4)),
    "fcc100": (fcc100, (2, 2, 4)),
    "fcc110": (fcc110, (2, 2, 4)),
    "fcc211": (fcc211, (3, 2, 3)),
}
# share of each
FACETS = {"fcc111": 0.25, "fcc100": 0.2, "fcc110": 0.2, "fcc211": 0.35}
CLOSE_PACKED = 0.5  # share of slabs of hcp metals that are hcp0001
ALLOYED = 0.4  # share of slabs of two metals
STRAIN = 0.012  # standard deviation, both directions together
N_SLABS, PER_SLAB, SEED = 199, 4, 11
TILT = 35.0  # degrees
VACUUM = 7.0  # Angstrom on each side
ADSORBATES = {
    "H": Atoms("H"),
    "O": Atoms("O"),
    "CO": Atoms("CO", [[0, 0, 0], [0, 0, 1.16]]),
    "OH": Atoms("OH", [[0, 0, 0], [0.9, 0, 0.36]]),
    "CH": Atoms("CH", [[0, 0, 0], [0, 0, 1.1]]),
    "CH2": Atoms("CHH", [[0, 0, 0], [0.9, 0, 0.62], [-0.9, 0, 0.62]]),
    "CH3": Atoms(
        "CHHH", [[0, 0, 0], [1.03, 0, 0.37], [-0.515, 0.892, 0.37], [-0.515, -0.892, 0.37]]
    ),
}


def sites() -> Iterator[Atoms]:
    """Clean slabs `<name>-clean`, and after each the same with an adsorbate, `<name>-0` and on."""
    for number in range(N_SLABS):
        rng = np.random.default_rng([SEED, number])
        slab = _slab(rng)
        name, surface = f"site-{number}", slab.info["surface"]
        slab.info = {
            "sid": f"{name}-clean",
            "system": name,
            "adsorbate": "clean",
            "surface": surface,
        }
        yield slab
        for k, adsorbate in enumerate(rng.choice(list(ADSORBATES), PER_SLAB, replace=False)):
            atoms = _with(slab, ADSORBATES[str(adsorbate)], rng)
            atoms.info = slab.info | {"sid": f"{name}-{k}", "adsorbate": str(adsorbate)}
            yield atoms


def _slab(rng: np.random.Generator) -> Atoms:
    """A random slab."""
    metals = (*FCC, *HCP)
    metal, other = (str(one) for one in rng.choice(metals, 2, replace=False))
    facet = str(rng.choice(list(FACETS), p=list(FACETS.values())))
    strain = 1 + rng.normal(scale=STRAIN)
    if metal in HCP and rng.uniform() < CLOSE_PACKED:
        state = reference_states[atomic_numbers[metal]]
        a = state["a"] * strain
        slab, facet = hcp0001(metal, (2, 2, 4), a, a * state["c/a"], VACUUM), "hcp0001"
    share = float(rng.choice([0.25, 0.5])) if rng.uniform() < ALLOYED else 0.0
    if facet != "hcp0001":
        a = strain * ((1 - share) * _constant(metal) + share * _constant(other))
        build, cells = BUILDERS[facet]
        slab = build(metal, cells, a, VACUUM)
    if share:
        swapped = rng.permutation(len(slab))[: round(share * len(slab))]
        slab.symbols[swapped] = other
    heights = np.sort(slab.positions[:, 2])
    fixed = slab.positions[:, 2] < heights[len(slab) // 2] - 0.1
    slab.set_constraint(FixAtoms(mask=fixed))
    slab.set_tags(np.where(fixed, 0, 1))
    slab.pbc = True
    slab.info = {"surface": f"{metal}{f'{other}{share}' if share else ''}-{facet}"}
    return slab


def _constant(metal: str) -> float:
    """Lattice constant of the fcc cell, Angstrom."""
    return AS_FCC.get(metal) or float(reference_states[atomic_numbers[metal]]["a"])


def _with(slab: Atoms, adsorbate: Atoms, rng: np.random.Generator) -> Atoms:
    """A slab with an adsorbate at a random place, as near as bonds allow."""
    turned = adsorbate.copy()
    turn = Rotation.from_euler("z", rng.uniform(0, 360), degrees=True)
    axis = rng.normal(size=2)
    lean = np.deg2rad(rng.uniform(0, TILT)) / np.linalg.norm(axis)
    turned.positions = (Rotation.from_rotvec([*(lean * axis), 0.0]) * turn).apply(
        adsorbate.positions
    )
    across = rng.uniform(size=2) @ slab.cell[:2, :2]
    both = slab.copy()
    add_adsorbate(both, turned, 0.0, position=across)
    chosen = np.arange(len(both)) >= len(slab)
    both.set_tags(np.where(chosen, ADSORBATE, np.append(slab.get_tags(), [0] * len(turned))))
    radii = covalent_radii[both.numbers]
    wanted = np.add.outer(radii[chosen], radii[~chosen]) * rng.uniform(0.95, 1.15)
    while True:
        distances = both.get_all_distances(mic=True)[np.ix_(chosen, ~chosen)]
        if (distances > wanted).all():
            return both
        both.positions[chosen, 2] += 0.1
