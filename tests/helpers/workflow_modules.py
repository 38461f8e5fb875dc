"""Modules of a workflow for tests; they import each other by their bare names."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

WORKFLOWS = Path(__file__).parents[2] / "workflows"


@contextmanager
def workflow_modules(workflow: str, names: Sequence[str]) -> Iterator[dict[str, ModuleType]]:
    """Modules of `workflows/<workflow>` by name, each after those that it imports; forgotten
    afterwards.
    """
    found: dict[str, ModuleType] = {}
    for name in names:
        spec = importlib.util.spec_from_file_location(name, WORKFLOWS / workflow / f"{name}.py")
        found[name] = importlib.util.module_from_spec(spec)
        sys.modules[name] = found[name]
        spec.loader.exec_module(found[name])
    try:
        yield found
    finally:
        for name in names:
            del sys.modules[name]
        torch.set_flush_denormal(False)  # what commands of a workflow set for their process
