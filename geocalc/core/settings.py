"""Settings as frozen data read from YAML, with readable messages for unknown keys and values."""

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
    """Base class of all settings: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build the settings from a mapping.

        Args:
            values: mapping of keys to values.
            where: origin of the values, the start of an error message.
        Raises:
            RecipeError: a key is unknown or a value is not allowed; the message lists every fault.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(
                f"{where}: " + "; ".join(_sentence(cls, fault) for fault in error.errors())
            ) from None

    def fields_of(self, part: type[BaseModel]) -> dict[str, Any]:
        """Return the values of the fields that these settings share with a base class."""
        return {name: getattr(self, name) for name in part.model_fields}


def _sentence(settings: type[BaseModel], fault: Any) -> str:
    """Describe one validation fault of pydantic in a sentence."""
    kind, place = fault["type"], ".".join(_names(settings, fault["loc"]))
    if kind == "extra_forbidden":
        return _unknown_key(settings, fault["loc"][:-1], str(fault["loc"][-1]))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(settings, place, fault)
    near = _near(fault, "expected") if kind in ("enum", "literal_error") else ""
    reason = (
        str(fault["ctx"]["error"]) if kind == "value_error" else f"{fault['msg'].lower()}{near}"
    )
    # a mapping would be too long for the message
    given = "" if isinstance(fault["input"], Mapping) else f" is {fault['input']!r}"
    return f"`{place}`{given}: {reason}" if place else reason


def _unknown_key(settings: type[BaseModel], above: tuple[Any, ...], key: str) -> str:
    allowed = _keys_at(settings, above)
    return f"unknown key `{'.'.join([*_names(settings, above), key])}`; {nearest(key, allowed)}"


def _wrong_tag(settings: type[BaseModel], place: str, fault: Any) -> str:
    """Describe a missing or unknown value of the key that selects a group of settings."""
    key = fault["ctx"]["discriminator"].strip("'")
    given = f"is {fault['ctx']['tag']!r}" if "tag" in fault["ctx"] else "is missing"
    tags = ", ".join(
        f"'{tag}'" for kind in _kinds_at(settings, fault["loc"]) for tag in _tags(kind)
    )
    return f"`{place}.{key}` {given}: should be one of {tags}{_near(fault, 'expected_tags')}"


def _near(fault: Any, expected: str) -> str:
    """Return the allowed name most similar to an unknown one, as the end of a message."""
    allowed = re.findall("'([^']*)'", fault["ctx"].get(expected, ""))
    hint = nearest(str(fault["ctx"].get("tag", fault["input"])), allowed, otherwise="")
    return f"; {hint}" if hint else ""


def _names(settings: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Return the path of a key as in the file, without the tags that pydantic adds for a union."""
    kinds = [_kinds_at(settings, place[:k]) for k in range(len(place))]
    return [
        str(name)
        for name, above in zip(place, kinds, strict=True)
        if not any(name in _tags(kind) for kind in above)
    ]


def _keys_at(settings: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Return the names of the fields of the settings class at `place`."""
    return sorted({name for kind in _kinds_at(settings, place)[:1] for name in kind.model_fields})


def _kinds_at(settings: type[BaseModel], place: tuple[Any, ...]) -> list[type[BaseModel]]:
    """Return the settings classes that `place` can refer to."""
    kinds = [settings]
    for name in place:
        field = next((kind.model_fields[name] for kind in kinds if name in kind.model_fields), None)
        if field is not None:
            kinds = _classes(field.annotation)
        elif tagged := [kind for kind in kinds if name in _tags(kind)]:
            kinds = tagged
    return kinds


def _tags(kind: type[BaseModel]) -> list[str]:
    """Return the values of single-valued Literal fields, which select one class of a union."""
    choices = [
        get_args(field.annotation)
        for field in kind.model_fields.values()
        if get_origin(field.annotation) is Literal
    ]
    return [words[0] for words in choices if len(words) == 1 and isinstance(words[0], str)]


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes contained in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _classes(part)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping of plain data from a YAML file.

    Raises:
        RecipeError: the file is missing, is not YAML, or does not contain a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must contain a mapping of settings, got {type(values).__name__}")
    return values


def override(values: dict[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of `values` with assignments such as `a.b=1` applied.

    Values are read as YAML. A number in a key is an index into a list, counted from 0, as in
    `data.sources.0.weight=2`.

    Args:
        values: nested settings.
        assignments: texts of the form `key=value`.
    Raises:
        RecipeError: an assignment has no '=', its value is not YAML, or its key goes through
            something that is not a mapping or list.
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
    """Return the mapping or list under `name`; a missing mapping is created."""
    if isinstance(place, list):
        if not (name.isdecimal() and int(name) < len(place)):
            raise RecipeError(
                f"--set {assignment}: `{name}` is not an index into a list of {len(place)} items;"
                " indices count from 0"
            )
        return place[int(name)]
    inner = place.setdefault(name, {})
    if not isinstance(inner, (dict, list)):
        raise RecipeError(
            f"--set {assignment}: `{name}` is a single value, not a group of settings"
        )
    return inner
