from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from runs.test_records import GOOD

from geocalc.core.files import write_atomically
from geocalc.errors import GeoCalcError, InputError
from geocalc.runs.folder import RunFolder, RunFolderError, content_key, file_name
from geocalc.runs.records import Record

IDENTITY = {"model_hash": "abc", "fmax": 0.05}


def filled(path: Path, n: int = 3) -> RunFolder:
    """A folder with `n` finished structures, ended in reverse order."""
    folder = RunFolder(path, IDENTITY, {"device": "cpu"})
    for k in reversed(range(n)):
        folder.add(f"key{k}", record(k), f"frame {k}\n")
    return folder


def record(k: int) -> Record:
    return Record(**{**vars(GOOD), "sid": f"s#{k}", "energy": 0.1 * k})


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_files_of_a_finished_run(tmp_path: Path) -> None:
    folder = filled(tmp_path / "new" / "run")
    folder.finish([f"key{k}" for k in range(3)])
    assert [Record.from_json(line) for line in lines(folder.path / "results.jsonl")] == [
        record(2),
        record(1),
        record(0),
    ]
    assert (folder.path / "relaxed.extxyz").read_text() == "frame 0\nframe 1\nframe 2\n"
    settings = yaml.safe_load((folder.path / "settings.yaml").read_text())
    assert settings["resolved"] == IDENTITY
    assert settings["provenance"] == {"device": "cpu"}
    assert not list(folder.path.glob("*.part"))


def test_records_are_on_the_disk_at_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY)
    for k in range(3):
        folder.add(f"key{k}", record(k), None)
        assert Record.from_json(lines(tmp_path / "results.jsonl")[-1]) == record(k)
    assert len(folder) == 3
    assert folder.record("key1") == record(1)
    assert folder.record("key9") is None


def test_a_folder_has_one_run_at_a_time_until_it_is_closed(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with pytest.raises(
        RunFolderError, match=r"another run is working in .*; wait for its end and resume"
    ):
        RunFolder(tmp_path, IDENTITY, resume=True)
    folder.close()
    folder.close()
    assert len(RunFolder(tmp_path, IDENTITY, resume=True)) == 3
    assert folder.record("key1") == record(1)


def test_records_come_in_the_order_of_the_input_at_the_end(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    assert list(folder.records()) == []
    folder.finish(["key2", "key0", "key7"])
    assert list(folder.records()) == [record(2), record(0)]


def test_nothing_is_added_twice(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with pytest.raises(InputError, match="finished already"):
        folder.add("key1", record(1), None)


def test_what_is_not_final_counts_until_the_run_is_resumed(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    folder.add("lost", record(7), None, final=False)
    folder.finish(["key0", "lost"])
    assert list(folder.records()) == [record(0), record(7)]
    for final in (False, True):
        folder.close()
        folder = RunFolder(tmp_path, IDENTITY, resume=True)
        assert ("lost" in folder, len(folder), len(lines(tmp_path / "results.jsonl"))) == (
            False,
            3,
            3,
        )
        folder.add("lost", record(8), "frame 8\n", final=final)
    folder.close()
    again = RunFolder(tmp_path, IDENTITY, resume=True)
    assert again.record("lost") == record(8)
    assert len(lines(tmp_path / "results.jsonl")) == len(again) == 4


def test_results_are_never_overwritten_unasked(tmp_path: Path) -> None:
    filled(tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="holds results already; resume"):
        RunFolder(tmp_path, IDENTITY)
    for resume in (False, True):
        with pytest.raises(RunFolderError, match=r"other settings \(fmax was 0.05, is 0.01\)"):
            RunFolder(tmp_path, {**IDENTITY, "fmax": 0.01}, resume=resume)
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_an_empty_run_may_be_started_again_with_other_settings(tmp_path: Path) -> None:
    RunFolder(tmp_path, IDENTITY)
    RunFolder(tmp_path, {**IDENTITY, "fmax": 0.01})
    assert yaml.safe_load((tmp_path / "settings.yaml").read_text())["resolved"]["fmax"] == 0.01


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError, match=r"not the settings.yaml and journal.jsonl"):
        RunFolder(tmp_path, IDENTITY, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot open"):
        RunFolder(tmp_path / "file", IDENTITY)


@pytest.mark.parametrize("cut", range(1, 400, 23))
def test_a_journal_cut_anywhere_in_its_last_line_loses_that_structure_only(
    tmp_path: Path, cut: int
) -> None:
    folder = filled(tmp_path)
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes()
    last = len(whole) - whole[:-1].rindex(b"\n") - 1
    assert cut < last
    journal.write_bytes(whole[:-cut])
    folder.close()
    again = RunFolder(tmp_path, IDENTITY, resume=True)
    assert [again.record(f"key{k}") for k in range(3)] == [None, record(1), record(2)]
    again.add("key0", record(0), "frame 0\n")
    again.finish(["key0", "key1", "key2"])
    assert journal.read_bytes() == whole
    assert (tmp_path / "relaxed.extxyz").read_text() == "frame 0\nframe 1\nframe 2\n"
    assert len(lines(folder.path / "results.jsonl")) == 3


@pytest.mark.parametrize("cut", [1, 50, 500, 10**6])
def test_results_cut_anywhere_are_restored_from_the_journal(tmp_path: Path, cut: int) -> None:
    filled(tmp_path)
    results = tmp_path / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole[: max(0, len(whole) - cut)])
    RunFolder(tmp_path, IDENTITY, resume=True)
    assert results.read_bytes() == whole


def test_settings_survive_a_resume_unchanged(tmp_path: Path) -> None:
    filled(tmp_path)
    before = (tmp_path / "settings.yaml").read_bytes()
    RunFolder(tmp_path, IDENTITY, {"device": "cuda"}, resume=True)
    assert (tmp_path / "settings.yaml").read_bytes() == before


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = tmp_path / "journal.jsonl"
    first, *rest = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(first[:20] + b"\n" + b"".join(rest))
    with pytest.raises(RunFolderError, match=r"line 1 of .* is damaged"):
        RunFolder(tmp_path, IDENTITY, resume=True)


def test_structures_that_are_no_longer_asked_for_are_kept(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    folder.finish(["key1", "key7"])
    assert (tmp_path / "relaxed.extxyz").read_text() == "frame 1\nframe 2\nframe 0\n"


@pytest.mark.parametrize("name", ["journal.jsonl", "results.jsonl"])
def test_a_full_disk_is_one_sentence_and_keeps_the_rest(tmp_path: Path, name: str) -> None:
    folder = filled(tmp_path)
    kept = (tmp_path / name).read_bytes()
    (tmp_path / name).rename(tmp_path / "aside")
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(
        RunFolderError, match=r"the disk is full: .* finished structures remain saved"
    ) as caught:
        folder.add("key3", record(3), None)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, GeoCalcError)
    assert "\n" not in str(caught.value)
    (tmp_path / name).unlink()
    (tmp_path / "aside").rename(tmp_path / name)
    assert (tmp_path / name).read_bytes() == kept
    folder.close()
    again = RunFolder(tmp_path, IDENTITY, resume=True)
    assert [again.record(f"key{k}") for k in range(3)] == [record(k) for k in range(3)]


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "relaxed.extxyz"
    write_atomically(path, ["old\n"])
    (tmp_path / "relaxed.extxyz.part").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match="the disk is full: cannot write"):
        write_atomically(path, ["new\n"] * 10)
    assert path.read_text() == "old\n"
    with pytest.raises(RunFolderError, match=r"cannot write .*: No such file"):
        write_atomically(tmp_path / "nowhere" / "x", ["new\n"])


def test_trajectories_are_named_after_the_structure(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY)
    folder.write_trajectory("dir/a b.traj#3", "0123456789", ["one\n", "two\n"])
    assert (tmp_path / "trajectory" / "dir_a_b.traj_3-01234567.extxyz").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("sid", "name"), [("../../x", "x"), ("", "structure"), ("α", "structure"), ("a" * 99, "a" * 60)]
)
def test_file_names_are_tame(sid: str, name: str) -> None:
    assert file_name(sid) == name


def test_content_keys_tell_everything_apart() -> None:
    keys = {
        content_key("a", [b"x", b"y"], "1"),
        content_key("a", [b"xy", b""], "1"),
        content_key("a", [b"x", b"y"], "2"),
        content_key("b", [b"x", b"y"], "1"),
    }
    assert len(keys) == 4
    assert content_key("a", [b"x", b"y"], "1") in keys


def test_journal_lines_are_plain_json(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    entry = json.loads(lines(tmp_path / "journal.jsonl")[0])
    assert entry == {"key": "key0", "record": record(0).to_json(), "frame": "frame 0\n"}
