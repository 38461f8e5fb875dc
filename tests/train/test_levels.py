"""Levels of theory: one network learns several, each with energies of a zero of its own, and is
asked for one by name.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner
from helpers.training import cpu_fabric, recipe_values, relaxations, write_data

from geocalc import GeoCalc, load_model, relax
from geocalc.cli.main import main
from geocalc.data.collate import collate_samples
from geocalc.data.prepare import prepare_store
from geocalc.data.store import Samples, read_store
from geocalc.errors import InputError, RecipeError
from geocalc.potentials.network import EnergyModel
from geocalc.train.finetune import begin_with, tuned_values
from geocalc.train.recipe import parse_recipe
from geocalc.train.references import fit_scales
from geocalc.train.register import register_model
from geocalc.train.task import train

SHIFT = 4.0  # eV an atom
STIFF = 1.5  # energies of the second level are so many times those of the first, beside the shift


def at_second_level(frames: list[Atoms]) -> list[Atoms]:
    copies = []
    for frame in frames:
        copy, old = frame.copy(), frame.calc.results
        energy = STIFF * old["energy"] + SHIFT * len(frame)
        copy.calc = SinglePointCalculator(copy, energy=energy, forces=STIFF * old["forces"])
        copies.append(copy)
    return copies


def values_of(folder: Path, **training: Any) -> dict[str, Any]:
    frames = relaxations(12)
    write(folder / "soft.traj", frames)
    write(folder / "stiff.traj", at_second_level(frames))
    values = recipe_values(folder / "soft.traj", **training)
    values["about"]["level"] = "soft"
    values["other_levels"] = [
        {
            "level": "stiff",
            "energy_kind": "relative",
            "level_of_theory": "EMT, stiffer",
            "reference_text": "made up",
        }
    ]
    values["data"]["sources"].append({"path": str(folder / "stiff.traj"), "level": "stiff"})
    values["model"]["settings"]["n_levels"] = 2
    return values


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("levels")
    recipe = parse_recipe(
        values_of(folder, steps=300, learning_rate=0.01, evaluate_every=300, batch_size=8), "test"
    )
    return register_model(
        train(recipe, folder / "run", folder / "data", cpu_fabric()), "two", folder, folder / "data"
    )


def test_references_are_fitted_level_by_level(tmp_path: Path) -> None:
    recipe = parse_recipe(values_of(tmp_path), "test")
    samples = read_store(prepare_store(recipe, tmp_path / "data"))
    table = fit_scales(samples, recipe.level_elements, recipe.source_levels).references
    n_atoms = torch.bincount(torch.from_numpy(samples[0].numbers), minlength=119).double()
    soft, stiff = (table @ n_atoms).tolist()
    assert stiff == pytest.approx(STIFF * soft + SHIFT * float(n_atoms.sum()), rel=1e-6)


@pytest.mark.slow
def test_one_network_answers_at_both_levels(model: Path) -> None:
    frame = relaxations(1)[0]
    soft, stiff = GeoCalc(model), GeoCalc(model, level="stiff")
    wanted = frame.get_potential_energy()
    assert soft.get_potential_energy(frame) == pytest.approx(wanted, abs=0.3)
    assert stiff.get_potential_energy(frame) == pytest.approx(
        STIFF * wanted + SHIFT * len(frame), abs=0.5
    )
    ratio = (stiff.get_forces(frame) * soft.get_forces(frame)).sum() / (
        soft.get_forces(frame) ** 2
    ).sum()
    assert 1.1 < ratio < 2.0  # the network itself tells them apart, and not the references alone
    assert (soft.energy_kind, stiff.energy_kind) == ("total", "relative")
    assert stiff.parameters["level_of_theory"] == "EMT, stiffer"
    assert GeoCalc(model, level="soft").get_potential_energy(frame) == soft.get_potential_energy(
        frame
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::geocalc.errors.DomainWarning")
def test_records_and_runs_are_of_the_level_that_was_asked_for(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = relaxations(2)
    soft = relax(frames[0], model, steps=3)[0].record
    stiff = relax(frames[0], model, steps=3, level="stiff", workers=2)[0].record
    assert (soft.energy_kind, stiff.energy_kind) == ("total", "relative")
    assert stiff.energy is not None
    assert soft.energy is not None
    assert stiff.energy > soft.energy + 10
    monkeypatch.chdir(tmp_path)
    write("one.traj", frames[0])
    words = ["predict", "one.traj", "--model", str(model), "--out", "run"]
    told = CliRunner().invoke(main, [*words, "--level", "stiff"])
    assert told.exit_code == 0, told.output
    assert "energies are relative energies: made up" in told.output
    told = CliRunner().invoke(main, [*words, "--resume"])  # the level is part of what a result is
    assert told.exit_code != 0
    assert "level" in told.output


@pytest.mark.slow
def test_an_unknown_level_is_refused_with_those_there_are(model: Path) -> None:
    with pytest.raises(InputError, match="two has no level 'hard'; it has soft, stiff"):
        load_model(model, level="hard")
    with pytest.raises(
        InputError,
        match=r"faenet-sfa has one level of theory \(BEEF-vdW.*\), not 'RPBE'; leave level out",
    ):
        GeoCalc("faenet-sfa", level="RPBE")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::geocalc.errors.DataWarning")
def test_a_model_of_two_levels_is_tuned_from_its_first(model: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(tuned_values(str(model), write_data(tmp_path / "mine.traj")), "test")
    assert recipe.levels == ("",)
    samples = read_store(prepare_store(recipe, tmp_path / "data"))
    assert recipe.start is not None
    tuned = begin_with(recipe, recipe.start, samples.training).eval()
    old = load_model(model, device="cpu", frames="single").potential
    systems, _ = collate_samples(samples.training[:4])
    new = replace(old, model=tuned)
    assert torch.allclose(new(systems).forces, old(systems).forces, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::geocalc.errors.DataWarning")
def test_levels_are_carried_on_by_name(model: Path, tmp_path: Path) -> None:
    values = values_of(tmp_path, steps=2)
    values["start"] = {"model": str(model), "hash": load_model(model, device="cpu").hash}
    values["about"]["level"], values["other_levels"][0]["level"] = "stiff", "soft"
    values["data"]["sources"][0]["level"] = "soft"
    recipe = parse_recipe(values, "test")
    samples = read_store(prepare_store(recipe, tmp_path / "data"))
    assert recipe.start is not None
    swapped = begin_with(recipe, recipe.start, samples.training).eval()
    old = load_model(model, device="cpu", frames="single").potential
    systems, _ = collate_samples(samples.training[:4])
    for level in (0, 1):
        told = replace(old, model=swapped, level=level)(systems)
        assert torch.allclose(told.forces, replace(old, level=1 - level)(systems).forces, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["about"].pop("level"), "need a name each, all different; got '', 'stiff'"),
        (
            lambda v: v["data"]["sources"][1].update(level="sharp"),
            "name the level 'sharp'; describe it",
        ),
        (lambda v: v["data"]["sources"][1].pop("level"), "no source has the level 'stiff'"),
        (
            lambda v: v["model"]["settings"].pop("n_levels"),
            "there are 2 levels of theory; set model.settings.n_levels: 2",
        ),
    ],
)
def test_recipes_whose_levels_do_not_fit_are_refused(
    change: Any, message: str, tmp_path: Path
) -> None:
    values = values_of(tmp_path)
    change(values)
    with pytest.raises(RecipeError, match=message):
        parse_recipe(values, "test")


# beginning with a model of one level


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the soft level alone, hardly trained."""
    folder = tmp_path_factory.mktemp("single")
    values = recipe_values(write_data(folder / "soft.traj", relaxations(12)), steps=2)
    recipe = parse_recipe(values, "test")
    return register_model(
        train(recipe, folder / "run", folder / "data", cpu_fabric()), "one", folder, folder / "data"
    )


def started(single: Path, folder: Path, **model: Any) -> tuple[EnergyModel, Samples]:
    values = values_of(folder, steps=2)
    values["start"] = {"model": str(single), "hash": load_model(single, device="cpu").hash}
    values["model"]["settings"] |= model
    recipe = parse_recipe(values, "test")
    samples = read_store(prepare_store(recipe, folder / "data"))
    return begin_with(recipe, recipe.start, samples.training), samples


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::geocalc.errors.DataWarning")
def test_a_model_of_one_level_begins_with_two(single: Path, tmp_path: Path) -> None:
    model, samples = started(single, tmp_path)
    before = load_model(single, device="cpu", frames="single").potential
    systems, _ = collate_samples(samples.training[:4])
    old = before(systems)
    for level in (0, 1):
        new = replace(before, model=model.eval(), level=level)(systems)
        # the same network, and references that were fitted to the level
        moved = new.energy - old.energy
        assert torch.allclose(new.forces, old.forces, atol=1e-5)
        assert torch.allclose(moved, moved[:1], atol=1e-5)
        there = [one for one in samples.training if one.source == level]
        told = replace(before, model=model, level=level)(collate_samples(there)[0]).energy
        labels = torch.tensor([one.energy for one in there])
        assert float(told.mean()) == pytest.approx(float(labels.mean()), abs=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::geocalc.errors.DataWarning")
def test_a_network_of_another_size_cannot_begin(single: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the recipe's model\.settings is not that of one"):
        started(single, tmp_path, hidden_channels=28)
