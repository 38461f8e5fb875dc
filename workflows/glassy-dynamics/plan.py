"""List the training runs: recipes of this folder, and folds of the ten training configurations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from geocalc.errors import RecipeError
from geocalc.properties import PropertyRecipe, PropertyTraining, Stage, read_property_recipe

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "glassy-dynamics"
PAIRS = tuple(
    (f"ka_T0.44_{2 * k + 1}", f"ka_T0.44_{2 * k + 2}") for k in range(5)
)  # held out together, one fold after the other
LEARNABLE = tuple(name for pair in PAIRS for name in pair)
CROSS_VALIDATED = ("moments",)
LAST = len(PAIRS) - 1  # the fold of recipes that are trained once


@dataclass(frozen=True)
class Planned:
    """A training: name of the recipe's file, fold that is held out or None, the recipe with that
    fold, folder of the run.
    """

    name: str
    fold: int | None
    recipe: PropertyRecipe
    folder: Path

    def __str__(self) -> str:
        return self.name if self.fold is None else f"{self.name} fold {self.fold}"


def plan(recipes: str, folds: str | None, steps: int | None, out: Path) -> Iterator[Planned]:
    """Every training that is asked for; shortened ones have folders of their own.

    Args:
        recipes: names of files, by commas.
        folds: numbers, by commas, or None for five of the recipes that are cross-validated and the
            last for the others; recipes of other configurations have none.
        steps: instead of the recipe's.
        out: where runs are.
    Raises:
        RecipeError: a fold does not exist, or a recipe is not right.
    """
    for name in recipes.split(","):
        recipe = shortened(read_property_recipe(HERE / f"{name}.yaml"), steps)
        place = out / f"{name}-{recipe.training.steps}"
        if recipe.data.validation not in PAIRS:
            yield Planned(name, None, recipe, place / "run")
            continue
        for fold in _folds(folds, name):
            data = recipe.data.model_copy(update={"validation": PAIRS[fold]})
            yield Planned(
                name, fold, recipe.model_copy(update={"data": data}), place / f"fold-{fold}"
            )


def _folds(folds: str | None, name: str) -> Sequence[int]:
    if folds is None:
        return range(len(PAIRS)) if name in CROSS_VALIDATED else (LAST,)
    known = {str(k): k for k in range(len(PAIRS))}
    strange = [fold for fold in folds.split(",") if fold not in known]
    if strange:
        raise RecipeError(f"there is no fold {strange[0]!r}; choose from {', '.join(known)}")
    return [known[fold] for fold in folds.split(",")]


def shortened(recipe: PropertyRecipe, steps: int | None) -> PropertyRecipe:
    """The recipe with another number of steps, and its stages in the proportion that they had."""
    if steps is None:
        return recipe
    training = recipe.training
    values = training.model_dump() | {"steps": steps, "stages": _scaled(training.stages, steps)}
    return recipe.model_copy(update={"training": PropertyTraining.parse(values, recipe.name)})


def _scaled(stages: Sequence[Stage], steps: int) -> list[Stage]:
    """Stages of `steps` together; those without a step are left out."""
    total, ends = sum(stage.steps for stage in stages), [0]
    for stage in stages:
        ends.append(ends[-1] + stage.steps)
    lengths = [round(b * steps / total) - round(a * steps / total) for a, b in pairwise(ends)]
    return [
        stage.model_copy(
            update={"steps": length, "every": max(1, round(stage.every * steps / total))}
        )
        for stage, length in zip(stages, lengths, strict=True)
        if length
    ]
