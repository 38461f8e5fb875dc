"""GeoCalc under ASE: optimizers, paths and dynamics, its cache, its tags, and what it says of
itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from helpers.models import write_model
from helpers.structures import adslab, cloud, rattled, systems_of

from geocalc import GeoCalc
from geocalc.core.systems import Prediction, Systems
from geocalc.errors import InputError, NonFiniteError
from geocalc.potentials.load import LoadedModel, load_model
from geocalc.structures.tags import TagsConverted

CLOSE = 1e-12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def calc(folder: Path) -> GeoCalc:
    return GeoCalc(folder, device="cpu", dtype="float64")


@pytest.fixture
def fresh(folder: Path) -> Callable[[Atoms], float]:
    """Energy of a structure by a calculator that has seen nothing else."""

    def energy(atoms: Atoms) -> float:
        copy = atoms.copy()
        copy.calc = GeoCalc(folder, device="cpu", dtype="float64")
        return copy.get_potential_energy()

    return energy


def slab(adsorbate: str = "O") -> Atoms:
    atoms = rattled(adslab(adsorbate, "fcc", size=(2, 2, 2)))
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 0))
    atoms.info.clear()  # ASE's builder leaves an entry that its extxyz writer cannot write
    return atoms


def built_by_ase() -> Atoms:
    """Tags count layers from the top and the adsorbate has 0, as ASE's builders leave them."""
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop")
    return atoms


# Driven by ASE


@pytest.mark.parametrize("optimizer", [BFGS, FIRE])
def test_optimizers_lower_the_energy_and_hold_fixed_atoms(calc: GeoCalc, optimizer: type) -> None:
    atoms = slab()
    start = atoms.positions.copy()
    atoms.calc = calc
    before = atoms.get_potential_energy()
    optimizer(atoms, logfile=None).run(fmax=1e-3, steps=8)
    held = atoms.get_tags() == 0
    assert atoms.get_potential_energy() < before - 1e-3
    assert np.array_equal(atoms.positions[held], start[held])
    assert np.abs(atoms.positions[~held] - start[~held]).max() > 1e-3


def test_langevin_dynamics_moves_and_keeps_a_finite_energy(calc: GeoCalc) -> None:
    atoms = slab()
    atoms.calc = calc
    start = atoms.positions.copy()
    Langevin(
        atoms, units.fs, temperature_K=300, friction=0.02, fixcm=False, rng=np.random.default_rng(1)
    ).run(5)
    assert np.isfinite(atoms.get_total_energy())
    assert np.abs(atoms.positions - start).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_a_nudged_elastic_band(folder: Path, shared: bool) -> None:
    first, last = slab(), slab()
    last.positions[-1] += (1.1, 0.7, 0.1)
    images = [first, *(first.copy() for _ in range(2)), last]
    one = GeoCalc(folder, dtype="float64")
    for image in images:
        image.calc = one if shared else GeoCalc(folder, dtype="float64")
    band = NEB(images, method="improvedtangent", allow_shared_calculator=shared)
    band.interpolate()
    before = band.get_forces()
    FIRE(band, logfile=None).run(fmax=1e-3, steps=3)
    assert before.shape == (2 * len(first), 3)
    assert np.abs(band.get_forces()).sum() != pytest.approx(np.abs(before).sum())
    for image in images:
        copy = image.copy()
        copy.calc = GeoCalc(folder, dtype="float64")
        assert image.get_potential_energy() == pytest.approx(copy.get_potential_energy(), abs=CLOSE)


def test_numbers_are_those_of_the_potential(calc: GeoCalc, folder: Path) -> None:
    atoms = slab("CO")
    atoms.calc = calc
    expected = load_model(folder, dtype="float64")(systems_of(atoms))
    assert atoms.get_potential_energy() == pytest.approx(float(expected.energy[0]), abs=CLOSE)
    np.testing.assert_allclose(
        atoms.get_forces(apply_constraint=False), expected.forces.numpy(), rtol=0, atol=CLOSE
    )
    assert np.array_equal(atoms.get_forces()[atoms.get_tags() == 0], np.zeros((4, 3)))
    assert calc.energy_std == pytest.approx(float(expected.energy_std[0]), abs=CLOSE)


def test_a_constraint_that_only_ase_knows_is_left_to_ase(calc: GeoCalc) -> None:
    atoms = slab("CO")
    atoms.set_constraint([*atoms.constraints, FixBondLength(8, 9)])
    length = atoms.get_distance(8, 9)
    atoms.calc = calc
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=3)
    assert atoms.get_distance(8, 9) == pytest.approx(length, abs=1e-9)
    assert len(atoms.constraints) == 2


@pytest.mark.parametrize(
    "atoms", [cloud(), molecule("H2O"), Atoms("O"), Atoms("Cu", cell=(2.5, 2.5, 2.5), pbc=True)]
)
def test_molecules_atoms_and_crystals(calc: GeoCalc, atoms: Atoms) -> None:
    atoms = atoms[[n in (1, 6, 8, 29) for n in atoms.numbers]]
    atoms.calc = calc
    assert np.isfinite(atoms.get_potential_energy())
    np.testing.assert_allclose(atoms.get_forces().sum(0), np.zeros(3), atol=1e-10)


def test_float32_is_close_to_float64(folder: Path) -> None:
    atoms = slab("CO")
    found = []
    for dtype in ("float32", "float64"):
        atoms.calc = GeoCalc(folder, device="cpu", dtype=dtype)
        found.append((atoms.get_potential_energy(), atoms.get_forces()))
    assert found[0][0] != found[1][0]
    assert found[0][0] == pytest.approx(found[1][0], abs=2e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=2e-4)
    assert found[0][1].dtype == np.float64


# Results and their cache


def test_free_energy_is_the_energy(calc: GeoCalc) -> None:
    atoms = slab()
    atoms.calc = calc
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert calc.results["free_energy"] == calc.results["energy"]


def test_every_calculation_gives_results_of_its_own(calc: GeoCalc) -> None:
    atoms = slab()
    atoms.calc = calc
    energy = atoms.get_potential_energy()
    first, forces = calc.results, calc.results["forces"].copy()
    atoms.get_forces()[:] = 7.0
    assert np.array_equal(atoms.get_forces(apply_constraint=False), forces)
    atoms.positions[-1, 2] += 0.1
    atoms.get_potential_energy()
    assert calc.results is not first
    assert first["energy"] == energy
    assert np.array_equal(first["forces"], forces)


def test_an_unchanged_structure_is_not_calculated_again(calc: GeoCalc) -> None:
    atoms = slab()
    atoms.calc = calc
    atoms.get_potential_energy()
    results = calc.results
    atoms.get_forces()
    atoms.get_potential_energy(force_consistent=True)
    assert calc.results is results


def test_one_calculator_on_two_structures(calc: GeoCalc, fresh: Callable[[Atoms], float]) -> None:
    one, two = slab("O"), slab("CO")
    one.calc = two.calc = calc
    for atoms in (one, two, one, two):
        assert atoms.get_potential_energy() == pytest.approx(fresh(atoms), abs=CLOSE)


@pytest.mark.filterwarnings("ignore::geocalc.structures.tags.TagsConverted")
def test_two_structures_that_differ_only_in_geometry_have_tags_of_their_own(
    calc: GeoCalc, fresh: Callable[[Atoms], float]
) -> None:
    plain = built_by_ase()
    plain.set_tags(0)
    reordered = plain.copy()
    # top layer first
    reordered.positions[:12] = plain.positions[[*range(8, 12), *range(4, 8), *range(4)]]
    plain.calc = reordered.calc = calc
    for atoms in (plain, reordered, plain):
        assert atoms.get_potential_energy() == pytest.approx(fresh(atoms), abs=CLOSE)
    assert plain.get_potential_energy() == pytest.approx(reordered.get_potential_energy(), abs=1e-9)


def test_a_change_of_tags_counts(calc: GeoCalc, fresh: Callable[[Atoms], float]) -> None:
    atoms = slab()
    atoms.calc = calc
    before = atoms.get_potential_energy()
    tags = atoms.get_tags()
    tags[:2] = 1
    atoms.set_tags(tags)
    assert calc.check_state(atoms) == ["tags"]
    after = atoms.get_potential_energy()
    assert abs(after - before) > 1e-6
    assert after == pytest.approx(fresh(atoms), abs=CLOSE)


def test_a_model_that_reads_no_tags_ignores_them(tmp_path: Path) -> None:
    atoms = slab()
    atoms.calc = GeoCalc(
        write_model(tmp_path, card={"reads_tags": False}), dtype="float64", strict=True
    )
    before = atoms.get_potential_energy()
    atoms.set_tags(range(len(atoms)))
    assert atoms.calc.check_state(atoms) == []
    atoms.positions[0] += 0.0
    atoms.calc.reset()
    assert atoms.get_potential_energy() == before


@pytest.mark.parametrize("change", ["cell", "pbc", "numbers"])
def test_whatever_else_changes_counts(
    change: str, calc: GeoCalc, fresh: Callable[[Atoms], float]
) -> None:
    atoms = slab()
    atoms.calc = calc
    before = atoms.get_potential_energy()
    if change == "cell":
        atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
    elif change == "pbc":
        atoms.pbc = (True, False, False)
    else:
        atoms.numbers[-1] = 6
    assert abs(atoms.get_potential_energy() - before) > 1e-6
    assert atoms.get_potential_energy() == pytest.approx(fresh(atoms), abs=CLOSE)


def test_the_structure_is_left_alone(calc: GeoCalc) -> None:
    atoms = built_by_ase()
    before = {name: value.copy() for name, value in atoms.arrays.items()}
    atoms.calc = calc
    with pytest.warns(TagsConverted):
        atoms.get_forces()
    assert set(atoms.arrays) == set(before)
    assert all(np.array_equal(atoms.arrays[name], value) for name, value in before.items())


# Tags


def test_tags_of_ase_are_converted_once_and_not_reread_along_a_path(
    calc: GeoCalc, fresh: Callable[[Atoms], float]
) -> None:
    atoms = built_by_ase()
    oc20 = atoms.copy()
    oc20.set_tags(np.select([atoms.get_tags() == 0, atoms.get_tags() == 1], [2, 1], 0))
    atoms.calc = calc
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        BFGS(atoms, logfile=None).run(fmax=1e-3, steps=4)
        # the adsorbate leaves, and ends below the slab, where it would be read otherwise
        for _ in range(12):
            atoms.positions[-2:] -= (0, 0, 0.9)
            last = atoms.get_potential_energy()
    assert [w.category for w in caught] == [TagsConverted]
    assert "converted" in str(caught[0].message)
    oc20.positions[:] = atoms.positions
    assert last == pytest.approx(fresh(oc20), abs=CLOSE)


def test_a_deformed_cell_keeps_its_tags(calc: GeoCalc) -> None:
    atoms = built_by_ase()
    atoms.calc = calc
    with pytest.warns(TagsConverted):
        before = atoms.get_potential_energy()
    # a second reading would warn, which is an error here
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
    assert atoms.get_potential_energy() != before


def test_strict_refuses_to_convert(folder: Path) -> None:
    atoms = built_by_ase()
    atoms.calc = GeoCalc(folder, strict=True)
    with pytest.raises(InputError, match="tags are not in the OC20 convention; without strict"):
        atoms.get_potential_energy()


# What it says of itself


def test_implemented_properties_are_those_it_gives(calc: GeoCalc) -> None:
    atoms = slab()
    atoms.calc = calc
    assert calc.implemented_properties == ["energy", "free_energy", "forces"]
    for name in calc.implemented_properties:
        assert calc.get_property(name, atoms) is not None
    assert set(calc.results) == set(calc.implemented_properties)
    assert set(calc.export_properties()) == {*calc.results, "natoms"}
    assert SinglePointCalculator(atoms, **calc.results).results["energy"] == calc.results["energy"]


def test_stress_is_refused_with_the_reason(calc: GeoCalc) -> None:
    atoms = slab()
    atoms.calc = calc
    with pytest.raises(
        PropertyNotImplementedError,
        match=r"tiny was not trained on stress \(s2ef\); choose a model that has",
    ):
        atoms.get_stress()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_magnetic_moment()


def test_forces_are_refused_where_there_are_none(tmp_path: Path) -> None:
    atoms = slab()
    atoms.calc = GeoCalc(
        write_model(tmp_path, card={"task": "is2re", "force_mode": "none", "conservative": False})
    )
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError, match=r"not trained on forces \(is2re\)"):
        atoms.get_forces()


def test_stress_of_a_model_that_was_trained_on_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path, card={"stress": True})
    calc = GeoCalc(folder, dtype="float64")
    assert calc.implemented_properties == ["energy", "free_energy", "forces", "stress"]
    atoms = slab()
    atoms.calc = calc
    expected = load_model(folder, dtype="float64")(systems_of(atoms)).stress
    assert expected is not None
    np.testing.assert_allclose(
        atoms.get_stress(voigt=False), expected[0].numpy(), rtol=0, atol=CLOSE
    )
    free = molecule("H2O")
    free.calc = calc
    assert np.isfinite(free.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError, match="stress"):
        free.get_stress()


def test_provenance_survives_a_trajectory(calc: GeoCalc, folder: Path, tmp_path: Path) -> None:
    atoms = slab()
    atoms.calc = calc
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    write(tmp_path / "one.traj", atoms)
    back = read(tmp_path / "one.traj")
    assert back.calc.name == "geocalc"
    assert back.calc.parameters == {
        "model": "tiny",
        "model_hash": load_model(folder).hash,
        "energy_kind": "adsorption",
        "level_of_theory": "none: random weights",
        "frames": "averaged",
        "dtype": "float64",
    }
    assert back.get_potential_energy() == energy
    np.testing.assert_array_equal(back.get_forces(), forces)
    write(tmp_path / "one.extxyz", atoms)
    assert read(tmp_path / "one.extxyz").get_potential_energy() == pytest.approx(energy, abs=1e-6)


def test_the_frames_that_were_asked_for_are_recorded(folder: Path) -> None:
    assert GeoCalc(folder, frames="single").parameters["frames"] == "single"
    assert GeoCalc(folder).energy_kind == "adsorption"
    atoms = slab()
    atoms.calc = GeoCalc(folder, frames="stochastic", seed=3)
    energy = atoms.get_potential_energy()
    atoms.calc.reset()
    assert atoms.get_potential_energy() == energy
    with pytest.raises(InputError, match="needs a seed"):
        GeoCalc(folder, frames="stochastic")


# What it refuses


def test_an_unknown_element_is_named(calc: GeoCalc) -> None:
    atoms = slab()
    atoms.numbers[0] = 79
    atoms.calc = calc
    with pytest.raises(
        InputError, match="contains Au, which this model was not trained on; it knows H C O Cu"
    ):
        atoms.get_potential_energy()
    atoms.numbers[0] = 29
    assert np.isfinite(atoms.get_potential_energy())


def test_a_position_that_is_not_a_number_is_an_error_also_along_a_path(calc: GeoCalc) -> None:
    atoms = slab()
    atoms.calc = calc
    atoms.get_potential_energy()
    atoms.positions[3, 1] = np.nan
    with pytest.raises(InputError, match="the position of atom 3 is \\["):
        atoms.get_potential_energy()


def test_a_model_that_gives_no_number_is_an_error(
    calc: GeoCalc, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object, systems: Systems) -> Prediction:
        return Prediction(
            energy=torch.tensor([1.0]), forces=torch.full((systems.n_atoms, 3), torch.nan)
        )

    monkeypatch.setattr("geocalc.potentials.load.LoadedModel.__call__", broken)
    atoms = slab()
    atoms.calc = calc
    with pytest.raises(
        NonFiniteError,
        match=r"tiny predicted an energy of 1.0 eV or forces that are not finite for Cu8O",
    ):
        atoms.get_potential_energy()


@pytest.mark.parametrize(("n_layers", "expected"), [(2, 1), (6, 2)])
def test_small_structures_are_computed_on_one_thread_and_threads_are_given_back(
    n_layers: int, expected: int, calc: GeoCalc, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, compute = [], LoadedModel.__call__

    def watched(model: LoadedModel, systems: Systems) -> Prediction:
        seen.append(torch.get_num_threads())
        return compute(model, systems)

    monkeypatch.setattr("geocalc.potentials.load.LoadedModel.__call__", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        slab = fcc111("Cu", (3, 3, n_layers), vacuum=8.0, periodic=True)
        slab.set_tags(np.where(slab.get_tags() > 1, 0, 1))
        slab.calc = calc
        slab.get_potential_energy()
        assert seen == [expected]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_calculating_nothing_is_refused(calc: GeoCalc) -> None:
    with pytest.raises(InputError, match="there is no structure to calculate"):
        calc.calculate()


def test_it_says_where_frames_rest_on_a_broken_tie(calc: GeoCalc) -> None:
    assert calc.frame_degenerate is None or isinstance(calc.frame_degenerate, bool)
    for atoms, degenerate in ((slab(), False), (molecule("H2O"), False), (molecule("CH4"), True)):
        calc.get_potential_energy(atoms)
        assert calc.frame_degenerate is degenerate
