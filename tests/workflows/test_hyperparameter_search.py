"""The search over recipes: its own parts always, the whole of it where Optuna is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.training import recipe_values, relaxations, write_data, write_recipe

from geocalc.errors import MissingDependencyError, RecipeError
from geocalc.train import task as energies
from geocalc.train.recipe import read_recipe

HERE = Path(__file__).parents[2] / "workflows" / "hyperparameter-search"
SPACE = {
    "parameters": {
        "training.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "training.batch_size": {"low": 2, "high": 4, "integer": True},
        "training.frames": {"choices": ["stochastic", "rotations-2d"]},
    },
    "fixed": {"training.steps": 4, "training.max_seconds": None},
    "vector_weight": 2.0,
}


@pytest.fixture
def spaces(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    yield importlib.import_module("space")
    del sys.modules["space"]


@pytest.fixture
def search(spaces):
    spec = importlib.util.spec_from_file_location("search_for_tests", HERE / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    torch.set_flush_denormal(False)


class Lowest:
    """A trial that draws the least of everything."""

    def suggest_float(self, name, low, high, *, log=False):
        return low

    def suggest_int(self, name, low, high, *, log=False):
        return low

    def suggest_categorical(self, name, choices):
        return choices[0]


def write_space(folder: Path, **changes) -> Path:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE | changes))
    return path


def test_the_space_of_the_workflow_fits_the_shipped_recipe(spaces):
    space = spaces.read_space(HERE / "space.yaml")
    values = spaces.draw(space, Lowest())
    recipe = spaces.recipe_of(
        HERE.parents[1] / "models" / "faenet-sfa" / "recipe.yaml", space, values
    )
    assert recipe.training.learning_rate == 0.0003
    assert recipe.training.final_stage is None
    assert recipe.model.settings["hidden_channels"] == 128


def test_a_trial_is_a_recipe_with_other_values(spaces, tmp_path):
    space = spaces.read_space(write_space(tmp_path))
    base = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path / "d.traj"))
    recipe = spaces.recipe_of(base, space, spaces.draw(space, Lowest()))
    changed = {
        "learning_rate": 1e-5,
        "batch_size": 2,
        "frames": "stochastic",
        "steps": 4,
        "max_seconds": None,
    }
    assert recipe.training == read_recipe(base).training.model_copy(update=changed)
    again = spaces.recipe_of(base, space, spaces.draw(space, Lowest()))
    assert (
        spaces.folder_name(again)
        == spaces.folder_name(recipe)
        != spaces.folder_name(read_recipe(base))
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parameters": {"training.seed": {"low": 1}}}, "give low and a larger high, or choices"),
        (
            {"parameters": {"training.seed": {"low": 1, "high": 2, "choices": [1]}}},
            "low and high, or choices, not both",
        ),
        (
            {"parameters": {"training.seed": {"low": 0, "high": 2, "log": True}}},
            "needs a low above 0",
        ),
        (
            {"parameters": {"training.seed": {"lo": 0, "high": 2}}},
            "unknown key `parameters.training.seed.lo`",
        ),
        (
            {"fixed": {"training.learning_rate": 1e-3}},
            "training.learning_rate is both searched and fixed",
        ),
        ({"vector_wait": 1}, "unknown key `vector_wait`; did you mean `vector_weight`"),
    ],
)
def test_spaces_that_make_no_sense(spaces, tmp_path, changes, sentence):
    with pytest.raises(RecipeError, match=sentence):
        spaces.read_space(write_space(tmp_path, **changes))


def test_a_key_that_recipes_do_not_have_is_refused(spaces, tmp_path):
    space = spaces.read_space(
        write_space(tmp_path, parameters={"training.learning_rat": {"low": 1, "high": 2}})
    )
    base = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path / "d.traj"))
    with pytest.raises(
        RecipeError, match=r"a trial of r.yaml: unknown key `training.learning_rat`"
    ):
        spaces.recipe_of(base, space, spaces.draw(space, Lowest()))


def test_trials_are_compared_by_errors_of_all_sources(spaces):
    errors = {
        "a": {"n": 3, "energy_mae": 0.1, "force_mae": 0.2},
        "b": {"n": 1, "energy_mae": 0.5, "force_mae": 0.6},
    }
    assert spaces.objective(errors, 2.0) == pytest.approx(0.2 + 2.0 * 0.3)
    assert spaces.objective(
        {"a": {"n": 3, "energy_mae": 0.1, "position_mae": float("nan")}}, 0.0
    ) == pytest.approx(0.1)


def test_without_optuna_one_sentence_says_what_to_install(search, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'geocalc\[search\]'"):
        search.open_study(tmp_path, 0)


@pytest.mark.slow
@pytest.mark.extra("optuna")
@pytest.mark.filterwarnings("ignore")  # those of another package
def test_a_search_that_is_killed_goes_on_with_the_trial_it_was_at(
    search, spaces, tmp_path, monkeypatch
):
    write_data(tmp_path / "d.traj", relaxations(8))
    base = write_recipe(
        tmp_path / "r.yaml",
        recipe_values(tmp_path / "d.traj", evaluate_every=2, checkpoint_every=1),
    )
    space, out, update = spaces.read_space(write_space(tmp_path)), tmp_path / "out", energies.update
    trained = []

    def killed(run, batch, recipe, step, fabric):
        if len(trained) == 6:
            raise KeyboardInterrupt
        trained.append(step)
        return update(run, batch, recipe, step, fabric)

    with monkeypatch.context() as patch:
        patch.setattr(energies, "update", killed)
        patch.setattr(search, "go_on", lambda study: None)
        with pytest.raises(KeyboardInterrupt):
            search.search(search.open_study(out, 0), base, space, out, 3)
    study = search.open_study(out, 0)
    (finished,) = study.get_trials(states=(search_state("COMPLETE"),))
    left = study.trials[1]
    search.go_on(study)
    search.search(study, base, space, out, 3)
    values = [trial.value for trial in study.trials if trial.value is not None]
    assert values[0] == finished.value
    assert study.trials[2].params == left.params
    assert len(values) == 3
    best = read_recipe(out / "best.yaml").training
    assert best.learning_rate == study.best_params["training.learning_rate"]
    assert len([path for path in out.iterdir() if path.is_dir() and path.name != "data"]) == 3


def search_state(name: str):
    import optuna

    return optuna.trial.TrialState[name]
