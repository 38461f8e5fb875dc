from __future__ import annotations

import gzip
import itertools
import os
import warnings
from collections import Counter
from pathlib import Path

import lmdb
import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength
from ase.db import connect
from ase.io import write
from helpers.training import (
    labeled,
    recipe_values,
    relaxation,
    relaxations,
    under_ref_keys,
    write_data,
)

from geocalc.data.prepare import (
    is_validation,
    prepare_store,
    reference_relaxations,
    samples_of_file,
)
from geocalc.data.read import relaxations as read_relaxations
from geocalc.data.settings import DataSource
from geocalc.data.store import SCHEMA, read_info, read_store, write_store
from geocalc.errors import InputError, RecipeError, RunFolderError
from geocalc.structures.tags import TagsConverted
from geocalc.train.recipe import Recipe, read_recipe

DATA = os.environ.get("GEOCALC_DATA")
SHIPPED = Path(__file__).parents[2] / "models" / "faenet-sfa" / "recipe.yaml"


def recipe_of(
    path: Path, source: dict | None = None, training: dict | None = None, **data
) -> Recipe:
    values = recipe_values(path, **(training or {}))
    values["data"] |= data
    values["data"]["sources"][0] |= source or {}
    return Recipe.parse(values, "test")


def prepared(tmp_path: Path, path: Path, **options):
    return read_store(prepare_store(recipe_of(path, **options), tmp_path / "data"))


def format_error(tmp_path: Path, path: Path, **options) -> dict[str, int]:
    info = read_info(prepare_store(recipe_of(path, **options), tmp_path / "data"))
    assert info is not None
    return info.dropped


@pytest.fixture(scope="module")
def frames():
    return relaxations(10)


# reading


def write_db(path: Path, frames) -> None:
    with connect(path) as database:
        for frame in frames:
            database.write(frame, key_value_pairs={"sid": frame.info["sid"]})


def write_gz(path: Path, frames) -> None:
    plain = path.with_name("plain.extxyz")
    write(plain, under_ref_keys(frames))
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("d.extxyz", lambda path, frames: write(path, under_ref_keys(frames))),
        ("d.extxyz.gz", write_gz),
        ("d.traj", write),
        ("d.db", write_db),
        ("calc.xyz", lambda path, frames: write(path, frames, format="extxyz")),
    ],
)
def test_every_kind_of_file_gives_the_same_samples(tmp_path, frames, name, save):
    save(tmp_path / name, frames)
    samples = prepared(tmp_path, tmp_path / name)
    assert [(s.group, s.image) for s in samples] == [
        (f.info["sid"], f.info["frame"]) for f in frames
    ]
    for sample, frame in zip(samples, frames, strict=True):
        assert sample.energy == pytest.approx(frame.calc.results["energy"], abs=1e-6)
        np.testing.assert_allclose(sample.forces, frame.calc.results["forces"], atol=1e-6)
        np.testing.assert_allclose(sample.positions, frame.positions, atol=1e-6)
        np.testing.assert_array_equal(sample.tags, frame.get_tags())
        assert sample.fixed.all(1).tolist() == (frame.get_tags() == 0).tolist()
        assert (sample.forces[sample.fixed] != 0).any()


def test_files_of_a_folder_without_names_are_relaxations(tmp_path, frames):
    folder = tmp_path / "many"
    folder.mkdir()
    for k in range(3):
        part = [f.copy() for f in frames[3 * k : 3 * k + 3]]
        for copy, frame in zip(part, frames[3 * k : 3 * k + 3], strict=True):
            copy.info.clear()
            copy.calc = frame.calc
        write(folder / f"{k}.traj", part)
    samples = prepared(tmp_path, folder)
    assert len({s.group for s in samples}) == 3
    assert [s.image for s in samples] == [0, 1, 2] * 3


def test_frames_of_one_file_without_names_are_their_own(tmp_path, frames):
    path = write_data(tmp_path / "d.traj", frames)
    samples = prepared(tmp_path, path, source={"group_key": "relaxation"})
    assert len({s.group for s in samples}) == len(frames)


def test_own_keys_of_labels(tmp_path, frames):
    own = []
    for frame in frames:
        copy = frame.copy()
        copy.info["dft_energy"] = -1.25
        copy.set_array("dft_forces", frame.calc.results["forces"])
        own.append(copy)
    path = write_data(tmp_path / "d.extxyz", own)
    samples = prepared(
        tmp_path, path, source={"energy_key": "dft_energy", "forces_key": "dft_forces"}
    )
    assert {s.energy for s in samples} == {-1.25}


def test_tags_of_ase_are_converted_with_one_warning(tmp_path):
    slab = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(slab, "O", 1.6, "fcc")  # tags 1, 2 by layer, adsorbate 0
    frames = [labeled(slab, sid=f"r{k}") for k in range(5)]
    path = write_data(tmp_path / "d.traj", frames)
    with pytest.warns(TagsConverted) as caught:
        samples = prepared(tmp_path, path)
    assert len(caught) == 1
    assert "in 5 relaxations" in str(caught[0].message)
    assert {tuple(s.tags.tolist()) for s in samples} == {(0, 0, 0, 0, 1, 1, 1, 1, 2)}


def test_where_nothing_reads_tags_none_is_judged(tmp_path):
    slab = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    path = write_data(tmp_path / "d.traj", [labeled(slab, sid=f"r{k}") for k in range(5)])
    values = recipe_values(path)
    values["model"]["reads_tags"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = read_store(prepare_store(Recipe.parse(values, "test"), tmp_path / "data"))
    assert not any(s.tags.any() for s in samples)


# energies and filters


def test_the_training_energy_is_stored_plus_one_key_minus_another(tmp_path):
    frames = [
        labeled(f, **f.info, e_ads=0.5, e_relaxed=f.calc.results["energy"] + 0.25)
        for f in relaxation("a")
    ]
    path = write_data(tmp_path / "d.extxyz", frames)
    samples = prepared(
        tmp_path, path, source={"add_energy": "e_ads", "subtract_energy": "e_relaxed"}
    )
    np.testing.assert_allclose([s.energy for s in samples], 0.25, atol=1e-6)


@pytest.mark.parametrize("value", [None, "none", float("nan"), True])
def test_an_energy_rule_without_its_number_is_told(tmp_path, value):
    frames = [
        labeled(f, **f.info, **({} if value is None else {"e_ads": value})) for f in relaxation("a")
    ]
    path = write_data(tmp_path / "d.traj", frames)
    with pytest.raises(
        InputError,
        match=r"structure 0 of .*d.traj: add_energy refers to the info key 'e_ads', .* in eV; got",
    ):
        prepared(tmp_path, path, source={"add_energy": "e_ads"})


def test_flags_groups_and_large_forces_are_filtered_and_counted(tmp_path, frames):
    chosen = []
    for frame in frames:
        number = int(frame.info["sid"][1:])
        chosen.append(
            labeled(frame, **frame.info, converged=number != 3, metal="Fe" if number == 4 else "Cu")
        )
    largest = sorted(np.linalg.norm(f.calc.results["forces"], axis=1).max() for f in chosen)
    path = write_data(tmp_path / "d.extxyz", chosen)
    rules = {"require": {"converged": True}, "exclude_key": "metal", "exclude_groups": ["Fe"]}
    kept = prepared(tmp_path, path, source=rules, max_force=float(largest[-3] + 1e-6))
    assert {s.group for s in kept} == {f"r{k}" for k in range(10)} - {"r3", "r4"}
    dropped = format_error(tmp_path, path, source=rules, max_force=float(largest[-3] + 1e-6))
    assert dropped["not converged"] == 3
    assert dropped["excluded by metal"] == 3
    assert dropped["force above max_force"] == len(chosen) - 6 - len(kept)
    assert all(np.linalg.norm(s.forces, axis=1).max() <= largest[-3] + 1e-6 for s in kept)


def test_groups_to_leave_out_need_the_key_that_holds_them(tmp_path, frames):
    path = write_data(tmp_path / "d.extxyz", frames)
    with pytest.raises(RecipeError, match="but not the info key that holds these values; add"):
        DataSource.parse({"path": path, "exclude_groups": ["Fe"]}, "data.sources.0")
    assert DataSource(path=path).exclude_key is None


def test_structures_with_an_element_are_left_out(tmp_path, frames):
    for frame in (first := [labeled(frame, **frame.info) for frame in frames])[:6]:
        frame.numbers[0] = 46
    path = write_data(tmp_path / "d.extxyz", first)
    rules = {"exclude_elements": ["Pd", "W"]}
    assert all(46 not in s.numbers for s in prepared(tmp_path, path, source=rules))
    assert len(prepared(tmp_path, path, source=rules)) == len(frames) - 6
    assert format_error(tmp_path, path, source=rules)["excluded by element"] == 6


def test_frames_before_an_energy_jump_are_cut_off(tmp_path):
    frames = relaxation("a", n_frames=6)
    frames[1].calc.results["energy"] += 3.0  # two jumps: into frame 1 and out of it
    path = write_data(tmp_path / "d.extxyz", [*frames, *relaxation("b", n_frames=6, seed=1)])
    kept = prepared(tmp_path, path, max_jump=1.0)
    assert Counter(s.group for s in kept) == {"a": 4, "b": 6}
    np.testing.assert_allclose(kept[0].positions, frames[2].positions, atol=1e-6)
    assert format_error(tmp_path, path, max_jump=1.0)["before an energy jump"] == 2
    assert len(prepared(tmp_path, path)) == 12


def test_filters_that_leave_nothing_say_what_they_left_out(tmp_path, frames):
    path = write_data(tmp_path / "d.extxyz", frames)
    with pytest.raises(
        InputError,
        match=r"no labeled structure of .*d.extxyz passed the filters .*'not converged': 30",
    ):
        prepared(tmp_path, path, source={"require": {"converged": True}})
    assert not (tmp_path / "data").exists()


# the split


def test_no_relaxation_is_on_both_sides(tmp_path, frames):
    samples = prepared(tmp_path, write_data(tmp_path / "d.extxyz", frames))
    held, used = ({s.group for s in samples if s.validation is side} for side in (True, False))
    assert held
    assert used
    assert not held & used


def test_the_split_depends_on_names_alone(tmp_path, frames):
    def sides(path: Path) -> dict[str, bool]:
        return {s.group: s.validation for s in prepared(tmp_path, path)}

    forwards = sides(write_data(tmp_path / "d.extxyz", frames))
    backwards = sides(write_data(tmp_path / "e.extxyz", frames[::-1]))
    fewer = sides(write_data(tmp_path / "f.extxyz", frames[6:]))
    scattered = sides(
        write_data(tmp_path / "g.extxyz", [*frames[::3], *frames[1::3], *frames[2::3]])
    )
    assert forwards == backwards == scattered
    assert fewer == {name: side for name, side in forwards.items() if name in fewer}


def test_the_share_held_out_is_about_the_one_asked_for():
    data = recipe_of(Path("d"), validation_fraction=0.2).data
    share = np.mean([is_validation(f"relaxation-{k}", data) for k in range(5000)])
    assert share == pytest.approx(0.2, abs=0.02)
    other = recipe_of(Path("d"), validation_fraction=0.2, split_seed="other").data
    assert [is_validation(f"{k}", data) for k in range(50)] != [
        is_validation(f"{k}", other) for k in range(50)
    ]


def test_what_shares_a_split_key_falls_on_one_side(tmp_path, frames):
    for number, frame in enumerate(frames):
        frame.info["slab_id"] = f"slab{number // 6}"  # of two relaxations each
    path = write_data(tmp_path / "d.extxyz", frames)
    recipe = recipe_of(path)
    by_slab = recipe.data.model_copy(
        update={"sources": (recipe.data.sources[0].model_copy(update={"split_key": "slab_id"}),)}
    )
    samples = read_store(
        prepare_store(recipe.model_copy(update={"data": by_slab}), tmp_path / "data")
    )
    slabs = {
        f"slab{k}": {s.validation for s in samples if int(s.group.removeprefix("r")) // 2 == k}
        for k in range(5)
    }
    assert slabs == {name: {is_validation(name, by_slab)} for name in slabs}
    held = {int(r.first.group.removeprefix("r")) // 2 for r in reference_relaxations(by_slab, 0)}
    assert held == {k for k in range(5) if is_validation(f"slab{k}", by_slab)}
    assert 0 < len(held) < 5


def test_reference_relaxations_are_whole_and_of_one_side(tmp_path, frames):
    data = recipe_of(write_data(tmp_path / "d.extxyz", frames)).data
    held, used, both = (reference_relaxations(data, 0, side) for side in (True, False, None))
    assert {r.first.group for r in held} == {
        f"r{k}" for k in range(10) if is_validation(f"r{k}", data)
    }
    assert len(held) + len(used) == len(both) == 10
    assert all((len(r.images), r.first.image, r.last.image) == (3, 0, 2) for r in both)


# what is refused


def test_data_without_labels_are_refused_with_the_keys(tmp_path, frames):
    path = write_data(tmp_path / "d.extxyz", [f.copy() for f in frames])
    with pytest.raises(
        InputError,
        match=(
            r"none of the 30 structures in .*d.extxyz .* neither REF_energy .* REF_forces .*calc"
        ),
    ):
        prepared(tmp_path, path)
    assert not (tmp_path / "data").exists()
    with pytest.raises(InputError, match="neither REF_energy"):
        samples_of_file(path)


def test_energies_without_forces_are_no_labels(tmp_path, frames):
    bare = [f.copy() for f in frames]
    for copy, frame in zip(bare, frames, strict=True):
        copy.info["REF_energy"] = frame.calc.results["energy"]
    with pytest.raises(InputError, match="none of the 30 structures"):
        prepared(tmp_path, write_data(tmp_path / "d.extxyz", bare))


def test_a_second_source_without_labels_leaves_no_store(tmp_path, frames):
    path = write_data(tmp_path / "d.extxyz", frames)
    bare = write_data(tmp_path / "bare.extxyz", [f.copy() for f in frames])
    values = recipe_values(path)
    values["data"]["sources"].append({"path": str(bare)})
    with pytest.raises(InputError, match=r"bare.extxyz: |bare.extxyz has"):
        prepare_store(Recipe.parse(values, "test"), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def zeroed(frames):
    copies = under_ref_keys(frames)
    for copy in copies:
        copy.arrays["REF_forces"][copy.constraints[0].index] = 0.0
    return copies


def test_forces_that_a_reader_zeroed_are_refused(tmp_path, frames):
    path = write_data(tmp_path / "d.extxyz", zeroed(frames))
    with pytest.raises(
        InputError, match=r"forces on fixed atoms are exactly zero.*apply_constraint=False"
    ):
        prepared(tmp_path, path)
    with pytest.raises(InputError, match="exactly zero"):
        samples_of_file(path)
    assert not (tmp_path / "data").exists()


def test_zeroed_forces_are_allowed_where_fixed_atoms_are_left_out_and_only_there(tmp_path, frames):
    path = write_data(tmp_path / "d.extxyz", zeroed(frames))
    assert len(prepared(tmp_path, path, training={"fixed_force_weight": 0.0})) == 30
    with pytest.raises(InputError, match="exactly zero"):
        prepared(tmp_path, path)


def test_traj_keeps_the_forces_of_fixed_atoms(tmp_path):
    frame = relaxation("a", n_frames=1)[0]
    # what ASE says unless told otherwise
    assert not frame.get_forces()[frame.constraints[0].index].any()
    path = write_data(tmp_path / "d.traj", [frame])
    assert samples_of_file(path)[0].forces[frame.constraints[0].index].any()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda f: f.positions.__setitem__((0, 0), np.nan),
            "structure 4 of .*: a position or the cell is NaN or infinite",
        ),
        (
            lambda f: f.set_cell(np.zeros((3, 3))),
            "structure 4 of .*: pbc is on along a lattice vector of zero",
        ),
        (
            lambda f: f.info.__setitem__("REF_energy", np.inf),
            "structure 4 of .*: NaN or infinity in the energy under REF_energy",
        ),
        (
            lambda f: f.arrays["REF_forces"].__setitem__((0, 0), np.nan),
            "structure 4 of .*: NaN or infinity in the forces under REF_forces",
        ),
    ],
)
def test_a_spoilt_frame_is_named_by_file_and_place(tmp_path, spoil, sentence):
    frames = under_ref_keys(relaxations(4))
    spoil(frames[4])
    path = write_data(tmp_path / "d.extxyz", frames)
    with pytest.raises(InputError, match=sentence):
        prepared(tmp_path, path)
    assert not list(tmp_path.glob("data/*"))


def test_a_constraint_that_cannot_be_held_is_refused(tmp_path):
    frame = relaxation("a", n_frames=1)[0]
    frame.set_constraint(FixBondLength(0, 1))
    path = write_data(tmp_path / "d.traj", [frame])
    with pytest.raises(InputError, match=r"structure 0 of .*FixBondLength"):
        prepared(tmp_path, path)


def test_a_missing_file_is_looked_for_in_geocalc_data_too(tmp_path, frames, monkeypatch):
    recipe = recipe_of(Path("sets/d.extxyz"))
    monkeypatch.delenv("GEOCALC_DATA", raising=False)
    with pytest.raises(InputError, match=r"sets/d.extxyz was not found, and GEOCALC_DATA"):
        prepare_store(recipe, tmp_path / "data")
    monkeypatch.setenv("GEOCALC_DATA", str(tmp_path))
    with pytest.raises(InputError, match="nor under GEOCALC_DATA="):
        prepare_store(recipe, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    (tmp_path / "sets").mkdir()
    write_data(tmp_path / "sets" / "d.extxyz", frames)
    assert len(read_store(prepare_store(recipe, tmp_path / "data"))) == 30


def test_an_unreadable_file_is_one_sentence(tmp_path, frames):
    path = write_data(tmp_path / "d.extxyz", frames)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"cannot read .*d.extxyz: the file ends inside frame 29"):
        prepared(tmp_path, path)
    assert not list(tmp_path.glob("data/*"))


# the store


def test_a_store_is_made_once_and_again_when_its_files_change(tmp_path, frames):
    path = write_data(tmp_path / "d.extxyz", frames)
    recipe = recipe_of(path)
    store = prepare_store(recipe, tmp_path / "data")
    stamp = store.stat().st_mtime_ns
    assert prepare_store(recipe, tmp_path / "data") == store
    assert store.stat().st_mtime_ns == stamp
    write_data(path, frames[:15])
    assert len(read_store(prepare_store(recipe, tmp_path / "data"))) == 15


@pytest.mark.parametrize("rest", ["no info", "empty file", "garbage"])
def test_a_store_that_is_not_whole_is_made_again(tmp_path, frames, rest):
    recipe = recipe_of(write_data(tmp_path / "d.extxyz", frames))
    store = prepare_store(recipe, tmp_path / "data")
    if rest == "no info":
        with lmdb.open(str(store), subdir=False) as env, env.begin(write=True) as transaction:
            transaction.delete(b"meta")
    else:
        store.write_bytes(b"" if rest == "empty file" else b"garbage" * 1000)
    assert read_info(store) is None
    assert len(read_store(prepare_store(recipe, tmp_path / "data"))) == 30


def test_a_store_of_another_schema_is_refused(tmp_path, frames):
    recipe = recipe_of(write_data(tmp_path / "d.extxyz", frames))
    store = prepare_store(recipe, tmp_path / "data")
    with lmdb.open(str(store), subdir=False) as env, env.begin(write=True) as transaction:
        text = transaction.get(b"meta").replace(f'"schema": {SCHEMA}'.encode(), b'"schema": 99')
        transaction.put(b"meta", text)
    with pytest.raises(InputError, match="has data schema 99"):
        prepare_store(recipe, tmp_path / "data")


def test_a_failure_while_writing_leaves_nothing(tmp_path, frames):
    samples = prepared(tmp_path, write_data(tmp_path / "d.extxyz", frames))

    def failing():
        yield from samples[:5]
        raise InputError("the sixth is bad")

    with pytest.raises(InputError, match="sixth"):
        write_store(tmp_path / "made" / "d.lmdb", failing(), "key", {})
    assert list((tmp_path / "made").iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, frames):
    recipe = recipe_of(write_data(tmp_path / "d.extxyz", frames))
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(RunFolderError, match="cannot write"):
        prepare_store(recipe, tmp_path / "data")


def test_samples_come_back_bit_for_bit(tmp_path, frames):
    samples = prepared(tmp_path, write_data(tmp_path / "d.traj", frames))
    for sample, frame in zip(samples, frames, strict=True):
        assert np.array_equal(sample.positions, frame.positions)
        assert np.array_equal(sample.cell, np.array(frame.cell))
        assert sample.pbc.tolist() == frame.pbc.tolist()
        assert sample.numbers.dtype == sample.tags.dtype == np.int64
        assert np.array_equal(sample.forces, frame.calc.results["forces"])


def test_a_file_for_evaluation_keeps_its_own_energies(tmp_path):
    frame = relaxation("a", n_frames=1)[0]
    frame.set_constraint(FixAtoms([0]))
    frame.calc = SinglePointCalculator(frame, energy=-7.0, forces=np.full((len(frame), 3), 0.5))
    sample = samples_of_file(write_data(tmp_path / "d.traj", [frame]))[0]
    assert sample.energy == -7.0
    assert sample.fixed.all(1).tolist() == [True, *[False] * (len(frame) - 1)]


@pytest.mark.data
@pytest.mark.skipif(
    DATA is None, reason="GEOCALC_DATA, the folder of published data sets, is not set"
)
def test_a_published_relaxation_ends_at_its_adsorption_energy():
    source = read_recipe(SHIPPED).data.sources[0]
    some = list(itertools.islice(read_relaxations(source, None, Counter()), 60))
    ended = [frames[-1] for _, frames in some if frames]
    assert len(ended) > 40
    np.testing.assert_allclose(
        [f.energy for f in ended], [f.atoms.info["e_ads"] for f in ended], atol=1e-6
    )
    assert {tag for f in ended for tag in f.tags.tolist()} == {0, 1, 2}
    assert all(f.forces[f.fixed].any() for f in ended)
