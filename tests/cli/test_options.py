"""Options of the command line made from settings classes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner, Result
from pydantic import Field

from geocalc.cli.commands import evaluate, predict, relax, train
from geocalc.cli.main import COMMANDS, main
from geocalc.cli.options import file_options, given_options, read_options, settings_options
from geocalc.core.choice import Choice
from geocalc.core.settings import Settings
from geocalc.evaluation.settings import EvaluateSettings
from geocalc.runs.settings import PredictSettings, RelaxSettings
from geocalc.train.run_settings import TrainSettings


class Base(Settings):
    device: str = Field("auto", description="Where to compute.")


class Options(Base):
    size: float = Field(0.5, gt=0, description="Size, Angstrom.")
    count: Annotated[int | None, "marked"] = Field(None, description="How many [default: all].")
    kind: Literal["round", "flat"] = Field("flat", description="Shape.")
    keep_all: bool = Field(False, description="Keep everything.")
    method: Choice = Field(Choice(name="slow"), title="METHOD", description="Method.")


found: list[tuple[Options, dict[str, Any]]] = []


@click.command()
@settings_options(Options)
@file_options
def command(config: Path | None, assignments: tuple[str, ...]) -> None:
    found.append((read_options(Options, config, assignments), given_options()))


def run(*arguments: str) -> Result:
    found.clear()
    return CliRunner().invoke(command, arguments)


def test_every_field_is_an_option_with_its_help_and_its_default() -> None:
    told = " ".join(run("--help").output.split())
    for words in (
        "--size FLOAT Size, Angstrom. [default: 0.5]",
        "--count INTEGER How many [default: all].",
        "--kind [round|flat] Shape. [default: flat]",
        "--keep-all Keep everything.",
        "--method METHOD Method. [default: slow]",
        "--device TEXT Where to compute. [default: auto]",
    ):
        assert words in told
    assert told.index("--method") < told.index("--device")  # its own options first


def test_only_given_options_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text("size: 2\nkind: round\nmethod: {name: fast, reach: 3}\n")
    assert run("--config", str(file), "--kind", "flat", "--keep-all").exit_code == 0
    ((options, given),) = found
    assert given == {"kind": "flat", "keep_all": True}
    assert (options.size, options.kind, options.keep_all) == (2.0, "flat", True)
    assert (options.method.name, options.method.settings) == ("fast", {"reach": 3})


def test_settings_of_a_method_are_set_beside_its_name() -> None:
    assert run("--method", "fast", "--set", "method.reach=0.5").exit_code == 0
    assert found[0][0].method == Choice(name="fast", reach=0.5)


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        (relax.command, RelaxSettings),
        (predict.command, PredictSettings),
        (evaluate.command, EvaluateSettings),
        (train.command, TrainSettings),
    ],
)
def test_commands_take_their_options_from_settings_alone(
    command: click.Command, settings: type[Settings]
) -> None:
    options = {one.name: one for one in command.params if isinstance(one, click.Option)}
    assert set(settings.model_fields) <= set(options)
    for name, field in settings.model_fields.items():
        assert field.description
        assert field.description.endswith(".")
        assert options[name].help == field.description
    assert len(inspect.signature(command.callback).parameters) <= 6  # type: ignore[arg-type]


def test_the_list_of_commands_is_that_of_the_files() -> None:
    folder = Path(relax.__file__).parent
    assert set(COMMANDS) == {path.stem for path in folder.glob("*.py")} - {"__init__"}
    for name, (_, line) in COMMANDS.items():
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.name == name
        assert line.endswith(".")
