"""Tasks of models: how each is trained, registered, loaded and run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocalc.core.nearest import nearest
from geocalc.core.process import configure_process
from geocalc.core.settings import override, read_yaml
from geocalc.errors import RecipeError
from geocalc.potentials.card import Card, Task
from geocalc.potentials.load import load_model
from geocalc.potentials.registry import find_model, model_task, read_card
from geocalc.properties.predict import open_property_model
from geocalc.properties.register import PROPERTIES
from geocalc.runs.engines import check_settings
from geocalc.runs.folder import RunFolder
from geocalc.runs.forms import Input
from geocalc.runs.model_run import ModelRun
from geocalc.runs.records import Record
from geocalc.runs.roles import NamedPotential, relaxing_model
from geocalc.runs.runner import open_run_folder, run_relaxation
from geocalc.runs.settings import RelaxSettings
from geocalc.train.base_recipe import BaseRecipe
from geocalc.train.kind import TaskKind
from geocalc.train.loop import Evaluation, TrainingProgress
from geocalc.train.publish import check_run, register_runs
from geocalc.train.register import ENERGIES
from geocalc.train.run_files import RECIPE

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """Everything that depends on the task of a model.

    Attributes:
        kind: how models are trained and registered.
        open_model: loads the model that the settings of a run name, ready to run.
    """

    kind: TaskKind[Any, Any, Any, Any]
    open_model: Callable[[RelaxSettings], ModelRun]


def open_energy_model(settings: RelaxSettings) -> ModelRun:
    """Load the model of energies that the settings of a run name.

    Raises:
        ModelNotFoundError, ModelFileError: see `load_model`.
        InputError: the settings ask for something that the model does not have.
    """
    model = load_model(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        frames=settings.frames,
        level=settings.level,
    )
    potential = relaxing_model(model, settings)
    check_settings(potential, settings)  # before a folder is made
    configure_process()
    return ModelRun(
        open_folder=partial(_open_folder, potential, settings),
        run=partial(_relax, potential, settings),
        note=f"energies are {model.card.energy_kind.value} energies: {model.card.reference_text}",
    )


def _open_folder(
    potential: NamedPotential,
    settings: RelaxSettings,
    path: Path,
    inputs: Sequence[str],
    resume: bool,
) -> RunFolder:
    return open_run_folder(path, potential, settings, inputs=inputs, resume=resume)


def _relax(
    potential: NamedPotential, settings: RelaxSettings, inputs: Iterable[Input], folder: RunFolder
) -> Iterator[Record]:
    return run_relaxation(inputs, potential, settings, folder)


TASKS: Mapping[Task, TaskEntry] = {
    Task.S2EF: TaskEntry(kind=ENERGIES, open_model=open_energy_model),
    Task.IS2RE: TaskEntry(kind=ENERGIES, open_model=open_energy_model),
    Task.NODE: TaskEntry(kind=PROPERTIES, open_model=open_property_model),
    Task.GRAPH: TaskEntry(kind=PROPERTIES, open_model=open_property_model),
}


def open_model(settings: RelaxSettings) -> ModelRun:
    """Load the model that the settings of a run name, whatever its task.

    Raises:
        ModelNotFoundError, ModelFileError, InputError: see `TaskEntry.open_model`.
    """
    return TASKS[model_task(find_model(settings.model))].open_model(settings)


def read_any_card(folder: Path) -> Card:
    """Read the card in a model folder, whatever the task of the model.

    Raises:
        ModelFileError: see `read_card`.
    """
    kind: type[Card] = TASKS[model_task(folder)].kind.card
    return read_card(folder, kind)


def read_any_recipe(path: Path, assignments: tuple[str, ...] = ()) -> BaseRecipe:
    """Read a recipe file of any task, with `a.b=1` overrides.

    Raises:
        RecipeError: see `BaseRecipe.read`; also if the task is unknown.
    """
    values = override(read_yaml(path), assignments)
    recipe: BaseRecipe = _entry(values, path).kind.recipe.parse_checked(values, str(path))
    return recipe


def train_recipe(
    recipe: BaseRecipe,
    folder: Path,
    data_folder: Path,
    fabric: Fabric,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    judge: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Path:
    """Train a recipe of any task in `folder`, from its last checkpoint if there is one.

    Args:
        recipe: from `read_any_recipe`.
        folder: of the run.
        data_folder: where prepared data are kept.
        fabric, report, judge: see `geocalc.train.loop.fit`.
    """
    return TASKS[recipe.task].kind.train(recipe, folder, data_folder, fabric, report, judge)


def register_any(runs: Sequence[Path], name: str, folder: Path, data_folder: Path) -> TaskEntry:
    """Write the model folder `folder/name` from finished runs of any task.

    Args:
        runs, name, folder, data_folder: see `register_runs`.
    Returns:
        The entry of the task of the runs.
    Raises:
        InputError: see `register_runs`.
    """
    check_run(runs[0])
    entry = _entry(read_yaml(runs[0] / RECIPE), runs[0] / RECIPE)
    register_runs(entry.kind, runs, name, folder, data_folder)
    return entry


def _entry(values: Mapping[str, Any], path: Path) -> TaskEntry:
    """Find the entry of the task that the values of a recipe name."""
    given = str(values.get("task", Task.S2EF))
    if given not in list(Task):
        raise RecipeError(f"{path}: `task` is {given!r}; {nearest(given, Task)}")
    return TASKS[Task(given)]
