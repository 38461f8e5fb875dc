"""A method chosen by name, with settings of its own."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from geocalc.core.settings import Settings


class Choice(Settings):
    """A method by name and those of its settings that differ from the defaults.

    In YAML a name alone (`optimizer: fire`) or a mapping (`optimizer: {name: fire, max_step:
    0.1}`). The method checks names and values of its settings when it is made.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float] = Field(init=False)

    name: str

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) else values

    @property
    def settings(self) -> dict[str, int | float]:
        """The settings that were given, by name."""
        return dict(self.__pydantic_extra__ or {})
