"""Recipes and splits of properties that cannot be learned are refused in a sentence that says what
to do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.glasses import NAMES, glass, make_recipe, recipe_values, write_glasses, write_recipe
from helpers.training import cpu_fabric

from geocalc.errors import InputError, RecipeError
from geocalc.properties.data import read_split, read_test
from geocalc.properties.glass.configuration import write_configuration
from geocalc.properties.recipe import PropertyRecipe, ZincData, read_property_recipe
from geocalc.properties.task import start_property, train_property

Values = dict[str, Any]


@pytest.fixture(scope="module")
def glasses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_glasses(tmp_path_factory.mktemp("glass"))
    return write_glasses(folder / "timed", n_times=3).parent


def zinc(values: Values) -> None:
    values["data"] = {"kind": "zinc", "path": "z.npz"}


def with_fold(values: Values) -> None:
    values |= {"task": "graph", "model": {"architecture": "gcn"}}
    values["data"] = {"kind": "zinc", "path": "z.npz", "folds": 4, "fold": 4}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda v: v["model"].update(architecture="graph-netwrok"),
            "architecture `graph-netwrok`; did you mean `graph-network`?",
        ),
        (
            lambda v: v["model"].update(architecture="x"),
            "unknown architecture `x`; known are gcn, graph-network",
        ),
        (
            lambda v: v["model"]["settings"].update(hiden_channels=8),
            "model.settings: unknown key `hiden_channels`; did you mean `hidden_channels`?",
        ),
        (
            lambda v: v["training"].update(learning_rat=1),
            "unknown key `training.learning_rat`; did you mean `learning_rate`?",
        ),
        (lambda v: v["data"].update(valdation=[]), "did you mean `validation`?"),
        (
            lambda v: v["data"].update(validation=[]),
            "`data.validation` is []: tuple should have at least 1 item",
        ),
        (
            lambda v: v["data"].update(kind="glas"),
            "`data.kind` is 'glas': should be one of 'glass', 'zinc'; did you mean `glass`?",
        ),
        (
            lambda v: v["data"].pop("kind"),
            "`data.kind` is missing: should be one of 'glass', 'zinc'",
        ),
        (lambda v: v["data"].update(foldr="x"), "unknown key `data.foldr`; did you mean `folder`?"),
        (lambda v: v["data"].update(graph={"structure": "inherant"}), "did you mean `inherent`?"),
        (
            lambda v: v["data"].update(graph={"cutoff": 0.0}),
            "`data.graph.cutoff` is 0.0: input should be greater than 0",
        ),
        (
            lambda v: v["training"].update(loss="cubed"),
            "`training.loss` is 'cubed': input should be 'squared' or 'absolute'",
        ),
        (lambda v: v.pop("about"), "`about`: field required"),
        (
            lambda v: v["model"]["settings"].update(level="graph"),
            (
                "task is node, but the network predicts a property of each graph; set"
                " model.settings.level: node"
            ),
        ),
        (
            lambda v: v["about"].update(target="positions"),
            "`about.target` is 'positions': structures have an array of that name",
        ),
        (
            lambda v: v["about"].update(target="how far"),
            "`about.target` is 'how far': string should match pattern",
        ),
        (zinc, "task is node, but data of kind zinc have a property of each graph"),
        (
            lambda v: v.update(task="graph"),
            "task is graph, but data of kind glass have a property of each node",
        ),
        (with_fold, "`data`: fold 4 does not exist; 4 folds are counted from 0"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_in_a_sentence(
    tmp_path: Path, change: Callable[[Values], object], sentence: str
) -> None:
    values = recipe_values(tmp_path)
    change(values)
    path = write_recipe(tmp_path / "recipe.yaml", values)
    with pytest.raises(RecipeError) as caught:
        read_property_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda d: d.update(validation=["g4", "g9"]),
            "has no g9.npz; it has g0, g1, g2, g3, g4, g5",
        ),
        (
            lambda d: d.update(training=["g0", "g4"]),
            "g4: on two sides of the split; correct data.training, data.validation",
        ),
        (lambda d: d.update(test=["g3", "g4"]), "g4: on two sides of the split"),
        (
            lambda d: d.update(validation=list(NAMES), test=[]),
            "no configuration is left to learn from",
        ),
        (
            lambda d: d.update(times=[0, 1]),
            "g0 has propensities at 1 times, so data.times cannot name 1",
        ),
        (
            lambda d: d.update(counted=[2]),
            "g0 has no particle of the types [2]; correct data.counted",
        ),
        (lambda d: d["graph"].update(cutoff=3.0), "a cutoff of 3 does not suit the box"),
        (lambda d: d.update(folder="not/there"), "data file not/there was not found"),
    ],
)
def test_a_split_that_cannot_be_is_refused_in_a_sentence(
    glasses: Path, tmp_path: Path, change: Callable[[Values], object], sentence: str
) -> None:
    values = recipe_values(glasses)
    change(values["data"])
    recipe = PropertyRecipe.parse(values, "test")
    with pytest.raises(InputError) as caught:
        train_property(recipe, tmp_path / "run", tmp_path / "data", cpu_fabric())
    assert sentence in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_rest_is_learnt_from_and_the_test_is_kept_apart(glasses: Path, tmp_path: Path) -> None:
    data = make_recipe(glasses).data
    split = read_split(data, tmp_path)
    assert [sample.name for sample in split.training] == ["g0", "g1", "g2", "g3"]
    assert [sample.name for sample in split.validation] == ["g4"]
    assert [sample.name for sample in read_test(data, tmp_path)] == ["g5"]
    with pytest.raises(
        InputError, match=r"keeps no configuration for the test; name them in data.test"
    ):
        read_test(data.model_copy(update={"test": ()}), tmp_path)


def test_times_are_chosen_in_the_order_that_is_given(glasses: Path, tmp_path: Path) -> None:
    values = recipe_values(glasses / "timed")
    values["data"]["times"] = [2, 0]
    (sample,) = read_split(PropertyRecipe.parse(values, "test").data, tmp_path).validation
    np.testing.assert_array_equal(
        sample.targets.numpy(), glass(4, 3).propensity[[2, 0]].T.astype(np.float32)
    )


@pytest.mark.parametrize("n", [1, 2])
def test_a_network_with_another_number_of_targets_is_refused(
    glasses: Path, tmp_path: Path, n: int
) -> None:
    values = recipe_values(glasses / "timed")
    values["model"]["settings"]["n_targets"] = n
    recipe = PropertyRecipe.parse(values, "test")
    with pytest.raises(
        RecipeError, match=f"gives {n} targets, the data have 3; set model.settings.n_targets: 3"
    ):
        start_property(recipe, read_split(recipe.data, tmp_path).training)


def test_configurations_with_different_numbers_of_times_are_refused(tmp_path: Path) -> None:
    folder = write_glasses(tmp_path / "glass")
    write_configuration(folder / "g2.npz", glass(2, n_times=3))
    values = recipe_values(folder)
    with pytest.raises(
        InputError,
        match=(
            r"propensities of g0 at 1 and g2 at 3 times .* name those that all have in data.times"
        ),
    ):
        read_split(PropertyRecipe.parse(values, "test").data, tmp_path)
    values["data"]["times"] = [0]
    assert {
        s.targets.shape[1]
        for s in read_split(PropertyRecipe.parse(values, "test").data, tmp_path).training
    } == {1}


def test_held_out_targets_that_do_not_vary_are_refused(tmp_path: Path) -> None:
    folder, still = write_glasses(tmp_path / "glass"), glass(4)
    still.propensity[:, still.types == 0] = 0.5
    write_configuration(folder / "g4.npz", still)
    with pytest.raises(
        InputError,
        match="target 0 is the same in all that is held out, so nothing can be judged by it",
    ):
        read_split(make_recipe(folder).data, tmp_path)


def write_molecules(path: Path, n: int) -> Path:
    """As many pairs of bonded atoms, whose property is their number."""
    each, two = np.arange(n + 1), 2 * np.arange(n + 1)
    arrays = {
        "x": np.zeros((2 * n, 1), int),
        "edge_index": np.tile([[0, 1], [1, 0]], n),
        "edge_attr": np.ones(2 * n, int),
    }
    arrays |= {"y": np.arange(n, dtype=float)[:, None]}
    slices = {"x": two, "edge_index": two, "edge_attr": two, "y": each}
    np.savez(
        path,
        **{f"val_{k}": v for k, v in arrays.items()},
        **{f"val_{k}_slices": v for k, v in slices.items()},
    )
    return path


def test_folds_hold_every_molecule_out_once(tmp_path: Path) -> None:
    path = write_molecules(tmp_path / "z.npz", 23)
    held_out: list[str] = []
    for fold in range(5):
        split = read_split(ZincData(kind="zinc", path=path, parts=("val",), fold=fold), tmp_path)
        names = [[sample.name for sample in side] for side in (split.training, split.validation)]
        assert len(names[1]) in (4, 5)
        assert sorted(names[0] + names[1]) == sorted(f"val-{k}" for k in range(23))
        assert all(float(s.targets) == int(s.name.removeprefix("val-")) for s in split.validation)
        held_out += names[1]
    assert sorted(held_out) == sorted(f"val-{k}" for k in range(23))
    other = read_split(ZincData(kind="zinc", path=path, parts=("val",), shuffle=1), tmp_path)
    assert [sample.name for sample in other.validation] != held_out[:5]


def test_more_folds_than_molecules_are_refused(tmp_path: Path) -> None:
    path = write_molecules(tmp_path / "z.npz", 3)
    with pytest.raises(InputError, match="has 3 molecules, too few for 5 folds; choose fewer"):
        read_split(ZincData(kind="zinc", path=path, parts=("val",), fold=4), tmp_path)
