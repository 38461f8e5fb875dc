"""Data sets that would teach something wrong."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.optimize import BFGS
from helpers.structures import adslab, rattled
from helpers.training import cpu_fabric, make_recipe

from geocalc.data.checks import check_samples
from geocalc.data.prepare import prepare_store
from geocalc.data.store import Sample, read_store
from geocalc.errors import DataWarning, InputError
from geocalc.train.task import load_samples


def path_of(seed: int) -> list[Atoms]:
    """A relaxation with EMT, every step of it."""
    atoms = rattled(adslab("O", "fcc", size=(2, 2, 2 + seed % 2)), 0.1, seed)
    atoms.calc = EMT()
    frames: list[Atoms] = []

    def keep() -> None:
        copy = atoms.copy()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(apply_constraint=False),
        }
        copy.calc = SinglePointCalculator(copy, **results)
        copy.info = {"sid": f"r{seed}"}
        frames.append(copy)

    BFGS(atoms, logfile=None).run(fmax=0.2, steps=6)
    optimizer = BFGS(atoms, logfile=None)
    atoms.rattle(0.1, seed=seed)
    optimizer.attach(keep)
    optimizer.run(fmax=0.05, steps=8)
    return frames


@pytest.fixture(scope="module")
def paths() -> list[Atoms]:
    return [frame for seed in range(6) for frame in path_of(seed)]


@pytest.fixture(scope="module")
def samples(paths: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("checks")
    write(folder / "d.extxyz", paths)
    return read_store(prepare_store(make_recipe(folder / "d.extxyz"), folder / "data"))


def scaled(samples: list[Sample], energy: float = 1.0, forces: float = 1.0) -> list[Sample]:
    return [replace(s, energy=s.energy * energy, forces=s.forces * forces) for s in samples]


def test_sound_data_pass_in_silence(samples: list[Sample]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_samples(samples, ["d"])


@pytest.mark.parametrize(
    ("energy", "forces", "message"),
    [
        (1.0, 1 / 51.42208, "looks like forces in Hartree/Bohr"),
        (1 / 27.21139, 1.0, "looks like energies in Hartree"),
        (23.06055, 1.0, "looks like energies in kcal/mol"),
        (1.0, -1.0, "energy gradients in place of forces"),
        (
            3.3,
            1.0,
            (
                r"changes by 3\.\d+ times the work of the forces \(median of \d+ pairs\),"
                r" expected 1; convert"
            ),
        ),
    ],
)
def test_units_that_do_not_fit(
    samples: list[Sample], energy: float, forces: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_samples(scaled(samples, energy, forces), ["d"])


def test_energies_per_atom(samples: list[Sample]) -> None:
    with pytest.raises(
        InputError, match="d: the energies are consistent with the forces after multiplication"
    ):
        check_samples([replace(s, energy=s.energy / len(s.numbers)) for s in samples], ["d"])


def test_the_source_at_fault_is_named(samples: list[Sample]) -> None:
    second = [replace(s, source=1) for s in scaled(samples, 1 / 27.21139)]
    with pytest.raises(InputError, match=r"^other: "):
        check_samples([*samples, *second], ["d", "other"])


def test_structures_on_both_sides_of_the_split(samples: list[Sample]) -> None:
    copy = replace(samples[0], group="again", validation=not samples[0].validation)
    with pytest.warns(DataWarning, match="1 held-out structures are also in the training data"):
        check_samples([*samples, copy], ["d"])
    moved = replace(copy, positions=copy.positions + np.eye(len(copy.positions), 3) * 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_samples([*samples, moved], ["d"])


def test_a_run_does_not_start_with_wrong_units(paths: list[Atoms], tmp_path: Path) -> None:
    wrong = []
    for frame in paths:
        copy, old = frame.copy(), frame.calc.results
        copy.calc = SinglePointCalculator(
            copy, energy=old["energy"], forces=old["forces"] / 51.42208
        )
        wrong.append(copy)
    write(tmp_path / "d.extxyz", wrong)
    with pytest.raises(
        InputError, match=r"d.extxyz: between consecutive images .* forces in Hartree/Bohr"
    ):
        load_samples(make_recipe(tmp_path / "d.extxyz"), tmp_path / "data", cpu_fabric())


def test_mixed_levels_of_theory(paths: list[Atoms], tmp_path: Path) -> None:
    for k, frame in enumerate(paths):
        frame.info["functional"] = "PBE" if k < 20 else "RPBE"
    write(tmp_path / "d.extxyz", paths)
    for frame in paths:
        del frame.info["functional"]
    with pytest.raises(
        InputError,
        match=(
            r"mixes levels of theory: (R?PBE) \(\d+\), (R?PBE) \(\d+\); energies of different"
            r" levels"
        ),
    ):
        prepare_store(make_recipe(tmp_path / "d.extxyz"), tmp_path / "data")
