from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import molecule
from ase.constraints import Hookean
from ase.io import read, write
from click.testing import CliRunner, Result
from helpers.models import edit_card, write_model
from helpers.structures import adslab, rattled
from helpers.training import recipe_values, relaxations, under_ref_keys, write_data, write_recipe

from geocalc.cli.main import main
from geocalc.runs.records import Record

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
EASY = 1e3  # eV/Angstrom; every structure is converged where it starts


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in, and no models but those of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GEOCALC_MODELS", raising=False)
    monkeypatch.delenv("GEOCALC_DATA", raising=False)
    yield
    torch.set_flush_denormal(False)  # what `geocalc train` sets for its process


@pytest.fixture
def model(tmp_path) -> Path:
    return write_model(tmp_path / "models", "tiny")


def adsorption_values(data: Path) -> dict[str, Any]:
    """Values of a recipe with energies of the kind of `model`."""
    values = recipe_values(data)
    values["about"]["energy_kind"] = "adsorption"
    return values


def clean(name: str = "slab", seed: int = 7) -> Atoms:
    """A slab with O that any file can hold."""
    atoms = rattled(adslab("O", size=(2, 2, 2)), seed=seed)
    atoms.info = {"sid": name}
    return atoms


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def relax(model: object, *arguments: object) -> Result:
    return invoke("relax", *arguments, "--model", model, "--frames", "single", "--workers", 1)


def records(folder: str) -> list[Record]:
    return [
        Record.from_json(line) for line in Path(folder, "results.jsonl").read_text().splitlines()
    ]


def files() -> set[str]:
    """What the work folder holds, but for the model."""
    return {p.name for p in Path().iterdir()} - {"models"}


def assert_refused(done: Result, sentence: str, status: int = 1) -> None:
    """One line on the terminal, which holds the sentence, and the status."""
    assert done.exit_code == status, done.output
    lines = done.output.strip().splitlines()
    assert len(lines) == 1, done.output
    assert lines[0].startswith("geocalc: ")
    assert sentence in lines[0]


# relax and predict


def test_relax_writes_the_run_folder_and_returns_zero_when_all_converged(model):
    write("in.extxyz", [clean("a"), clean("b", 8)])
    done = relax(model, "in.extxyz", "--fmax", EASY)
    assert done.exit_code == 0, done.output
    assert {p.name for p in Path("in-relax").iterdir()} >= {
        "results.jsonl",
        "relaxed.extxyz",
        "settings.yaml",
        "trajectory",
    }
    assert [r.sid for r in records("in-relax")] == ["a", "b"]
    assert all(
        r.converged and r.error is None and r.energy_kind == "adsorption"
        for r in records("in-relax")
    )
    relaxed = read("in-relax/relaxed.extxyz", ":")
    assert [a.info["geocalc_energy"] for a in relaxed] == [r.energy for r in records("in-relax")]
    assert "2 CONVERGED" in done.output
    assert "adsorption energies" in done.output


def test_relax_returns_three_when_a_structure_did_not_converge(model):
    write("in.extxyz", clean())
    done = relax(
        model, "in.extxyz", "--fmax", 1e-6, "--steps", 2, "--optimizer", "fire", "--traj", "full"
    )
    assert done.exit_code == 3, done.output
    (record,) = records("in-relax")
    assert (record.status, record.n_steps, record.converged) == ("MAX_STEPS", 2, False)
    (trajectory,) = Path("in-relax/trajectory").iterdir()
    assert len(read(trajectory, ":")) >= 3


def test_unconverged_structures_can_be_allowed_but_not_errors(model):
    write("in.extxyz", [clean("a"), clean("b", 8)])
    options = ["--fmax", 1e-6, "--steps", 1, "--allow-unconverged"]
    assert relax(model, "in.extxyz", *options).exit_code == 0
    assert {r.status for r in records("in-relax")} == {"MAX_STEPS"}
    write("more.traj", [clean("a"), foreign()])
    assert relax(model, "more.traj", *options).exit_code == 3


def test_predict_evaluates_without_moving(model):
    write("in.extxyz", clean())
    done = invoke("predict", "in.extxyz", "--model", model, "--out", "here")
    assert done.exit_code == 0, done.output
    (record,) = records("here")
    assert (record.status, record.n_steps, record.n_evaluations) == ("SINGLE_POINT", 0, 1)
    np.testing.assert_array_equal(
        read("here/relaxed.extxyz").positions, read("in.extxyz").positions
    )


def test_a_run_is_resumed_and_never_overwritten(model):
    write("in.extxyz", [clean("a"), clean("b", 8)])
    assert relax(model, "in.extxyz", "--fmax", EASY).exit_code == 0
    before = Path("in-relax/results.jsonl").read_bytes()
    assert_refused(
        relax(model, "in.extxyz", "--fmax", EASY), "holds results already; resume to continue them"
    )
    assert_refused(relax(model, "in.extxyz", "--fmax", 10, "--resume"), "fmax was 1000.0, is 10.0")
    assert relax(model, "in.extxyz", "--fmax", EASY, "--resume").exit_code == 0
    assert Path("in-relax/results.jsonl").read_bytes() == before


def test_settings_come_from_the_file_then_the_options_then_assignments(model):
    write("in.extxyz", clean())
    Path("c.yaml").write_text(
        yaml.safe_dump(
            {"model": str(model), "fmax": 7.0, "steps": 11, "frames": "single", "optimizer": "fire"}
        )
    )
    done = invoke(
        "relax",
        "in.extxyz",
        "--config",
        "c.yaml",
        "--steps",
        4,
        "--set",
        "fmax=900",
        "--set",
        "traj=none",
    )
    assert done.exit_code in (0, 3), done.output
    resolved = yaml.safe_load(Path("in-relax/settings.yaml").read_text())["resolved"]
    assert (resolved["fmax"], resolved["steps"], resolved["optimizer"]["name"]) == (900, 4, "fire")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "fmx=1"], "unknown key `fmx`; did you mean `fmax`?"),
        (["--set", "fmax"], "--set needs key=value, got 'fmax'"),
        (["--fmax", "-1"], "`fmax` is -1.0: input should be greater than 0"),
        (["--fmax", "nan"], "`fmax` is nan"),
        (["--traj", "some"], "`traj` is 'some'"),
        (["--config", "c.yaml"], "c.yaml: unknown key `optimzer`; did you mean `optimizer`?"),
        (["--config", "none.yaml"], "cannot read none.yaml: No such file"),
        (["--optimizer", "bgfs"], "did you mean"),
        (["--frames", "averagd"], "no frame policy is called 'averagd'; did you mean `averaged`"),
        (["--workers", "0"], "`workers` is 0: input should be greater than or equal to 1"),
        (["--device", "gpu"], "device 'gpu' is unknown; choose auto, cpu or cuda"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_nothing_is_written(model, options, sentence):
    write("in.extxyz", clean())
    Path("c.yaml").write_text("optimzer: fire\n")
    assert_refused(invoke("relax", "in.extxyz", "--model", model, *options), sentence)
    assert files() == {"in.extxyz", "c.yaml"}


def test_formats_that_lose_tags_are_told_in_one_line(model):
    write("POSCAR", clean(), format="vasp")
    done = invoke("predict", "POSCAR", "--model", model, "--out", "here")
    assert [line[:33] for line in done.stderr.splitlines() if "hold no tags" in line] == [
        "note: POSCAR files hold no tags ("
    ]


def test_tags_that_are_converted_are_told_once(model):
    layered = []
    for k in range(3):
        atoms = clean(f"s{k}", seed=k)
        atoms.set_tags(
            np.where(
                atoms.numbers == 8,
                0,
                2 - (atoms.positions[:, 2] > atoms.positions[:4, 2].max() + 0.5),
            )
        )
        layered.append(atoms)
    write("in.traj", layered)
    done = relax(model, "in.traj", "--fmax", EASY)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("note: ") == 1
    assert "Cu8O and 2 more: tags were layer numbers" in done.stderr
    assert all(
        a.get_tags().tolist() == [0] * 4 + [1] * 4 + [2]
        for a in read("in-relax/relaxed.extxyz", ":")
    )
    strict = relax(model, "in.traj", "--fmax", EASY, "--strict", "--out", "strict")
    assert strict.exit_code == 1
    assert all("without strict" in r.error for r in records("strict"))


# bad input: files


def test_a_missing_file_alone_makes_no_run_folder(model):
    assert_refused(relax(model, "none.extxyz"), "none.extxyz does not exist; check the path")
    assert files() == set()


def test_an_unreadable_file_alone_makes_no_run_folder(model):
    Path("bad.extxyz").write_text("this is no structure\n")
    assert_refused(relax(model, "bad.extxyz"), "cannot read bad.extxyz: ")
    assert files() == {"bad.extxyz"}
    Path("empty.traj").write_bytes(b"")
    done = relax(model, "bad.extxyz", "empty.traj", "none.cif")
    assert_refused(done, "(and 2 more inputs that cannot be read)")
    assert files() == {"bad.extxyz", "empty.traj"}


def test_an_empty_folder_makes_no_run_folder(model):
    Path("nothing").mkdir()
    assert_refused(relax(model, "nothing"), "the folder nothing holds no structure file")


def test_among_good_files_a_bad_one_is_told_and_the_good_ones_are_relaxed(model):
    write("a.extxyz", clean("a"))
    write("b.extxyz", clean("b", 8))
    Path("bad.extxyz").write_text("this is no structure\n")
    done = relax(
        model, "a.extxyz", "bad.extxyz", "none.extxyz", "b.extxyz", "--fmax", EASY, "--out", "run"
    )
    assert done.exit_code == 3, done.output
    found = {record.sid: record for record in records("run")}
    assert set(found) == {"a", "bad.extxyz", "none.extxyz", "b"}
    assert {sid for sid, record in found.items() if record.converged} == {"a", "b"}
    assert "cannot read bad.extxyz" in found["bad.extxyz"].error
    assert "none.extxyz does not exist" in found["none.extxyz"].error
    assert [atoms.info["sid"] for atoms in read("run/relaxed.extxyz", ":")] == ["a", "b"]
    assert found["bad.extxyz"].error in done.output
    assert found["none.extxyz"].error in done.output


@pytest.mark.slow
def test_a_folder_with_some_bad_files_ends_with_all_the_others_relaxed(model):
    """Six kinds of bad file among good ones, in two worker processes."""
    Path("in").mkdir()
    for k in range(14):
        write(f"in/good-{k:02}.extxyz", clean(f"good-{k:02}", k))
    whole = Path("in/good-00.extxyz").read_text()
    Path("in/truncated.extxyz").write_text("\n".join(whole.splitlines()[:-2]))
    Path("in/empty.extxyz").write_text("")
    write("in/element.extxyz", foreign())
    write("in/overlap.extxyz", overlapping())
    write("in/cell.extxyz", unbounded())
    springs = clean("springs")
    springs.set_constraint(Hookean(0, 8, 5.0, 1.0))
    write("in/springs.traj", springs)
    done = invoke(
        "relax",
        "in",
        "--model",
        model,
        "--frames",
        "single",
        "--fmax",
        EASY,
        "--workers",
        2,
        "--out",
        "run",
    )
    assert done.exit_code == 3, done.output
    found = {r.sid: r for r in records("run")}
    assert len(found) == 20
    assert all(found[f"good-{k:02}"].converged for k in range(14))
    sentences = {
        "truncated.extxyz": "the file ends inside frame 0, after 7 of 9 atoms",
        "empty.extxyz": "holds no structure",
        "foreign": "the structure contains Pt, which this model was not trained on",
        "overlap": "are 0.10 Å apart",
        "zero": "pbc is on along a and b and c although that lattice vector is zero",
        "springs": "the constraint Hookean is not supported",
    }
    for sid, sentence in sentences.items():
        assert sentence in found[sid].error
        assert "\n" not in found[sid].error
    relaxed = read("run/relaxed.extxyz", ":")
    assert [a.info["sid"] for a in relaxed] == [f"good-{k:02}" for k in range(14)]
    assert "14 CONVERGED, 6 ERROR" in done.output
    assert [line for line in done.output.splitlines() if line.startswith("good-")] == sorted(
        line for line in done.output.splitlines() if line.startswith("good-")
    )


def test_a_folder_at_work_is_refused(model):
    write("in.extxyz", clean())
    assert relax(model, "in.extxyz", "--fmax", EASY).exit_code == 0
    lock = os.open("in-relax/.lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_refused(
            relax(model, "in.extxyz", "--fmax", EASY, "--resume"),
            "another run is working in in-relax; wait for",
        )
    finally:
        os.close(lock)
    assert relax(model, "in.extxyz", "--fmax", EASY, "--resume").exit_code == 0


def overlapping() -> Atoms:
    atoms = clean("overlap")
    atoms.positions[1] = atoms.positions[0] + [0.1, 0.0, 0.0]
    return atoms


def nowhere() -> Atoms:
    atoms = clean("nan")
    atoms.positions[3, 1] = np.nan
    return atoms


def unbounded() -> Atoms:
    atoms = molecule("H2O")
    atoms.info = {"sid": "zero"}
    atoms.pbc = True
    return atoms


def foreign() -> Atoms:
    atoms = clean("foreign")
    atoms.numbers[0] = 78
    return atoms


BAD: list[tuple[Callable[[], Atoms], str]] = [
    (foreign, "the structure contains Pt, which this model was not trained on; it knows H C O Cu"),
    (overlapping, "are 0.10 Å apart"),
    (nowhere, "the position of atom 3 is ["),
    (unbounded, "pbc is on along a and b and c although that lattice vector is zero"),
]


@pytest.mark.parametrize(("make", "sentence"), BAD, ids=["element", "overlap", "nan", "cell"])
def test_a_structure_that_cannot_be_used_is_one_sentence_and_the_others_are_relaxed(
    model, make, sentence
):
    write("in.traj", [clean("first"), make(), clean("last", 8)])
    done = relax(model, "in.traj", "--fmax", EASY)
    assert done.exit_code == 3, done.output
    found = {record.sid: record for record in records("in-relax")}
    bad = found.pop(make().info["sid"])
    assert set(found) == {"first", "last"}
    assert all(record.converged for record in found.values())
    assert (bad.status, bad.energy, bad.converged) == ("ERROR", None, False)
    assert sentence in bad.error
    assert bad.error in done.output
    assert len(read("in-relax/relaxed.extxyz", ":")) == 2


@pytest.mark.parametrize(("make", "sentence"), BAD, ids=["element", "overlap", "nan", "cell"])
def test_a_structure_that_cannot_be_used_alone_has_its_record_and_status_one(model, make, sentence):
    write("in.traj", make())
    for verb in ("relax", "predict"):
        done = invoke(verb, "in.traj", "--model", model)
        assert done.exit_code == 1, done.output
        assert sentence in done.output
        assert sentence in records(f"in-{verb}")[0].error


# bad input: models


def test_an_unknown_model_is_answered_with_near_names(model, monkeypatch):
    monkeypatch.setenv("GEOCALC_MODELS", str(model.parent))
    write("in.extxyz", clean())
    assert_refused(relax("tny", "in.extxyz"), "no model is named 'tny'; did you mean `tiny`")
    assert_refused(invoke("models", "tyni"), "did you mean `tiny`")
    assert_refused(invoke("evaluate", "tinny", "in.extxyz"), "did you mean `tiny`")
    assert files() == {"in.extxyz"}


def point_to_lfs(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(LFS)


def tamper(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(bytes(content))


def truncate(folder: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[:100])


def remove(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def from_the_future(folder: Path) -> None:
    edit_card(folder, "schema_version: 1", "schema_version: 7")


def misspell(folder: Path) -> None:
    edit_card(folder, "energy_kind:", "energy_knd:")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            point_to_lfs,
            "is a Git LFS pointer, not weights; fetch the file itself with `git lfs pull`",
        ),
        (tamper, "the file is damaged, truncated or was changed; install the model again"),
        (truncate, "the file is damaged, truncated or was changed; install the model again"),
        (remove, "cannot read the weights of tiny"),
        (from_the_future, "has schema version 7, this geocalc reads up to 1; upgrade geocalc"),
        (misspell, "unknown key `energy_knd`; did you mean `energy_kind`?"),
    ],
)
def test_a_damaged_model_is_one_sentence_and_nothing_is_written(model, spoil, sentence):
    spoil(model)
    write("in.extxyz", clean())
    for verb in ("relax", "predict"):
        assert_refused(invoke(verb, "in.extxyz", "--model", model), sentence)
    assert_refused(invoke("evaluate", model, "in.extxyz"), sentence)
    assert files() == {"in.extxyz"}


# models


def test_models_lists_what_is_installed_and_shows_a_card(model, monkeypatch):
    monkeypatch.setenv("GEOCALC_MODELS", str(model.parent))
    listed = invoke("models")
    assert listed.exit_code == 0
    assert any(
        line.split() == ["tiny", "s2ef", "adsorption", "tests"]
        for line in listed.output.splitlines()
    )
    card = invoke("models", "tiny")
    assert card.exit_code == 0
    assert f"Folder: {model}" in card.output
    assert invoke("models", model).exit_code == 0


def test_one_damaged_model_does_not_hide_the_others(model, monkeypatch):
    monkeypatch.setenv("GEOCALC_MODELS", str(model.parent))
    misspell(write_model(model.parent, "broken"))
    listed = invoke("models")
    assert listed.exit_code == 0
    assert any(
        line.startswith("broken") and "unknown key `energy_knd`" in line
        for line in listed.output.splitlines()
    )
    assert any(line.startswith("tiny") for line in listed.output.splitlines())


def test_a_model_that_is_found_twice_is_told_and_refused(model, monkeypatch, tmp_path):
    shutil.copytree(model, tmp_path / "models" / "again" / "tiny")
    monkeypatch.setenv(
        "GEOCALC_MODELS", os.pathsep.join([str(model.parent), str(tmp_path / "models" / "again")])
    )
    assert "found twice" in invoke("models").output
    write("in.extxyz", clean())
    assert_refused(relax("tiny", "in.extxyz"), "two models are named 'tiny'")
    assert files() == {"in.extxyz"}


# evaluate


def test_evaluate_measures_labeled_structures(model):
    frames = relaxations(4, 2)
    write("d.traj", frames)
    done = invoke("evaluate", model, "d.traj", "--out", "found", "--dtype", "float64")
    assert done.exit_code == 0, done.output
    metrics = json.loads(Path("found/metrics.json").read_text())
    assert json.loads(done.stdout) == metrics
    errors = metrics["results"]["d.traj"]
    assert errors["n"] == 8
    assert (metrics["model"], metrics["task"], metrics["dtype"]) == ("tiny", "s2ef", "float64")
    assert {p.name for p in Path("found").iterdir()} == {
        "metrics.json",
        "d-energy.png",
        "d-forces.png",
    }

    write("same.extxyz", [f.copy() for f in frames])
    assert invoke("predict", "same.extxyz", "--model", model, "--dtype", "float64").exit_code == 0
    energies = [r.energy for r in records("same-predict")]
    expected = np.mean(
        [abs(e - f.calc.results["energy"]) for e, f in zip(energies, frames, strict=True)]
    )
    assert errors["energy_mae"] == pytest.approx(expected, rel=1e-6)
    free = np.concatenate([f.calc.results["forces"][f.get_tags() > 0] for f in frames])
    assert errors["force_null"] == pytest.approx(np.abs(free).mean())
    close = [
        abs(e - f.calc.results["energy"]) < 0.02 for e, f in zip(energies, frames, strict=True)
    ]
    assert errors["within_0p02"] == np.mean(close)
    assert errors["force_rmse"] > errors["force_mae"]


@pytest.mark.slow
def test_evaluate_takes_the_validation_split_of_a_recipe(model):
    recipe = write_recipe(Path("r.yaml"), adsorption_values(write_data(Path("d.traj"))))
    done = invoke("evaluate", model, recipe, "--out", "found")
    assert done.exit_code == 0, done.output
    assert json.loads(Path("found/metrics.json").read_text())["results"]["d.traj"]["n"] == 12
    assert_refused(
        invoke("evaluate", model, recipe, "--source", 1, "--out", "more"),
        "source 1 was asked for, there are 1, counted from 0",
    )
    assert not Path("more").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("data", "n"), [("r.yaml", 4), ("d.traj", 10)], ids=["recipe", "file"])
def test_evaluate_relaxes_from_the_first_frame_and_compares_with_the_last(model, data, n):
    write_recipe(Path("r.yaml"), adsorption_values(write_data(Path("d.traj"))))
    options = [
        "--task",
        "relax",
        "--fmax",
        EASY,
        "--steps",
        3,
        "--frames",
        "single",
        "--out",
        "found",
    ]
    done = invoke("evaluate", model, data, *options)
    assert done.exit_code == 0, done.output
    metrics = json.loads(Path("found/metrics.json").read_text())
    errors = metrics["results"]["d.traj"]
    assert (errors["n"], errors["converged"], errors["model_calls"]) == (n, 1.0, 1.0)
    assert errors["distance"] == pytest.approx(errors["distance_null"])  # nothing had to move
    assert (metrics["fmax"], metrics["steps"], metrics["frames"]) == (EASY, 3, "single")
    table = Path("found/d-relaxed.csv").read_text().splitlines()
    assert len(table) == n + 1
    assert table[0].startswith("sid,energy,reference")
    assert Path("found/d-relaxed.png").exists()


def bare(frames):
    return [f.copy() for f in frames]


def zeroed(frames):
    copies = under_ref_keys(frames)
    for copy in copies:
        copy.arrays["REF_forces"][copy.constraints[0].index] = 0.0
    return copies


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            bare,
            (
                "neither REF_energy in info and REF_forces in arrays nor those of a stored"
                " calculator"
            ),
        ),
        (zeroed, "the forces on fixed atoms are exactly zero in every structure"),
    ],
)
def test_data_without_labels_or_with_zeroed_forces_are_refused(model, spoil, sentence):
    write_data(Path("d.extxyz"), spoil(relaxations(4, 2)))
    assert_refused(invoke("evaluate", model, "d.extxyz", "--out", "found"), sentence)
    recipe = write_recipe(Path("r.yaml"), adsorption_values(Path("d.extxyz")))
    assert_refused(invoke("train", recipe, "--out", "runs/r", "--device", "cpu"), sentence)
    assert_refused(invoke("evaluate", model, recipe, "--out", "found"), sentence)
    assert files() == {"d.extxyz", "r.yaml"}


def test_relaxations_of_one_frame_are_nothing_to_compare_with(model):
    write_data(Path("d.traj"), relaxations(3, 1))
    done = invoke("evaluate", model, "d.traj", "--task", "relax", "--out", "found")
    assert_refused(done, "d.traj holds no relaxation of two frames or more")
    assert_refused(
        invoke("evaluate", model, "none.traj", "--out", "found"),
        "data file none.traj was not found",
    )
    assert files() == {"d.traj"}


def cells(done: Result, head: str) -> list[str]:
    """Of the row of a table that begins with `head`, the others."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    (row,) = [row for row in rows if row[:1] == [head]]
    return row[1:]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["r.yaml", "d.traj"], ids=["recipe", "file"])
def test_evaluate_measures_symmetries(model, data):
    write_recipe(Path("r.yaml"), recipe_values(write_data(Path("d.traj"), relaxations(4, 2))))
    options = ["--task", "symmetry", "--limit", 2, "--dtype", "float64", "--out", "found"]
    done = invoke("evaluate", model, data, *options)
    assert done.exit_code == 0, done.output
    metrics = json.loads(Path("found/metrics.json").read_text())
    errors = metrics["results"]["d.traj"]
    assert (metrics["task"], metrics["seed"], errors["n"], errors["rotation"]["n"]) == (
        "symmetry",
        0,
        2,
        20,
    )
    operations = {name: one for name, one in errors.items() if name != "n"}
    assert len(operations) == 10
    assert all(
        one["energy"]["maximum"] < 1e-9 and one["forces"]["maximum"] < 1e-9
        for one in operations.values()
    )
    row = cells(done, "rotation about z")
    assert row[:2] == [
        f"{errors['rotation_z']['energy'][which]:.1e}" for which in ("mean", "maximum")
    ]


@pytest.mark.slow
def test_evaluate_measures_symmetries_of_molecules_and_of_other_frames(model):
    write("d.extxyz", [molecule("CH4"), molecule("H2O")])  # without labels
    done = invoke(
        "evaluate",
        model,
        "d.extxyz",
        "--task",
        "symmetry",
        "--frames",
        "none",
        "--dtype",
        "float64",
        "--out",
        "found",
    )
    assert done.exit_code == 0, done.output
    errors = json.loads(Path("found/metrics.json").read_text())["results"]["d.extxyz"]
    assert errors["rewrap"] is None
    assert errors["rotation"]["energy"]["mean"] > 1e-3
    assert cells(done, "re-wrapping") == ["-"] * 4
    stochastic = ["--task", "symmetry", "--frames", "stochastic", "--limit", 1]
    assert_refused(
        invoke("evaluate", model, "d.extxyz", *stochastic),
        "draws frames at random and needs a seed",
    )
    assert invoke("evaluate", model, "d.extxyz", *stochastic, "--seed", 3).exit_code == 0


def test_evaluate_tells_how_alike_features_become_with_depth(model):
    write("d.extxyz", [f.copy() for f in relaxations(3, 1)])
    done = invoke("evaluate", model, "d.extxyz", "--task", "oversmoothing", "--out", "found")
    assert done.exit_code == 0, done.output
    layers = json.loads(Path("found/metrics.json").read_text())["results"]["d.extxyz"]["layers"]
    assert [layer["depth"] for layer in layers] == [0, 1, 2]
    assert layers[0]["update_neighbors"] is None
    assert cells(done, "0")[2:] == ["-", "-"]
    assert cells(done, "2")[-1] == f"{layers[2]['update_all_pairs']:.4f}"
    assert_refused(
        invoke("evaluate", model, "d.extxyz", "--task", "oversmoothing", "--limit", 0),
        "of which 0 are to be measured",
    )


# train and register


def test_train_register_and_use_by_name(monkeypatch):
    recipe = write_recipe(Path("r.yaml"), recipe_values(write_data(Path("d.traj"))))
    done = invoke("train", recipe, "--device", "cpu", "--set", "training.steps=4")
    assert done.exit_code == 0, done.output
    assert (
        "runs/tiny: done; `geocalc register runs/tiny --name NAME` makes it a model" in done.output
    )
    assert yaml.safe_load(Path("runs/tiny/recipe.yaml").read_text())["training"]["steps"] == 4
    assert Path("runs/tiny/learning-curve.png").exists()
    assert invoke("register", "runs/tiny", "--name", "mine").exit_code == 0
    assert any(line.split()[:1] == ["mine"] for line in invoke("models").output.splitlines())
    write("in.extxyz", clean())
    told = relax("mine", "in.extxyz", "--fmax", EASY)
    assert told.exit_code == 0, told.output
    assert records("in-relax")[0].model == "mine"
    elsewhere = invoke("register", "runs/tiny", "--name", "mine", "--folder", "kept")
    assert elsewhere.exit_code == 0
    assert "with GEOCALC_MODELS=kept" in elsewhere.output


@pytest.mark.slow
def test_a_run_that_its_clock_stopped_says_so_and_goes_on():
    recipe = write_recipe(Path("r.yaml"), recipe_values(write_data(Path("d.traj")), steps=3))
    done = invoke("train", recipe, "--device", "cpu", "--set", "training.max_seconds=1.0e-6")
    assert done.exit_code == 0, done.output
    assert "stopped after 1 of 3 steps; the same command with --resume goes on" in done.output
    assert_refused(invoke("register", "runs/tiny", "--name", "mine"), "has done 1 of 3 steps")
    assert "runs/tiny: done" in invoke("train", recipe, "--device", "cpu", "--resume").output


@pytest.mark.slow
def test_two_processes_learn_what_one_does():
    recipe = write_recipe(
        Path("r.yaml"), recipe_values(write_data(Path("d.traj")), steps=6, patience=2, workers=1)
    )
    done = program(
        "train", recipe, "--device", "cpu", "--devices", 2, "--out", "runs/two", timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs/two: done") == 1
    assert invoke("train", recipe, "--device", "cpu", "--out", "runs/one").exit_code == 0
    two, one = (
        json.loads(Path("runs", run, "metrics.json").read_text())["validation"]["d.traj"]
        for run in ("two", "one")
    )
    assert two == pytest.approx(one, rel=1e-4)
    logs = [
        [json.loads(line) for line in Path("runs", run, "log.jsonl").read_text().splitlines()]
        for run in ("two", "one")
    ]
    assert [entry["step"] for entry in logs[0]] == [1, 2, 3, 4, 5, 6, 6]
    for together, by_itself in zip(
        *([entry for entry in log if "energy" in entry] for log in logs), strict=True
    ):
        assert together["energy"] == pytest.approx(by_itself["energy"], rel=1e-4)
        assert together["vectors"] == pytest.approx(by_itself["vectors"], rel=1e-4)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            {"training": {"steps": 3, "learning_rat": 1}},
            "unknown key `training.learning_rat`; did you mean `learning_rate`?",
        ),
        (
            {"data": {"sources": [{"path": "none.extxyz"}]}},
            "data file none.extxyz was not found",
        ),
        ({"data": {"sources": []}}, "`data.sources` is []"),
    ],
)
def test_a_recipe_that_is_wrong_is_one_sentence_and_nothing_is_written(spoil, sentence):
    recipe = write_recipe(Path("r.yaml"), recipe_values(write_data(Path("d.traj"))) | spoil)
    assert_refused(invoke("train", recipe, "--device", "cpu"), sentence)
    assert files() == {"r.yaml", "d.traj"}


def test_a_missing_recipe_and_a_wrong_number_of_processes_are_one_sentence():
    assert_refused(invoke("train", "none.yaml"), "cannot read none.yaml: No such file")
    recipe = write_recipe(Path("r.yaml"), recipe_values(write_data(Path("d.traj"))))
    assert_refused(
        invoke("train", recipe, "--devices", 5),
        "--devices is 5; it must be between 1 and training.batch_size (4)",
    )
    assert files() == {"r.yaml", "d.traj"}


def test_register_refuses_what_is_no_run():
    assert_refused(invoke("register", "none", "--name", "x"), "none is not a training run")
    assert files() == set()


# the program itself


def program(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """The installed script, beside the interpreter that runs the tests."""
    command = [str(Path(sys.executable).with_name("geocalc")), *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.slow
def test_the_program_returns_its_status_and_keeps_errors_off_standard_output(model):
    write("in.extxyz", clean())
    done = program(
        "relax", "in.extxyz", "--model", model, "--frames", "single", "--fmax", 1e-6, "--steps", 1
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr == ""
    assert "1 MAX_STEPS" in done.stdout
    refused = program("relax", "none.extxyz", "--model", model)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "geocalc: none.extxyz does not exist; check the path\n"


def test_wrong_usage_returns_two():
    for arguments in (
        ["relax"],
        ["relax", "x", "--nonsense"],
        ["relx"],
        ["evaluate", "m", "d", "--task", "none"],
        ["register", "x"],
    ):
        assert invoke(*arguments).exit_code == 2


def test_help_needs_no_torch_and_names_every_command():
    code = (
        "import sys; from geocalc.cli.main import main; main(['--help'], standalone_mode=False);"
        " assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(
        f"  {verb} " in done.stdout
        for verb in ("relax", "predict", "evaluate", "train", "register", "models")
    )


@pytest.mark.parametrize("verb", ["relax", "predict", "evaluate", "train", "register", "models"])
def test_every_command_explains_itself(verb):
    done = invoke(verb, "--help")
    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")


def test_a_folder_that_cannot_be_written_is_one_sentence(model):
    write("in.extxyz", clean())
    Path("occupied").write_text("a file")
    done = relax(model, "in.extxyz", "--fmax", EASY, "--out", "occupied")
    assert_refused(done, "occupied")
    write_data(Path("d.traj"), relaxations(2, 1))
    assert_refused(invoke("evaluate", model, "d.traj", "--out", "occupied/found"), "occupied")


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ([], "quasi-newton"),
        (["--optimizer", "fire"], "fire"),
        (["--keep-symmetry"], "quasi-newton"),
    ],
)
def test_what_is_saved_is_the_method_that_was_used(model, tmp_path, options, method):
    write("in.extxyz", clean())
    relax(model, "in.extxyz", "--steps", 1, "--out", "run", *options)
    saved = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())
    assert saved["resolved"]["optimizer"]["name"] == method


@pytest.mark.slow
def test_python_runs_the_package_as_the_command():
    told = subprocess.run(
        [sys.executable, "-m", "geocalc", "models"], capture_output=True, text=True, check=True
    )
    assert told.stdout == CliRunner().invoke(main, ["models"]).output
    assert "faenet-sfa" in told.stdout
