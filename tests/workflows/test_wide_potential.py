"""The wide potential: parts of its data sets, agreement of teachers, and its measurements."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write
from ase.optimize import BFGS
from helpers.workflow_modules import workflow_modules


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    with workflow_modules(
        "wide-potential",
        [
            *("parents", "wide", "agree", "real", "label", "slabs", "lifts"),
            *("corrected", "sites"),
            *("measure", "panel", "lights", "peer_table"),
        ],
    ) as found:
        yield found


def test_parts_depend_on_names_alone(modules) -> None:
    part_of = modules["parents"].part_of
    parts = [part_of(f"M{k % 40}(111)", f"s{k}") for k in range(400)]
    assert parts == [part_of(f"M{k % 40}(111)", f"s{k}") for k in range(400)]
    assert set(parts) == {"train", "surface", "structure"}
    by_surface = {k % 40 for k, part in enumerate(parts) if part == "surface"}
    assert all(parts[k] == "surface" for k in range(400) if k % 40 in by_surface)


def emt_of(structures: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    energies, forces = [], []
    for atoms in structures:
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces(apply_constraint=False))
        atoms.calc = None
    return np.array(energies), np.concatenate(forces)


def test_labels_that_a_second_teacher_contradicts_are_dropped(modules, tmp_path) -> None:
    anchor = fcc111("Cu", (2, 2, 3), vacuum=7.0)
    anchor.set_constraint(FixAtoms(range(8)))
    copies = [anchor.copy() for _ in range(4)]
    for copy in copies[1:]:
        copy.positions[8:] += np.random.default_rng(0).normal(scale=0.1, size=(4, 3))
    energies, forces = emt_of(copies)
    for k, (copy, force) in enumerate(zip(copies, np.split(forces, 4), strict=True)):
        copy.info = {"parent": "p", "sid": f"p#{k}", "kind": "warmed" if k else "relaxed"}
        copy.info["REF_energy"] = energies[k] - energies[0]
        copy.set_array("REF_forces", force - forces[:12])
    write(tmp_path / "labels.extxyz", copies)
    tell = modules["agree"].keep_agreed
    # another zero and the same differences: the anchors take constant forces away
    other = forces + np.tile(np.full((12, 3), 0.2), (4, 1))
    moves = np.array([0.2 * (copy.positions - anchor.positions).sum() for copy in copies])
    tell(tmp_path / "labels.extxyz", energies + 7.0 - moves, other, tmp_path / "all.extxyz")
    assert len(read(tmp_path / "all.extxyz", ":")) == 4
    wrong = other.copy()
    wrong[24:36] *= -1.0
    tell(tmp_path / "labels.extxyz", energies + 7.0 - moves, wrong, tmp_path / "some.extxyz")
    kept = [atoms.info["sid"] for atoms in read(tmp_path / "some.extxyz", ":")]
    assert kept == ["p#0", "p#1", "p#3"]


def test_the_area_under_the_curve_counts_pairs_in_order(modules) -> None:
    auroc = modules["measure"].auroc
    gross = np.array([False, False, True, True])
    assert auroc(np.array([0.0, 1.0, 2.0, 3.0]), gross) == 1.0
    assert auroc(np.array([3.0, 2.0, 1.0, 0.0]), gross) == 0.0
    assert auroc(np.array([1.0, 1.0, 1.0, 1.0]), gross) == 0.5
    assert auroc(np.array([0.0, 2.0, 1.0, np.inf]), gross) == 0.75
    assert np.isnan(auroc(np.zeros(2), np.zeros(2, bool)))


def test_the_panel_has_sound_starts(modules) -> None:
    starts = list(modules["panel"].panel())
    assert len({atoms.info["sid"] for atoms in starts}) == len(starts) == 8 * 18
    for atoms in starts:
        assert atoms.pbc.all()
        assert set(atoms.get_tags()) == {0, 1, 2}
        guest = atoms.get_tags() == 2
        near = atoms.get_all_distances(mic=True)[guest][:, ~guest].min()
        assert 1.5 < near < 3.6, atoms.info["sid"]


def test_a_stretched_bond_of_the_panel_is_told(modules) -> None:
    start = modules["panel"].start_of("CO", "Pt")
    end = start.copy()
    assert modules["panel"].bond_error(start, end, start) == pytest.approx(0.0)
    end.positions[-1] += 0.1 * (end.positions[-1] - end.positions[-2])
    assert modules["panel"].bond_error(start, end, start) == pytest.approx(0.1, abs=1e-6)
    broken = start.copy()
    broken.positions[-1, 2] += 3.0
    assert modules["panel"].bond_error(start, end, broken) is None


def test_larger_clean_slabs_have_the_labels_that_the_teacher_would_give_them(modules) -> None:
    slabs = modules["slabs"]
    starts = [one for one in slabs.small_slabs() if one.info["sid"] == "Cu-fcc111-4--0.01"]
    (start,) = starts
    end = start.copy()
    end.calc = EMT()
    assert BFGS(end, logfile=None).run(fmax=0.005, steps=100)
    end.calc = None
    slab = slabs.Slab.of(start, end)
    energies, forces = emt_of([slab.start, slab.end, slab.still, slab.warm])
    labeled = slab.labeled(energies, np.split(forces, np.cumsum([4, 4, 16])))
    assert [atoms.info["kind"] for atoms in labeled] == ["relaxed", "start", "warmed"]
    assert [len(atoms) for atoms in labeled] == [36, 36, 16]
    (relaxed, direct), _ = emt_of([labeled[0], labeled[1]])
    assert labeled[0].info["REF_energy"] == 0.0
    assert labeled[1].info["REF_energy"] == pytest.approx(direct - relaxed, abs=1e-6)
    free = labeled[1].get_tags() > 0
    _, direct_forces = emt_of([labeled[1]])
    assert labeled[1].arrays["REF_forces"][free] == pytest.approx(direct_forces[free], abs=0.006)


def test_molecules_are_put_above_slabs(modules) -> None:
    lifts = modules["lifts"]
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    slab.set_tags(0)
    gas = {"H3N": "NH3", "H2O": "H2O"} | {n: n for n in ("CO", "CH4", "CO2", "C2H4", "H2")}
    molecules = {name: (molecule(formula), 0.5) for name, formula in gas.items()}
    found = lifts.lifts(molecules, [slab] * 20)
    assert len(found) == 40
    again = lifts.lifts(molecules, [slab] * 20)
    for lift, other in zip(found, again, strict=True):
        assert np.array_equal(lift.both.positions, other.both.positions)
        guest = lift.both.get_tags() == 2
        height = lift.both.positions[guest, 2].min() - slab.positions[:, 2].max()
        assert lifts.HEIGHTS[0] < height < lifts.HEIGHTS[1]
        assert sorted(lift.both.numbers[guest]) == sorted(lift.molecule.numbers)


def test_energies_of_the_panel_are_compared_at_the_same_site(modules) -> None:
    panel = modules["panel"]
    assert panel.coordination(panel.start_of("CO", "Pt")) == 1
    assert panel.coordination(panel.start_of("CO(fcc)", "Pt")) == 3
    assert panel.formula_of("CO(fcc)") == "CO"
    assert panel.nearest([1.1, 1.4], 1.3) == 1.4
    assert panel.nearest([], 1.3) is None


def test_rates_of_lights(modules) -> None:
    lights = modules["lights"]
    some = [
        lights.Judged(0.1, "green", 0.2),
        lights.Judged(-0.2, "amber", 1.2),
        lights.Judged(0.9, "red", 3.0),
        lights.Judged(-0.7, "green", 0.4),
    ]
    found = lights.rates(some)
    assert (found.n, found.gross, found.flagged, found.false_alarms) == (4, 0.5, 0.5, 0.5)
    assert found.auroc == 0.75
    assert lights.rates(some[:2]).flagged is None


def test_a_peer_that_refuses_frames_is_measured_on_the_others(modules, tmp_path) -> None:
    peers = modules["peer_table"]
    frames = []
    for name in modules["measure"].FORCES:
        for k in range(2):
            atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
            atoms.pbc = True
            atoms.info = {"sid": f"{name}-{k}", "set": name, "level": "PBE"}
            atoms.set_array("REF_forces", np.full((12, 3), 0.5))
            frames.append(atoms)
    write(tmp_path / "frames.extxyz", frames)
    forces = np.full((len(frames), 12, 3), 0.4)
    forces[1] = np.nan
    seconds = np.full(len(frames), 0.1)
    np.savez(tmp_path / "told.npz", forces=forces.reshape(-1, 3), seconds=seconds)
    found = peers.peer_errors("mine", tmp_path / "frames.extxyz", tmp_path / "told.npz", (12, 12))
    first, *others = found.sets.values()
    assert (first.n, first.refused) == (1, 1)
    assert all((one.n, one.refused) == (2, 0) for one in others)
    assert all(one.mae == pytest.approx(0.1) for one in found.sets.values())
    assert found.per_second == pytest.approx(10.0)
    peers.keep_errors(found, tmp_path / "errors.json")
    assert peers.read_errors(tmp_path / "errors.json") == [found]
    text = peers.table([found])
    assert "| mine | 0.100 (1 refused) | 0.100 |" in text
    assert "| predicting zero | 0.500 |" in text


def on_top(symbols: str, metal: str, height: float = 1.8) -> Atoms:
    atoms = fcc111(metal, (2, 2, 3), a=3.9, vacuum=7.0)
    guest = Atoms(symbols, [[0, 0, 1.15 * k] for k in range(len(Atoms(symbols)))])
    guest.positions += atoms.positions[8] + [0, 0, height]
    tags = [0] * 8 + [1] * 4 + [2] * len(guest)
    atoms = atoms + guest
    atoms.set_tags(tags)
    return atoms


def test_a_site_is_what_an_adsorbate_touches(modules) -> None:
    site_of = modules["corrected"].Site.of
    atoms = on_top("CO", "Pt")
    assert site_of(atoms, "CO").metals == {"Pt": 1.0}
    atoms.symbols[8] = "Cu"
    assert site_of(atoms, "CO").metals == {"Cu": 1.0}
    torn = atoms.copy()
    torn.positions[-1, 2] += 2.0
    assert site_of(torn, "CO") is None
    assert site_of(on_top("CO", "Pt", height=5.0), "CO") is None


def test_a_correction_is_fitted_and_covers_what_it_fits(modules) -> None:
    corrected = modules["corrected"]
    rng = np.random.default_rng(0)
    of_adsorbate, of_metal = {"H": 3.6, "CO": 17.5, "C": 10.6}, {"Pt": 0.2, "Ni": -0.3}
    sites, missing = [], []
    for _ in range(300):
        name, metal = rng.choice(list(of_adsorbate)), rng.choice(list(of_metal))
        noise = rng.normal(scale=0.5) if name == "C" else 0.0
        sites.append(corrected.Site(str(name), list(str(name)), {str(metal): 1.0}))
        missing.append(of_adsorbate[name] + of_metal[metal] + noise)
    rare = corrected.Site("H", ["H"], {"Au": 1.0})
    correction = corrected.fit_correction([*sites, rare], np.array([*missing, 9.0]))
    assert correction.covered == ["CO", "H"]
    assert correction.metals == ["Ni", "Pt"]
    mixed = corrected.Site("CO", ["C", "O"], {"Pt": 0.5, "Ni": 0.5})
    assert correction(mixed) == pytest.approx(17.45, abs=0.05)


def test_corrected_energies_are_those_of_slabs_and_of_what_is_covered(modules, tmp_path) -> None:
    corrected = modules["corrected"]
    sites = [corrected.Site("CO", ["C", "O"], {"Pt": 1.0})] * 20
    correction = corrected.fit_correction(sites, np.full(20, 17.0))
    frames = []
    for number, (atoms, adsorbate, energy) in enumerate(
        [
            (on_top("CO", "Pt")[:12], "clean", -60.0),
            (on_top("CO", "Pt")[:12], "clean", -60.5),
            (on_top("CO", "Pt"), "CO", -76.5),
            (on_top("OH", "Pt"), "OH", -70.0),
        ]
    ):
        name = "clean" if adsorbate == "clean" else str(number)
        atoms.info = {"sid": f"s-{name}", "system": "s", "adsorbate": adsorbate, "frame": number}
        atoms.info["REF_energy"] = energy
        atoms.set_array("REF_forces", np.zeros((len(atoms), 3)))
        frames.append(atoms)
    paths, target = tmp_path / "paths.extxyz", tmp_path / "corrected.extxyz"
    write(paths, frames, format="extxyz")
    corrected.write_corrected(tmp_path / "none", paths, correction, target)
    found = read(target, ":")
    assert [one.info["adsorbate"] for one in found] == ["clean", "clean", "CO"]
    energies = [one.info["REF_energy"] for one in found]
    assert energies == pytest.approx([0.5, 0.0, -16.0 + 17.0], abs=0.05)
    assert len({one.info["name"] for one in found}) == 3


def test_sites_are_slabs_and_the_same_with_an_adsorbate(modules) -> None:
    sites = modules["sites"]
    made = list(islice(sites.sites(), 3 * (sites.PER_SLAB + 1)))
    again = list(islice(sites.sites(), len(made)))
    assert all(one == other for one, other in zip(made, again, strict=True))
    for start in range(0, len(made), sites.PER_SLAB + 1):
        clean, *loaded = made[start : start + sites.PER_SLAB + 1]
        for atoms in loaded:
            chosen = atoms.get_tags() == 2
            assert atoms[~chosen] == clean
            near = atoms.get_all_distances(mic=True)[np.ix_(chosen, ~chosen)].min()
            assert 1.2 < near < 3.0
