"""Options of relaxations: one place for the command line, Python, workers and files."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest
import yaml
from ase.calculators.emt import EMT
from ase.io import write
from click.testing import CliRunner
from helpers.models import write_model
from helpers.structures import adslab, rattled

import geocalc
from geocalc.cli.main import main
from geocalc.errors import InputError, RecipeError
from geocalc.optim import OPTIMIZERS, Fire, make_optimizer, optimizer_settings
from geocalc.potentials.ase import AsePotential
from geocalc.runs.roles import NamedPotential
from geocalc.runs.runner import open_run_folder
from geocalc.runs.settings import PredictSettings, RelaxSettings

QUICK = {"frames": "single", "steps": 3, "fmax": 1e-6}


def test_an_optimizer_is_a_name_or_a_name_with_settings() -> None:
    plain = RelaxSettings.parse({"optimizer": "fire"}, "run.yaml")
    longer = RelaxSettings.parse({"optimizer": {"name": "fire", "max_step": 0.1}}, "run.yaml")
    assert make_optimizer(plain.optimizer) == Fire()
    assert make_optimizer(longer.optimizer) == Fire(max_step=0.1)
    assert pickle.loads(pickle.dumps(longer)) == longer
    assert longer.identity() != plain.identity()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_tells_all_its_settings(name: str) -> None:
    told = optimizer_settings(name)
    assert told.pop("name") == name
    assert "max_step" in told
    assert optimizer_settings(RelaxSettings(optimizer={"name": name, **told}).optimizer) == {
        "name": name,
        **told,
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_stp": 0.1}, "optimizer fire: unknown key `max_stp`; did you mean `max_step`?"),
        ({"memory": 3}, "optimizer fire: unknown key `memory`; known are grow, max_step"),
        ({"max_step": -1}, "`max_step` is -1: input should be greater than 0"),
        ({"n_wait": 2.5}, "`n_wait` is 2.5"),
    ],
)
def test_wrong_settings_of_an_optimizer_are_refused(
    settings: dict[str, float], sentence: str
) -> None:
    chosen = RelaxSettings(optimizer={"name": "fire", **settings}).optimizer
    with pytest.raises(RecipeError) as refused:
        make_optimizer(chosen)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "quasi-newton"),
        ({"cell": "frechet", "optimizer": "auto"}, "quasi-newton"),
        ({"cell": "unit", "optimizer": {"max_step": 0.1}}, "quasi-newton"),
        ({"keep_symmetry": True, "optimizer": "fire"}, "fire"),
    ],
)
def test_auto_is_an_optimizer_by_name(values: dict[str, object], name: str) -> None:
    settings = RelaxSettings.parse(values, "run.yaml")
    assert settings.optimizer.name == name
    given = values.get("optimizer")
    assert settings.optimizer.settings == ({"max_step": 0.1} if isinstance(given, dict) else {})


def test_the_folder_of_a_run_holds_every_option(tmp_path: Path) -> None:
    settings = RelaxSettings(optimizer={"name": "bfgs", "max_step": 0.1}, workers=1, traj="full")
    emt = NamedPotential(potential=AsePotential(calculator=EMT()), name="emt", hash="emt")
    open_run_folder(tmp_path, emt, settings).close()
    saved = yaml.safe_load((tmp_path / "settings.yaml").read_text())
    assert set(RelaxSettings.model_fields) <= {*saved["resolved"], *saved["provenance"]}
    assert saved["resolved"]["optimizer"] == {"name": "bfgs", "max_step": 0.1, "curvature": 70.0}
    assert (saved["provenance"]["workers"], saved["provenance"]["traj"]) == (1, "full")


def test_python_takes_the_settings_whole_or_as_keywords(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    atoms = rattled(adslab("O", size=(2, 2, 2)), seed=1)
    optimizer = {"name": "bfgs", "max_step": 0.01}
    settings = RelaxSettings(model=str(model), workers=1, optimizer=optimizer, **QUICK)
    (whole,) = geocalc.relax(atoms, settings=settings)
    (keywords,) = geocalc.relax(atoms, model, optimizer=optimizer, **QUICK)
    (plain,) = geocalc.relax(atoms, model, optimizer="bfgs", **QUICK)
    assert whole.record.energy == keywords.record.energy != plain.record.energy
    with pytest.raises(InputError, match="model and fmax and settings are both given"):
        geocalc.relax(atoms, model, fmax=0.2, settings=settings)
    (single,) = geocalc.predict(atoms, settings=PredictSettings(model=str(model), workers=1))
    assert single.record.status == "SINGLE_POINT"


def test_keywords_have_the_defaults_of_the_settings() -> None:
    settings, own = RelaxSettings(), {"workers", "optimizer", "warm_start"}
    for function in (geocalc.relax, geocalc.iter_relax):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in RelaxSettings.model_fields and name not in own:
                assert parameter.default == getattr(settings, name), name


def test_the_command_line_reaches_settings_of_the_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "models")
    atoms = rattled(adslab("O", size=(2, 2, 2)), seed=1)
    atoms.info = {}
    write("in.extxyz", atoms)
    common = ["relax", "in.extxyz", "--model", str(model), "--frames", "single", "--steps", "1"]
    done = CliRunner().invoke(
        main, [*common, "--optimizer", "fire", "--set", "optimizer.max_step=0.1"]
    )
    assert done.exit_code == 3, done.output
    saved = yaml.safe_load(Path("in-relax/settings.yaml").read_text())["resolved"]["optimizer"]
    assert (saved["name"], saved["max_step"]) == ("fire", 0.1)
    wrong = CliRunner().invoke(
        main, [*common, "--set", "optimizer.max_stp=0.1", "--out", "nowhere"]
    )
    assert wrong.exit_code == 1
    assert "optimizer quasi-newton: unknown key `max_stp`; did you mean `max_step`?" in wrong.output
    assert not Path("nowhere").exists()
