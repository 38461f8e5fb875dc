"""Settings are frozen data read from YAML; unknown keys are refused with the nearest allowed one."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

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
            raise RecipeError(f"{where}: " + "; ".join(_sentence(cls, fault) for fault in error.errors())) from None


def _sentence(settings: type[BaseModel], fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        ours = fault["type"] == "value_error"
        told = str(fault["ctx"]["error"]) if ours else f"{fault['msg'].lower()}{_near(fault)}"
        given = "" if isinstance(fault["input"], Mapping) else f" is {fault['input']!r}"  # a whole group is not repeated
        return f"`{place}`{given}: {told}" if place else told
    allowed = _keys_at(settings, fault["loc"][:-1])
    near = difflib.get_close_matches(str(fault["loc"][-1]), allowed, n=1)
    return f"unknown key `{place}`" + (f"; did you mean `{near[0]}`?" if near else f"; allowed here: {', '.join(allowed)}")


def _near(fault: Any) -> str:
    """The allowed name that is nearest to an unknown one."""
    allowed = re.findall("'([^']*)'", fault.get("ctx", {}).get("expected", "")) if fault["type"] == "enum" else []
    near = difflib.get_close_matches(str(fault["input"]), allowed, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _keys_at(settings: Any, place: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the settings class found by following `place`."""
    for name in place:
        field = getattr(settings, "model_fields", {}).get(name)
        if field is not None:
            settings = next((kind for kind in _classes(field.annotation)), settings)
    return sorted(getattr(settings, "model_fields", {}))


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
        RecipeError: an assignment has no '=', is not YAML, or descends into something that is not a mapping.
    """
    result = copy.deepcopy(values)
    for assignment in assignments:
        key, found, text = assignment.partition("=")
        if not found:
            raise RecipeError(f"--set needs key=value, got {assignment!r}; for example --set training.steps=100")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {assignment}: the value is not valid YAML: {' '.join(str(error).split())}") from None
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
            raise RecipeError(f"--set {assignment}: `{name}` is not a place in a list of {len(place)}, counted from 0")
        return place[int(name)]
    inner = place.setdefault(name, {})
    if not isinstance(inner, (dict, list)):
        raise RecipeError(f"--set {assignment}: `{name}` is a value, not a group of settings")
    return inner
