"""The recipes of the study are what its tables say they are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def variants() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "s2ef_variants", ROOT / "workflows" / "s2ef-study" / "variants.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_every_variant_is_a_recipe(variants: ModuleType) -> None:
    recipes = {name: variants.recipe_of(variant) for name, variant in variants.VARIANTS.items()}
    alone, joint = recipes["alone"], recipes["joint"]
    assert {alone.training, joint.training} == {alone.training}  # the same optimization
    assert joint.data.sources[: len(alone.data.sources)] == alone.data.sources
    assert joint.levels == ("BEEF-vdW", "RPBE")
    assert [source.path for source in recipes["others"].data.sources] == [
        s.path for s in joint.data.sources if s.level == "RPBE"
    ]
    assert [s.energies for s in joint.data.sources] == [True, True, True, True, False, False]
    assert recipes["direct"].training.direct_force_weight == alone.training.force_weight
    assert all(source.exclude_elements == ("Pd",) for source in recipes["without-pd"].data.sources)


def test_trials_keep_their_proportions(variants: ModuleType) -> None:
    recipe = variants.recipe_of(variants.VARIANTS["alone"], steps=40)
    assert (recipe.training.steps, recipe.training.final_stage.steps) == (40, 10)
