"""Command-line options made from the fields of settings classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo

from geocalc.core.choice import Choice
from geocalc.core.settings import Settings, override, read_yaml

Function = TypeVar("Function", bound=Callable[..., Any])
Chosen = TypeVar("Chosen", bound=Settings)
_GIVEN = "geocalc.cli.options.given"


def settings_options(settings: type[Settings]) -> Callable[[Function], Function]:
    """Add an option for every field of a settings class; `given_options` collects their values.

    Options of the class itself come before those that it inherits.
    """

    def add(command: Function) -> Function:
        own = [name for name in inspect.get_annotations(settings) if name in settings.model_fields]
        names = [*own, *(name for name in settings.model_fields if name not in own)]
        for name in reversed(names):
            command = _option(name, settings.model_fields[name])(command)
        return command

    return add


def file_options(command: Function) -> Function:
    """Add `--config` and `--set`; a command hands their values to `read_options`."""
    command = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override one setting; repeatable.",
    )(command)
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        default=None,
        help="YAML file of settings; options given here override it.",
    )(command)


def given_options() -> dict[str, Any]:
    """The options of `settings_options` that were given on the command line, by field."""
    return dict(click.get_current_context().meta.get(_GIVEN, {}))


def read_options(
    settings: type[Chosen], config: Path | None = None, assignments: tuple[str, ...] = ()
) -> Chosen:
    """Build settings from a YAML file, then the given options, then assignments.

    Raises:
        RecipeError: the file cannot be read, or a key or value is not allowed.
    """
    values = {**(read_yaml(config) if config else {}), **given_options()}
    return settings.parse(
        override(_grouped(settings, values), assignments), str(config or "options")
    )


def _grouped(settings: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with `{name: value}` for a method that is given by name alone, so that `--set` can
    add its settings.
    """
    return {
        name: {"name": value}
        if isinstance(value, str) and _is_choice(settings.model_fields.get(name))
        else value
        for name, value in values.items()
    }


def _is_choice(field: FieldInfo | None) -> bool:
    return (
        field is not None
        and isinstance(field.annotation, type)
        and issubclass(field.annotation, Choice)
    )


def _option(name: str, field: FieldInfo) -> Callable[[Function], Function]:
    """The option of one field."""
    default = field.default.name if isinstance(field.default, Choice) else field.default
    is_flag = field.annotation is bool
    return click.option(
        f"--{name.replace('_', '-')}",
        type=None if is_flag else _type(field.annotation),
        is_flag=is_flag,
        default=default,
        show_default=default is not None and not is_flag,
        metavar=field.title,
        help=field.description,
        expose_value=False,
        callback=_keep,
    )


def _type(annotation: Any) -> click.Choice[str] | type:
    """The click type of a field's annotation, which may be optional."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, (int, float)):
        return annotation
    return str


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep the value of an option that was given."""
    name = str(parameter.name)
    if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
        context.meta.setdefault(_GIVEN, {})[name] = value
