from __future__ import annotations

from pathlib import Path

import pytest
from helpers.training import recipe_values, write_recipe

from geocalc.core.settings import read_yaml
from geocalc.errors import RecipeError
from geocalc.potentials.network import ForceMode
from geocalc.properties.recipe import read_property_recipe
from geocalc.train.recipe import read_recipe

EVERY = sorted((Path(__file__).parents[2] / "models").glob("*/recipe.yaml"))
OF_PROPERTIES = [path for path in EVERY if read_yaml(path).get("task") in ("node", "graph")]
SHIPPED = [path for path in EVERY if path not in OF_PROPERTIES]


@pytest.fixture
def values():
    return recipe_values(Path("data.extxyz"))


def changed(tmp_path, values, part, **entries) -> Path:
    values[part] |= entries
    return write_recipe(tmp_path / "recipe.yaml", values)


def test_a_recipe_is_read_with_its_defaults(tmp_path, values):
    recipe = read_recipe(write_recipe(tmp_path / "recipe.yaml", values))
    assert recipe.training.steps == 12
    assert recipe.training.fixed_force_weight == 0.2
    assert recipe.model.force_mode is ForceMode.GRADIENT
    assert recipe.data.sources[0].energy_key == "REF_energy"


def test_what_a_run_writes_is_the_same_recipe(tmp_path, values):
    recipe = read_recipe(write_recipe(tmp_path / "recipe.yaml", values))
    assert (
        read_recipe(write_recipe(tmp_path / "again.yaml", recipe.model_dump(mode="json"))) == recipe
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_recipes_are_valid(path):
    assert read_recipe(path).name == path.parent.name


@pytest.mark.parametrize("path", OF_PROPERTIES, ids=lambda path: path.parent.name)
def test_shipped_recipes_of_properties_are_valid(path):
    assert read_property_recipe(path).name == path.parent.name


def test_models_that_are_compared_learn_from_the_same_data():
    names = ("faenet-sfa", "faenet-sfa-small", "schnet")
    recipes = {path.parent.name: read_recipe(path) for path in SHIPPED if path.parent.name in names}
    reference = recipes["faenet-sfa"]
    for name in ("faenet-sfa-small", "schnet"):
        assert (recipes[name].data, recipes[name].fitted_references) == (
            reference.data,
            reference.fitted_references,
        )


@pytest.mark.parametrize(
    ("part", "key", "near"),
    [
        ("training", "learning_rat", "learning_rate"),
        ("data", "max_jumps", "max_jump"),
        ("model", "frame", "frames"),
    ],
)
def test_a_misspelled_key_is_answered_with_the_nearest_one(tmp_path, values, part, key, near):
    path = changed(tmp_path, values, part, **{key: 1})
    with pytest.raises(
        RecipeError, match=rf"recipe.yaml: unknown key `{part}.{key}`; did you mean `{near}`\?"
    ):
        read_recipe(path)


def test_a_misspelled_key_of_a_source_is_found(tmp_path, values):
    values["data"]["sources"][0]["groupkey"] = "sid"
    with pytest.raises(
        RecipeError, match=r"unknown key `data.sources.0.groupkey`; did you mean `group_key`\?"
    ):
        read_recipe(write_recipe(tmp_path / "recipe.yaml", values))


def test_every_fault_is_told_at_once(tmp_path, values):
    values["training"] |= {"steps": 0, "bathc_size": 3}
    with pytest.raises(
        RecipeError,
        match=(
            r"`training.steps` is 0.*`training.bathc_size`|`training.bathc_size`.*`training.steps`"
        ),
    ):
        read_recipe(write_recipe(tmp_path / "recipe.yaml", values))


def test_unknown_settings_of_the_architecture_are_refused(tmp_path, values):
    values["model"]["settings"]["hidden_chanels"] = 8
    with pytest.raises(
        RecipeError,
        match=r"model.settings: unknown key `hidden_chanels`; did you mean `hidden_channels`\?",
    ):
        read_recipe(write_recipe(tmp_path / "recipe.yaml", values))


def test_settings_that_no_network_can_be_built_from_are_refused_before_any_data_are_read(
    tmp_path, values
):
    values["model"]["settings"]["hidden_channels"] = 12
    with pytest.raises(RecipeError, match=r"model.settings: hidden_channels=12 leaves"):
        read_recipe(write_recipe(tmp_path / "recipe.yaml", values))


@pytest.mark.parametrize(
    ("part", "entries", "sentence"),
    [
        (
            "model",
            {"architecture": "faenett"},
            "unknown architecture `faenett`; did you mean `faenet`?",
        ),
        (
            "model",
            {"frames": "averagd"},
            "`model.frames`: no frame policy is called 'averagd'; did you mean `averaged`",
        ),
        ("training", {"frames": "sometimes"}, "`training.frames`: no frame policy"),
        (
            "training",
            {"final_stage": {"steps": 3, "learning_rate": 1e-4, "frames": "sometimes"}},
            "`training.final_stage.frames`: no frame policy",
        ),
        (
            "training",
            {"final_stage": {"steps": 12, "learning_rate": 1e-4, "frames": "single"}},
            "`training.final_stage.steps` must be fewer than training.steps (12)",
        ),
        ("training", {"precision": "bf16-true"}, "`training.precision` is 'bf16-true'"),
        (
            "training",
            {"accumulate": 5},
            "`training.accumulate` is 5, more micro-batches than training.batch_size has",
        ),
        (
            "training",
            {"max_edges": 0},
            "`training.max_edges` is 0: input should be greater than or equal to 1",
        ),
        (
            "training",
            {"workers": -1},
            "`training.workers` is -1: input should be greater than or equal to 0",
        ),
        (
            "training",
            {"patience": 0},
            "`training.patience` is 0: input should be greater than or equal to 1",
        ),
        (
            "training",
            {"balance_by_edges": "edges"},
            "`training.balance_by_edges` is 'edges': input should be a valid boolean",
        ),
        (
            "training",
            {"direct_force_weight": 1.0},
            "`direct_force_weight` needs a network with a force head",
        ),
        (
            "training",
            {"gradient_target_weight": 1.0},
            "`gradient_target_weight` needs a network with a force head",
        ),
        (
            "model",
            {"force_mode": "direct"},
            "`model.force_mode: direct` needs a network with a force head",
        ),
        ("training", {"energy_weight": 0.0, "force_weight": 0.0}, "every loss weight is zero"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(tmp_path, values, part, entries, sentence):
    with pytest.raises(RecipeError) as caught:
        read_recipe(changed(tmp_path, values, part, **entries))
    assert sentence in str(caught.value)


def test_assignments_override_and_are_read_as_yaml(tmp_path, values):
    path = write_recipe(tmp_path / "recipe.yaml", values)
    recipe = read_recipe(
        path,
        (
            "training.steps=7",
            "data.max_jump=0.3",
            "fitted_references.elements=[O]",
            "data.sources.0.weight=2",
        ),
    )
    assert (recipe.training.steps, recipe.data.max_jump, recipe.fitted_references.elements) == (
        7,
        0.3,
        ("O",),
    )
    assert recipe.data.sources[0].weight == 2
    assert read_recipe(path).training.steps == 12
    assert read_recipe(path, ("model.repulsion_reach=null",)).model.repulsion_reach is None


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("training.step=7", "unknown key `training.step`; did you mean `steps`?"),
        ("training.steps", "--set needs key=value, got 'training.steps'"),
        ("name.first=x", "`name` is a single value, not a group of settings"),
        ("data.sources.1.weight=2", "`1` is not an index into a list of 1 items"),
        ("training.steps=[", "--set training.steps=[: the value is not valid YAML"),
    ],
)
def test_a_wrong_assignment_is_refused_in_a_sentence(tmp_path, values, assignment, sentence):
    path = write_recipe(tmp_path / "recipe.yaml", values)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, (assignment,))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "must contain a mapping of settings, got list"),
        ("", "must contain a mapping of settings, got NoneType"),
        ("a: !!python/object/apply:os.system ['true']", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, sentence):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError, match=sentence):
        read_recipe(path)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"cannot read .*none.yaml: No such file"):
        read_recipe(tmp_path / "none.yaml")
