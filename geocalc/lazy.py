"""Public names of a package, imported when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def public_names(
    package: str, homes: Mapping[str, str]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package hand on names of its modules without importing these modules first.

    The `__init__.py` of a package says
    `__all__, __getattr__, __dir__ = public_names(__name__, {"Systems": "systems"})`, so
    `from geocalc.core import Systems` works, and `import geocalc.core` costs neither torch nor ASE.

    Args:
        package: its `__name__`.
        homes: the module that defines each public name, relative to the package.
    Returns:
        The package's `__all__`, `__getattr__` and `__dir__` (PEP 562).
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    def names() -> list[str]:
        return list(homes)

    return list(homes), find, names
