"""Settings are frozen data read from YAML; unknown keys are refused with the nearest allowed one."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from geocalc.core.nearest import nearest
from geocalc.errors import RecipeError


class Settings(BaseModel):
    """Base of every settings class: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Validate `values`; `where` names their origin in the message.

        Raises:
            RecipeError: a key is unknown or a value is not allowed; the message lists every fault.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(
                f"{where}: " + "; ".join(_sentence(cls, fault) for fault in error.errors())
            ) from None


def _sentence(settings: type[BaseModel], fault: Any) -> str:
    kind, place = fault["type"], ".".join(_names(settings, fault["loc"]))
    if kind == "extra_forbidden":
        return _unknown_key(settings, fault["loc"][:-1], str(fault["loc"][-1]))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(settings, place, fault)
    near = _near(fault, "expected") if kind in ("enum", "literal_error") else ""
    told = str(fault["ctx"]["error"]) if kind == "value_error" else f"{fault['msg'].lower()}{near}"
    # a whole group is not repeated
    given = "" if isinstance(fault["input"], Mapping) else f" is {fault['input']!r}"
    return f"`{place}`{given}: {told}" if place else told


def _unknown_key(settings: type[BaseModel], above: tuple[Any, ...], key: str) -> str:
    allowed = _keys_at(settings, above)
    return f"unknown key `{'.'.join([*_names(settings, above), key])}`; {nearest(key, allowed)}"


def _wrong_tag(settings: type[BaseModel], place: str, fault: Any) -> str:
    """The key that says which group of settings this is has no value, or none of those there are."""
    key = fault["ctx"]["discriminator"].strip("'")
    given = f"is {fault['ctx']['tag']!r}" if "tag" in fault["ctx"] else "is missing"
    tags = ", ".join(
        f"'{tag}'" for kind in _kinds_at(settings, fault["loc"]) for tag in _tags(kind)
    )
    return f"`{place}.{key}` {given}: should be one of {tags}{_near(fault, 'expected_tags')}"


def _near(fault: Any, expected: str) -> str:
    """The allowed name that is nearest to an unknown one."""
    allowed = re.findall("'([^']*)'", fault["ctx"].get(expected, ""))
    hint = nearest(str(fault["ctx"].get("tag", fault["input"])), allowed, otherwise="")
    return f"; {hint}" if hint else ""


def _names(settings: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """A place as the file has it: without the tags by which a group of settings is chosen."""
    kinds = [_kinds_at(settings, place[:k]) for k in range(len(place))]
    return [
        str(name)
        for name, above in zip(place, kinds, strict=True)
        if not any(name in _tags(kind) for kind in above)
    ]


def _keys_at(settings: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the settings class found by following `place`."""
    return sorted({name for kind in _kinds_at(settings, place)[:1] for name in kind.model_fields})


def _kinds_at(settings: type[BaseModel], place: tuple[Any, ...]) -> list[type[BaseModel]]:
    """The settings classes that `place` may lead to."""
    kinds = [settings]
    for name in place:
        field = next((kind.model_fields[name] for kind in kinds if name in kind.model_fields), None)
        if field is not None:
            kinds = _classes(field.annotation)
        elif tagged := [kind for kind in kinds if name in _tags(kind)]:
            kinds = tagged
    return kinds


def _tags(kind: type[BaseModel]) -> list[str]:
    """Values of fields that can be one word only, by which a class is chosen among others."""
    choices = [
        get_args(field.annotation)
        for field in kind.model_fields.values()
        if get_origin(field.annotation) is Literal
    ]
    return [words[0] for words in choices if len(words) == 1 and isinstance(words[0], str)]


def _classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _classes(part)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; only plain data, never objects.

    Raises:
        RecipeError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of settings, got {type(values).__name__}")
    return values


def override(values: dict[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """A copy of `values` with each `a.b=1` of `assignments` applied; values are read as YAML.

    A number in a key is a place in a list, counted from 0: `data.sources.0.weight=2`.

    Raises:
        RecipeError: an assignment has no '=', is not YAML, or descends into something that is not a
            mapping.
    """
    result = copy.deepcopy(values)
    for assignment in assignments:
        key, found, text = assignment.partition("=")
        if not found:
            raise RecipeError(
                f"--set needs key=value, got {assignment!r}; for example --set training.steps=100"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(
                f"--set {assignment}: the value is not valid YAML: {' '.join(str(error).split())}"
            ) from None
        *parents, last = key.split(".")
        place: Any = result
        for name in parents:
            place = _inside(place, name, assignment)
        if isinstance(place, list):
            _inside(place, last, assignment)
            place[int(last)] = value
        else:
            place[last] = value
    return result


def _inside(place: Any, name: str, assignment: str) -> Any:
    """The mapping or list under `name`; a mapping that is not there yet is made."""
    if isinstance(place, list):
        if not (name.isdecimal() and int(name) < len(place)):
            raise RecipeError(
                f"--set {assignment}: `{name}` is not a place in a list of {len(place)}, counted"
                " from 0"
            )
        return place[int(name)]
    inner = place.setdefault(name, {})
    if not isinstance(inner, (dict, list)):
        raise RecipeError(f"--set {assignment}: `{name}` is a value, not a group of settings")
    return inner
