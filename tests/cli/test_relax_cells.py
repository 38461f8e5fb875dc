"""`geocalc relax --cell`: settings, refusals, files, workers and batches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from click.testing import CliRunner
from helpers.models import write_model
from helpers.structures import adslab

import geocalc
from geocalc.cli.main import main
from geocalc.errors import InputError, RecipeError
from geocalc.potentials.ase import AsePotential
from geocalc.runs.forms import Input
from geocalc.runs.records import Record
from geocalc.runs.roles import NamedPotential
from geocalc.runs.runner import open_run_folder, run_relaxation
from geocalc.runs.settings import RelaxSettings

SETTINGS = RelaxSettings(
    model="emt", steps=60, traj="full", dtype="float64", cell="frechet", pressure=0.01, workers=1
)


def emt() -> AsePotential:
    return AsePotential(calculator=EMT(), stress=True)


MODEL = NamedPotential(
    potential=emt(), name="emt", hash="emt-1", energy_kind="total", stress=True, opener=emt
)


def crystal(element: str, seed: int) -> Atoms:
    atoms = bulk(element, cubic=True)
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + np.random.default_rng(seed).normal(0, 0.02, (3, 3))),
        scale_atoms=True,
    )
    atoms.positions += np.random.default_rng(seed).normal(0, 0.05, atoms.positions.shape)
    return atoms


def jobs() -> list[Input]:
    metals = [
        Input(sid=element, atoms=crystal(element, k))
        for k, element in enumerate(("Cu", "Al", "Au"))
    ]
    return [metals[0], Input(sid="CO", atoms=Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])), *metals[1:]]


def run(path: Path, settings: RelaxSettings = SETTINGS) -> list[Record]:
    list(run_relaxation(jobs(), MODEL, settings, folder := open_run_folder(path, MODEL, settings)))
    return [replace(record, wall_s=0.0) for record in folder.records()]


@pytest.mark.slow
def test_cells_are_written_and_belong_to_their_energies(tmp_path: Path) -> None:
    records = run(tmp_path)
    assert [record.status for record in records] == ["CONVERGED", "ERROR", "CONVERGED", "CONVERGED"]
    assert "a periodic direction" in str(records[1].error)
    frames = read(tmp_path / "relaxed.extxyz", ":")
    given = {job.sid: job.atoms for job in jobs()}
    for record, atoms in zip([r for r in records if r.error is None], frames, strict=True):
        stress, energy = atoms.info["geocalc_stress"].reshape(3, 3), atoms.info["geocalc_energy"]
        forces = atoms.arrays["geocalc_forces"]
        atoms.calc = EMT()
        assert record.energy == energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), rtol=0, atol=1e-10)
        np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-9)
        assert np.abs(stress + 0.01 * np.eye(3)).max() < 0.05 * 4 / atoms.get_volume()
        path = read(next((tmp_path / "trajectory").glob(f"{record.sid}*")), ":")
        assert len(path) == record.n_steps + 1
        np.testing.assert_array_equal(path[-1].cell.array, atoms.cell.array)
        np.testing.assert_allclose(
            path[0].cell.array, given[record.sid].cell.array, rtol=0, atol=1e-12
        )
        assert path[2].info["geocalc_energy"] == pytest.approx(energy_of(path[2]), abs=1e-9)


def energy_of(atoms: Atoms) -> float:
    copy = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, calculator=EMT())
    return copy.get_potential_energy()


@pytest.mark.slow
def test_workers_and_batches_write_the_same(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"keep_symmetry": True, "steps": 5, "traj": "ends"})
    records = run(tmp_path / "one", settings)
    assert run(tmp_path / "two", settings.model_copy(update={"workers": 2})) == records
    assert run(tmp_path / "batch", settings.model_copy(update={"batch_edges": 10_000})) == records
    files = [(tmp_path / kind / "relaxed.extxyz").read_bytes() for kind in ("one", "two", "batch")]
    assert files[0] == files[1] == files[2]


def test_results_of_other_cell_settings_are_not_mixed() -> None:
    plain = RelaxSettings()
    for change in (
        {"cell": "unit"},
        {"pressure": 0.1},
        {"cell_mask": "xx"},
        {"keep_symmetry": True},
    ):
        assert plain.model_copy(update=change).identity() != plain.identity()
    with pytest.raises(RecipeError, match="`cell_mask` is 'xx,zy'"):
        RelaxSettings.parse({"cell_mask": "xx,zy"}, "run.yaml")
    with pytest.raises(RecipeError, match="`cell` is 'fixed'"):
        RelaxSettings.parse({"cell": "fixed"}, "run.yaml")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Model folders by whether the card says stress."""
    parent = tmp_path_factory.mktemp("models")
    return {
        stress: write_model(parent, f"stress-{stress}".lower(), card={"stress": stress})
        for stress in (False, True)
    }


def test_contradictions_are_refused_at_once(folders: dict[bool, Path]) -> None:
    relax = partial(geocalc.iter_relax, adslab("O"), folders[True])
    with pytest.raises(
        InputError, match="stress-false was not trained on stress, so it cannot relax a cell"
    ):
        geocalc.iter_relax(adslab("O"), folders[False], cell="frechet")
    with pytest.raises(InputError, match="pressure and cell_mask are for cells that are relaxed"):
        relax(pressure=0.1)
    with pytest.raises(InputError, match="the mask xy frees a shear"):
        relax(cell="frechet", cell_mask="xy")


def test_a_model_with_stress_relaxes_a_cell(folders: dict[bool, Path]) -> None:
    atoms = adslab("O", size=(1, 1, 2))
    (result,) = geocalc.relax(
        atoms,
        folders[True],
        cell="frechet",
        cell_mask="xx,yy,xy",
        steps=2,
        fmax=1e-4,
        dtype="float64",
    )
    assert result.record.error is None
    assert result.atoms.get_stress().shape == (6,)
    assert np.abs(result.atoms.cell.array - atoms.cell.array)[:2, :2].max() > 1e-4
    np.testing.assert_array_equal(result.atoms.cell.array[2], atoms.cell.array[2])
    (again,) = geocalc.predict(result.atoms, folders[True], dtype="float64")
    assert again.record.energy == pytest.approx(result.record.energy, abs=1e-9)
    (kept,) = geocalc.relax(
        atoms, folders[False], keep_symmetry=True, steps=2, fmax=1e-4, dtype="float64"
    )
    assert kept.record.error is None
    np.testing.assert_array_equal(kept.atoms.cell.array, atoms.cell.array)


def test_the_command_line(tmp_path: Path, folders: dict[bool, Path]) -> None:
    atoms = adslab("O", size=(1, 1, 2))
    atoms.info = {}
    write(tmp_path / "slab.xyz", atoms)
    common = [
        "relax",
        str(tmp_path / "slab.xyz"),
        "--workers",
        "1",
        "--steps",
        "1",
        "--cell",
        "frechet",
    ]
    refused = CliRunner().invoke(
        main, [*common, "--model", str(folders[False]), "--out", str(tmp_path / "no")]
    )
    assert refused.exit_code == 1
    assert "was not trained on stress, so it cannot relax a cell" in refused.output
    assert not (tmp_path / "no").exists()
    options = [
        "--cell-mask",
        "xx,yy,xy",
        "--pressure",
        "0.001",
        "--model",
        str(folders[True]),
        "--out",
        str(tmp_path / "run"),
    ]
    done = CliRunner().invoke(main, [*common, *options])
    assert done.exit_code == 3, done.output
    assert not np.array_equal(
        read(tmp_path / "run" / "relaxed.extxyz").cell.array, atoms.cell.array
    )
    shipped = CliRunner().invoke(main, [*common, "--out", str(tmp_path / "shipped")])
    assert "regnn-wide was not trained on stress" in shipped.output
