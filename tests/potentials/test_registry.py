"""Models by name: where they are found, and every way in which a folder can be wrong."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from helpers.models import SMALL, edit_card, random_network, write_model
from helpers.structures import adslab, systems_of
from safetensors.torch import save

from geocalc.errors import InputError, ModelFileError, ModelNotFoundError
from geocalc.potentials.network import ForceMode
from geocalc.potentials.registry import (
    CARD,
    WEIGHTS,
    choose_device,
    find_model,
    list_models,
    load_model,
    read_card,
    search_path,
    shipped_folder,
    user_folder,
)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working directory and a user folder without models, and no other places but the shipped
    folder.
    """
    monkeypatch.delenv("GEOCALC_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


# Where models are found


def test_an_explicit_path_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "elsewhere")
    assert find_model(folder) == folder
    assert find_model(str(folder)) == folder
    os.chdir(folder.parent)
    assert find_model("./tiny") == Path("tiny")
    assert load_model(Path("tiny")).card.name == "tiny"


def test_the_variable_names_several_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, two = write_model(tmp_path / "a", "one"), write_model(tmp_path / "b", "two")
    monkeypatch.setenv(
        "GEOCALC_MODELS",
        os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b"), str(tmp_path / "a")]),
    )
    assert search_path()[:2] == [tmp_path / "a", tmp_path / "b"]
    assert find_model("one") == one
    assert find_model("two") == two
    assert list_models()["one"] == [one]


def test_the_user_folder_follows_the_data_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert user_folder() == tmp_path / "data" / "geocalc" / "models"
    folder = write_model(user_folder(), "mine")
    assert find_model("mine") == folder
    assert search_path() == [user_folder(), shipped_folder()]
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_folder() == tmp_path / "home" / ".local" / "share" / "geocalc" / "models"


def test_the_order_of_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEOCALC_MODELS", str(tmp_path / "named"))
    assert search_path() == [tmp_path / "named", user_folder(), shipped_folder()]


def test_one_name_twice_is_an_error_that_gives_both_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GEOCALC_MODELS", str(tmp_path / "named"))
    places = write_model(tmp_path / "named", "twin"), write_model(user_folder(), "twin", seed=1)
    with pytest.raises(
        ModelFileError, match=r"two models are named 'twin': .*named/twin and .*models/twin; rename"
    ):
        load_model("twin")
    assert load_model(places[1]).folder == places[1]
    assert list_models()["twin"] == list(places)


def test_a_folder_here_does_not_win_silently_over_an_installed_model(tmp_path: Path) -> None:
    installed = write_model(user_folder(), "tiny")
    Path("tiny").mkdir()
    assert find_model("tiny") == installed  # a run folder of that name is no model
    Path("tiny").rmdir()
    write_model(Path.cwd(), "tiny", seed=1)
    with pytest.raises(ModelFileError, match="two models are named 'tiny'"):
        find_model("tiny")
    os.chdir(user_folder())
    assert find_model("tiny") == installed


def test_a_name_finds_a_model_in_the_working_directory() -> None:
    write_model(Path.cwd(), "local")
    assert load_model("local").folder == Path("local")


def test_near_names_are_offered(tmp_path: Path) -> None:
    write_model(user_folder(), "faenet-tiny")
    with pytest.raises(
        ModelNotFoundError,
        match=r"no model is named 'faenet-tny'; did you mean `faenet-tiny`.*looked in .*data",
    ):
        load_model("faenet-tny")
    with pytest.raises(
        ModelNotFoundError, match=r"no model is named 'zzz'; known are .*faenet-tiny"
    ):
        load_model("zzz")


def test_no_models_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("geocalc.potentials.registry.shipped_folder", lambda: tmp_path / "none")
    with pytest.raises(ModelNotFoundError, match="no models are installed"):
        load_model("zzz")


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_path_that_is_no_model_folder(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if kind == "empty":
        folder.mkdir()
    with pytest.raises(
        ModelNotFoundError, match=r"folder is not a model folder: it has no model\.yaml"
    ):
        load_model(folder)
    with pytest.raises(ModelNotFoundError, match="is not a model folder"):
        load_model(str(folder))


# What a folder holds


def test_a_loaded_model_says_what_it_is(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path,
        card={"force_mode": "direct", "conservative": False},
        settings={"direct_forces": True},
    )
    loaded = load_model(folder, device="cpu")
    assert loaded.hash == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]
    assert loaded.device == torch.device("cpu")
    assert loaded.potential.force_mode is ForceMode.DIRECT
    assert loaded.potential.elements == (1, 6, 8, 29)
    assert loaded.potential.model.references[0, 6] == -4.0
    assert not any(weight.requires_grad for weight in loaded.potential.model.parameters())
    systems = systems_of(adslab())
    assert torch.equal(loaded(systems).energy, loaded.potential(systems).energy)


def test_weights_survive_the_round_trip(tmp_path: Path) -> None:
    loaded = load_model(write_model(tmp_path, seed=3), dtype="float64")
    for name, value in random_network(3).double().state_dict().items():
        assert torch.equal(loaded.potential.model.network.state_dict()[name], value), name


def test_loading_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    before = torch.get_rng_state()
    load_model(folder)
    load_model(folder, frames="stochastic", seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_dtype_frames_seed_and_stress_are_passed_on(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    loaded = load_model(folder, dtype="float64", frames="stochastic", seed=5, stress=True)
    assert loaded.potential.model.dtype == torch.float64
    assert loaded.potential.model.references.dtype == torch.float64
    assert loaded.potential.seed == 5
    assert loaded(systems_of(adslab())).stress is not None
    assert load_model(folder).potential.model.dtype == torch.float32
    assert not load_model(folder).potential.stress


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype 'float16' is unknown; choose one of float32, float64"),
        ({"device": "gpu"}, "device 'gpu' is unknown; choose auto, cpu or cuda"),
        ({"device": "meta"}, "device 'meta' cannot be used"),
        ({"frames": "averagd"}, "no frame policy is called 'averagd'; did you mean `averaged`"),
        ({"frames": "stochastic"}, "draws frames at random and needs a seed"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_model(write_model(tmp_path), **options)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match="'cuda' was asked for but no CUDA device is available"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="'cuda:2' was asked for but there are 2, numbered from 0"):
        choose_device("cuda:2")


# Damaged folders


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / WEIGHTS).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
    )
    with pytest.raises(
        ModelFileError, match="is a Git LFS pointer, not weights; fetch the file itself"
    ):
        load_model(folder)


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_weights_with_another_hash(damage: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(
        {"truncated": content[:-100], "changed": content, "empty": b""}[damage]
    )
    with pytest.raises(
        ModelFileError,
        match=r"has SHA-256 \w{12}\.\.\., the card says \w{12}\.\.\.: the file is damaged",
    ):
        load_model(folder)


def test_missing_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelFileError, match=r"cannot read the weights of tiny: .*No such file"):
        load_model(folder)


def rehashed(folder: Path, content: bytes) -> Path:
    """The folder with other weights, and a card that knows their hash."""
    old = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / WEIGHTS).write_bytes(content)
    edit_card(folder, old, hashlib.sha256(content).hexdigest())
    return folder


def test_weights_that_are_no_safetensors(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is not a safetensors file"):
        load_model(rehashed(write_model(tmp_path), b"these are no tensors"))


def test_weights_of_another_network(tmp_path: Path) -> None:
    others = save(random_network(num_interactions=3).state_dict())
    with pytest.raises(
        ModelFileError, match=r"the weights of tiny do not fit its card: .*blocks\.2"
    ):
        load_model(rehashed(write_model(tmp_path), others))


def test_a_newer_schema_asks_for_a_newer_geocalc(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    edit_card(folder, "schema_version: 1", "schema_version: 2\nsomething_new: true")
    with pytest.raises(
        ModelFileError, match="has schema version 2, this geocalc reads up to 1; upgrade geocalc"
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "replacement", "message"),
    [
        (
            "architecture: faenet",
            "architecture: gemnet",
            "needs the architecture 'gemnet', which this geocalc does not have",
        ),
        (
            "level_of_theory:",
            "level_of_theroy:",
            "unknown key `level_of_theroy`; did you mean `level_of_theory`",
        ),
        ("license: MIT\n", "", "`license`.*required"),
        (
            "num_filters:",
            "num_filter:",
            "card of tiny cannot be used: settings: unknown key `num_filter`; did you mean",
        ),
        (
            "hidden_channels: 28",
            "hidden_channels: 12",
            "card of tiny cannot be used: hidden_channels=12 leaves",
        ),
        (
            "frames: averaged",
            "frames: latice",
            "card of tiny cannot be used: no frame policy is called 'latice'",
        ),
        (
            "force_mode: gradient",
            "force_mode: gradeint",
            "has force_mode 'gradeint'; it must be one of none, gradient, direct",
        ),
        ("energy_kind: adsorption", "energy_kind: adsorbtion", "`energy_kind` is 'adsorbtion'"),
        ("- Cu", "- Xx", "names the element 'Xx', which does not exist"),
        ("  C: -4.0", "  Q: -4.0", "names the element 'Q', which does not exist"),
        (
            "cutoff: 4.2\nelements",
            "cutoff: 5.0\nelements",
            r"card of tiny says cutoff 5\.0 Angstrom.* say 4\.2",
        ),
        ("name: tiny", "name: [tiny", "is not valid YAML"),
    ],
)
def test_a_card_edited_by_hand(text: str, replacement: str, message: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    before = (folder / CARD).read_text()
    assert before.count(text) == 1
    (folder / CARD).write_text(before.replace(text, replacement))
    with pytest.raises(ModelFileError, match=message):
        load_model(folder)


def test_a_card_that_runs_code_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    edit_card_text = (
        folder / CARD
    ).read_text() + "\nlimits: !!python/object/apply:os.mkdir [made-by-the-card]\n"
    (folder / CARD).write_text(edit_card_text)
    with pytest.raises(ModelFileError, match="is not valid YAML"):
        read_card(folder)
    assert not Path("made-by-the-card").exists()


def test_the_settings_of_the_card_build_the_network(tmp_path: Path) -> None:
    network = load_model(write_model(tmp_path)).potential.model.network
    assert network.cutoff == SMALL["cutoff"]
    assert network.max_neighbors is None
    assert network.n_elements == 119
