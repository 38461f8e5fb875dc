"""Search the settings of a recipe with Optuna, on the validation split.

Usage:
    GEOCALC_DATA=... python workflows/hyperparameter-search/run.py RECIPE [--space space.yaml]
        [--out runs/search] [--trials 30]

Needs `pip install 'geocalc[search]'`. The study is stored in the folder `--out`: the same command
resumes a search that was stopped or killed, and its last trial. Several processes may work on one
study at the same time.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import space as spaces
import yaml
from lightning_fabric import Fabric

from geocalc import GeoCalcError
from geocalc.core import configure_process, write_atomically
from geocalc.errors import MissingDependencyError, NonFiniteError
from geocalc.train import METRICS, Evaluation, make_folder, read_log, train

HERE = Path(__file__).parent
WARM_UP = 5  # trials that are never pruned, so that there is something to compare with
STUDY, BEST = "study.journal", "best.yaml"


def open_study(out: Path, seed: int) -> Any:
    """The study of a folder, new or as it was left.

    Raises:
        MissingDependencyError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise MissingDependencyError(
            "the search needs optuna; install it with: pip install 'geocalc[search]'"
        )
    import optuna
    from optuna.storages.journal import JournalFileBackend

    make_folder(out)
    study = optuna.create_study(
        study_name="search",
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(out / STUDY))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=WARM_UP),
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials)
    )  # not again the first values of a search that goes on
    return study


def run_trial(trial: Any, recipe_path: Path, space: spaces.Space, out: Path) -> float:
    """Train the recipe of one trial, or go on with it, and return its error; pruned by its learning
    curve.
    """
    import optuna

    recipe = spaces.recipe_of(recipe_path, space, spaces.draw(space, trial))
    folder = out / spaces.folder_name(recipe)

    def judge(now: Evaluation) -> None:
        trial.report(spaces.objective(now.validation, space.vector_weight), now.step)
        if trial.should_prune():
            raise optuna.TrialPruned

    for entry in read_log(folder):  # of the piece before this one
        if entry.get("validation") and entry["step"]:
            trial.report(spaces.objective(entry["validation"], space.vector_weight), entry["step"])
    fabric = Fabric(accelerator="auto", devices=1, precision=recipe.training.precision)
    try:
        train(recipe, folder, out / "data", fabric, judge=judge)
    except NonFiniteError as error:
        raise optuna.TrialPruned(str(error)) from None
    return spaces.objective(
        json.loads((folder / METRICS).read_text())["validation"], space.vector_weight
    )


def go_on(study: Any) -> None:
    """Queue what a search was at when it was stopped or killed."""
    import optuna

    states = optuna.trial.TrialState
    for trial in study.get_trials(states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
    known = [trial.params for trial in study.get_trials(states=(states.COMPLETE, states.PRUNED))]
    for trial in study.get_trials(states=(states.FAIL,)):
        if trial.params and trial.params not in known:
            study.enqueue_trial(trial.params)
            known.append(trial.params)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--space",
    "space_path",
    type=click.Path(path_type=Path),
    default=HERE / "space.yaml",
    show_default=True,
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/search"), show_default=True
)
@click.option(
    "--trials", default=30, show_default=True, help="Finished trials in all, pruned ones too."
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--join", is_flag=True, help="Others work on this study now: leave their trials alone."
)
def main(recipe: Path, space_path: Path, out: Path, trials: int, seed: int, join: bool) -> None:
    """Search, and write the best recipe so far after every trial."""
    configure_process()
    try:
        space = spaces.read_space(space_path)
        study = open_study(out, seed)
        if not join:
            go_on(study)
        search(study, recipe, space, out, trials)
    except GeoCalcError as error:
        raise SystemExit(str(error)) from None


def search(study: Any, recipe: Path, space: spaces.Space, out: Path, trials: int) -> None:
    """Trials until there are enough."""
    import optuna

    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    while len(study.get_trials(states=done)) < trials:
        study.optimize(lambda trial: run_trial(trial, recipe, space, out), n_trials=1)
        if study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
            best = spaces.recipe_of(recipe, space, study.best_params)
            write_atomically(
                out / BEST, [yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False)]
            )
            print(
                f"best of {len(study.trials)}: {study.best_value:.4f}, {study.best_params}",
                flush=True,
            )


if __name__ == "__main__":
    main()
