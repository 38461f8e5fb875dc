from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, Hookean
from ase.io import read, write
from helpers.emt import FaultyEmt, refuse
from helpers.structures import adslab, rattled

from geocalc.core.choice import Choice
from geocalc.core.systems import Prediction, Systems
from geocalc.errors import InputError, ModelFileError, NonFiniteError, RecipeError
from geocalc.potentials.ase import AsePotential
from geocalc.runs.folder import RunFolderError
from geocalc.runs.forms import Input, inputs_of
from geocalc.runs.records import Record, exit_status
from geocalc.runs.roles import NamedPotential
from geocalc.runs.runner import open_run_folder, run_relaxation
from geocalc.runs.settings import RelaxSettings
from geocalc.structures.convert import fixed_mask
from geocalc.structures.readers import read_structures

SETTINGS = RelaxSettings(model="emt", steps=200, traj="none", dtype="float64")


@dataclass
class Counted:
    """EMT that counts its calls and fails on request."""

    calls: int = 0
    fail_on: dict[int, Exception] = field(default_factory=dict)  # by number of atoms
    emt: AsePotential = field(default_factory=lambda: AsePotential(calculator=EMT()))

    def __call__(self, systems: Systems) -> Prediction:
        self.calls += 1
        if systems.n_atoms in self.fail_on:
            raise self.fail_on[systems.n_atoms]
        return self.emt(systems)


def named(potential=None) -> NamedPotential:
    return NamedPotential(
        potential=potential or Counted(), name="emt", hash="emt-1", energy_kind="total"
    )


def jobs(n: int = 6) -> list[Input]:
    """Small slabs and a molecule; the labels and calculators they come with belong to other
    geometries.
    """
    result = []
    for k in range(n - 1):
        atoms = rattled(adslab("CO" if k % 2 else "O", size=(2, 2, 2)), seed=k)
        atoms.set_constraint(FixAtoms(range(4)))
        atoms.info |= {"sid": f"slab-{k}", "REF_energy": -1.0, "origin": "made"}
        atoms.set_array("REF_forces", np.zeros((len(atoms), 3)))
        result.append(Input(sid=f"slab-{k}", atoms=atoms))
    return [*result, Input(sid="water.xyz#0", atoms=rattled(molecule("H2O")))]


def run(
    path: Path, given: Iterable[Input], model=None, settings: RelaxSettings = SETTINGS, **options
) -> list[Record]:
    model = model or named()
    return list(
        run_relaxation(given, model, settings, open_run_folder(path, model, settings, **options))
    )


def timeless(records: Iterable[Record]) -> list[Record]:
    return [replace(record, wall_s=0.0) for record in records]


def stored(path: Path) -> list[Record]:
    return [Record.from_json(line) for line in (path / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """An uninterrupted run of `jobs()`."""
    path = tmp_path_factory.mktemp("whole")
    return path, run(path, jobs())


def test_a_whole_run(tmp_path: Path) -> None:
    given = jobs()
    calls: list[tuple[str, int, float]] = []
    model = named()
    folder = open_run_folder(tmp_path, model, SETTINGS, inputs=["a.traj"])
    records = list(run_relaxation(given, model, SETTINGS, folder, lambda *call: calls.append(call)))
    assert [record.sid for record in records] == [job.sid for job in given]
    assert stored(tmp_path) == records
    assert exit_status(records) == 0
    assert model.potential.calls == sum(record.n_evaluations for record in records) == len(calls)
    assert calls[0][:2] == ("slab-0", 0)
    first = records[0]
    assert (first.formula, first.n_atoms, first.model, first.model_hash) == (
        "Cu8O",
        9,
        "emt",
        "emt-1",
    )
    assert (first.status, first.converged, first.error, first.energy_kind) == (
        "CONVERGED",
        True,
        None,
        "total",
    )
    assert first.fmax is not None
    assert first.fmax < 0.05
    assert first.n_evaluations == first.n_steps + 1
    assert first.energy_std is None
    settings = yaml.safe_load((tmp_path / "settings.yaml").read_text())
    assert settings["resolved"]["fmax"] == 0.05
    assert settings["provenance"]["inputs"] == ["a.traj"]
    assert settings["provenance"]["versions"]["torch"] == torch.__version__


def test_relaxed_structures_in_the_file(whole: tuple[Path, list[Record]]) -> None:
    given, (path, records) = jobs(), whole
    frames = read(path / "relaxed.extxyz", index=":")
    assert [atoms.info["sid"] for atoms in frames] == [job.sid for job in given]
    for job, record, atoms in zip(given, records, frames, strict=True):
        start = job.atoms
        assert atoms.calc is None
        assert atoms.info["geocalc_energy"] == record.energy
        assert atoms.info["geocalc_converged"]
        assert not [name for name in (*atoms.info, *atoms.arrays) if name.startswith("REF_")]
        again = atoms.copy()
        again.calc = EMT()
        assert again.get_potential_energy() == pytest.approx(record.energy, abs=1e-10)
        assert again.get_forces(apply_constraint=False) == pytest.approx(
            atoms.arrays["geocalc_forces"], abs=1e-10
        )
        held = fixed_mask(start)
        assert np.array_equal(atoms.positions[held], start.positions[held])
        assert np.array_equal(fixed_mask(atoms), held)
    assert frames[0].info["origin"] == "made"
    assert np.array_equal(frames[0].get_tags(), given[0].atoms.get_tags())


def test_a_bad_structure_keeps_its_record_and_the_run_goes_on(tmp_path: Path) -> None:
    bad = adslab("O")
    bad.set_constraint(Hookean(0, 1, 1.0, rt=1.2))
    foreign = Atoms("Xe2", positions=[[0, 0, 0], [0, 0, 4.4]])
    given = [
        Input(sid="lost.cif", error="lost.cif cannot be read: it is empty"),
        Input(sid="spring", atoms=bad),
        Input(sid="xenon", atoms=foreign),
        Input(sid="one", atoms=Atoms("H", positions=[[0, 0, 0]])),
        Input(sid="four", atoms=molecule("NH3")),
        Input(sid="five", atoms=molecule("CH4")),
        *jobs(3),
    ]
    failing = {
        1: NonFiniteError("energy is NaN"),
        4: RuntimeError("out\nof memory"),
        5: ZeroDivisionError("division by zero"),
    }
    records = run(tmp_path, given, named(Counted(fail_on=failing)))
    errors = [record.error for record in records]
    assert errors[0] == "lost.cif cannot be read: it is empty"
    assert "Hookean" in errors[1]
    assert errors[2].startswith("NotImplementedError")
    assert errors[3:6] == [
        "energy is NaN",
        "RuntimeError: out of memory",
        "ZeroDivisionError: division by zero",
    ]
    assert errors[6:] == [None] * 3
    assert {record.status for record in records[:6]} == {"ERROR"}
    assert (records[0].formula, records[1].formula, records[2].n_atoms) == (None, "Cu12O", 2)
    assert all(record.energy is None and not record.converged for record in records[:6])
    assert exit_status(records) == 3
    assert len(read(tmp_path / "relaxed.extxyz", index=":")) == 3
    assert stored(tmp_path) == records


def test_a_model_that_gives_nan_is_told_without_nan(tmp_path: Path) -> None:
    def broken(systems: Systems) -> Prediction:
        return Prediction(
            energy=torch.full((1,), torch.nan), forces=torch.zeros_like(systems.positions)
        )

    records = run(tmp_path, jobs(2), named(broken))
    assert [(record.status, record.energy, record.fmax) for record in records] == [
        ("NON_FINITE", None, None)
    ] * 2
    assert exit_status(records) == 3
    assert "NaN" not in (tmp_path / "results.jsonl").read_text()
    assert "geocalc_energy=" not in (tmp_path / "relaxed.extxyz").read_text()


def test_an_error_in_the_middle_of_a_path_tells_how_far_it_came(tmp_path: Path) -> None:
    emt = Counted()

    def tiring(systems: Systems) -> Prediction:
        if emt.calls == 3:
            raise NonFiniteError("tired")
        return emt(systems)

    record = run(tmp_path, jobs(2)[:1], named(tiring))[0]
    assert (record.error, record.n_steps, record.n_evaluations) == ("tired", 2, 3)


def test_unconverged_runs_say_so(tmp_path: Path) -> None:
    records = run(tmp_path, jobs(2), settings=SETTINGS.model_copy(update={"steps": 1}))
    assert {record.status for record in records} == {"MAX_STEPS"}
    assert exit_status(records) == 3


@pytest.mark.parametrize(
    ("traj", "kept"), [("ends", [0]), ("every:4", [0, 4, 8]), ("full", list(range(200)))]
)
def test_trajectories(tmp_path: Path, traj: str, kept: list[int]) -> None:
    records = run(tmp_path, jobs(2), settings=SETTINGS.model_copy(update={"traj": traj}))
    files = sorted((tmp_path / "trajectory").iterdir())
    assert [file.name.split("-")[0] for file in files] == ["slab", "water.xyz_0"]
    frames = read(files[0], index=":")
    steps = [atoms.info["geocalc_step"] for atoms in frames]
    last = records[0].n_steps
    assert steps == sorted({*(step for step in kept if step <= last), last})
    assert np.array_equal(frames[0].positions, jobs(2)[0].atoms.positions)
    final = read(tmp_path / "relaxed.extxyz", index=0)
    assert np.array_equal(frames[-1].positions, final.positions)
    assert frames[-1].info["geocalc_energy"] == records[0].energy


def test_no_trajectory_when_none_is_asked_for(tmp_path: Path) -> None:
    run(tmp_path, jobs(2))
    assert not (tmp_path / "trajectory").exists()


def test_files_become_jobs(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [molecule("H2O"), molecule("NH3")])
    (tmp_path / "b.extxyz").write_text("2\nbroken\n")
    found = list(
        inputs_of(read_structures([tmp_path / "a.extxyz", tmp_path / "b.extxyz"], tolerant=True))
    )
    assert [len(job.atoms) if job.atoms else None for job in found] == [3, 4, None]
    assert found[2].error
    records = run(tmp_path / "run", found)
    assert [record.status for record in records] == ["CONVERGED", "CONVERGED", "ERROR"]
    assert [record.sid for record in records] == [job.sid for job in found]


def test_equal_structures_each_get_a_record(tmp_path: Path) -> None:
    job = jobs(2)[0]
    model = named()
    records = run(tmp_path, [job] * 3, model)
    assert len(records) == len(stored(tmp_path)) == 3
    assert len(read(tmp_path / "relaxed.extxyz", index=":")) == 3
    calls = model.potential.calls
    assert run(tmp_path, [job] * 3, model, resume=True) == records
    assert model.potential.calls == calls


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 2, 5])
def test_an_interrupted_run_resumes_to_the_same_files(
    tmp_path: Path, whole: tuple[Path, list[Record]], stop_after: int
) -> None:
    first = named()
    running = run_relaxation(
        jobs(), first, SETTINGS, open_run_folder(tmp_path / "cut", first, SETTINGS)
    )
    before = [next(running) for _ in range(stop_after)]
    running.close()
    assert not (tmp_path / "cut" / "relaxed.extxyz").exists()
    second = named()
    resumed = run(tmp_path / "cut", jobs(), second, resume=True)
    assert resumed[:stop_after] == before  # the wall time too: nothing was computed again
    assert second.potential.calls == sum(record.n_evaluations for record in resumed[stop_after:])
    assert timeless(resumed) == timeless(whole[1])
    assert stored(tmp_path / "cut") == resumed
    assert (tmp_path / "cut" / "relaxed.extxyz").read_bytes() == (
        whole[0] / "relaxed.extxyz"
    ).read_bytes()


@pytest.mark.slow
def test_resume_computes_what_changed_and_what_is_new(tmp_path: Path) -> None:
    given = jobs(3)
    records = run(tmp_path, given)
    moved = rattled(given[1].atoms, seed=50)
    model = named()
    again = run(tmp_path, [given[2], replace(given[1], atoms=moved), given[0]], model, resume=True)
    assert (again[0], again[2]) == (records[2], records[0])
    assert model.potential.calls == again[1].n_evaluations
    assert stored(tmp_path) == [*records, again[1]]
    order = [atoms.info["geocalc_energy"] for atoms in read(tmp_path / "relaxed.extxyz", index=":")]
    assert order == [records[2].energy, again[1].energy, records[0].energy, records[1].energy]


def test_other_settings_are_refused_but_another_device_is_not(tmp_path: Path) -> None:
    run(tmp_path, jobs(2))
    with pytest.raises(RunFolderError, match=r"fmax was 0\.05, is 0\.01"):
        run(tmp_path, jobs(2), settings=SETTINGS.model_copy(update={"fmax": 0.01}), resume=True)
    with pytest.raises(RunFolderError, match="model_hash was 'emt-1', is 'emt-2'"):
        run(tmp_path, jobs(2), replace(named(), hash="emt-2"), resume=True)
    other = SETTINGS.model_copy(update={"device": "cuda", "traj": "full"})
    assert (
        len(run(tmp_path, jobs(2), replace(named(), device="elsewhere"), other, resume=True)) == 2
    )


KILLED = """
import sys
from dataclasses import replace
from helpers.emt import FaultyEmt
from runs.test_runner import SETTINGS, in_workers, jobs
from geocalc.runs.runner import open_run_folder, run_relaxation
model = replace(in_workers(pause=0.02), potential=FaultyEmt(pause=0.02))
settings = SETTINGS.model_copy(update={"workers": int(sys.argv[2])})
for record in run_relaxation(jobs(), model, settings, open_run_folder(sys.argv[1], model, settings)):
    print(record.sid, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "delay"), [(1, 0.1), (2, 0.02)])
def test_kill_9_loses_repeats_and_changes_nothing(
    tmp_path: Path, whole: tuple[Path, list[Record]], workers: int, delay: float
) -> None:
    path = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(path), str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        told = [process.stdout.readline().strip() for _ in range(2)]
        time.sleep(delay)  # somewhere inside the third
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = stored(path)
    assert [record.sid for record in kept][:2] == told
    model = named()
    resumed = run(path, jobs(), model, resume=True)
    assert stored(path)[: len(kept)] == kept
    assert {record.sid: record for record in stored(path)} == {
        record.sid: record for record in resumed
    }
    assert len(stored(path)) == len(resumed) == len({record.sid for record in resumed}) == 6
    assert model.potential.calls == sum(
        record.n_evaluations for record in stored(path)[len(kept) :]
    )
    assert timeless(resumed) == timeless(whole[1])
    assert (path / "relaxed.extxyz").read_bytes() == (whole[0] / "relaxed.extxyz").read_bytes()


def test_tags_mean_nothing_to_a_model_that_does_not_read_them(tmp_path: Path) -> None:
    atoms = jobs(2)[0].atoms
    atoms.set_tags(np.arange(len(atoms)) % 7)
    records = run(tmp_path, [Input(sid="odd", atoms=atoms)], replace(named(), reads_tags=False))
    assert records[0].converged
    assert np.array_equal(read(tmp_path / "relaxed.extxyz").get_tags(), atoms.get_tags())
    refused = run(tmp_path / "read", [Input(sid="odd", atoms=atoms)])
    assert "tags" in refused[0].error


def test_settings_are_checked() -> None:
    assert RelaxSettings() == RelaxSettings.parse({}, "defaults")
    assert (RelaxSettings().fmax, RelaxSettings().steps, RelaxSettings().traj) == (
        0.05,
        300,
        "ends",
    )
    with pytest.raises(RecipeError, match="unknown key `fmaks`; did you mean `fmax`"):
        RelaxSettings.parse({"fmaks": 0.1}, "run.yaml")
    for wrong in (
        {"fmax": 0},
        {"fmax": float("nan")},
        {"steps": -1},
        {"traj": "every:0"},
        {"traj": "some"},
        {"dtype": "bf16"},
    ):
        with pytest.raises(RecipeError, match=f"`{next(iter(wrong))}`"):
            RelaxSettings.parse(wrong, "run.yaml")


def test_an_unknown_optimizer_stops_before_anything_is_computed(tmp_path: Path) -> None:
    model = named()
    with pytest.raises(InputError, match="did you mean `bfgs`"):
        run(
            tmp_path, jobs(2), model, SETTINGS.model_copy(update={"optimizer": Choice(name="bgfs")})
        )
    assert model.potential.calls == 0


def in_workers(**faults) -> NamedPotential:
    """EMT that worker processes can open."""
    return replace(named(), opener=partial(FaultyEmt, **faults))


def many(n: int) -> RelaxSettings:
    return SETTINGS.model_copy(update={"workers": n, "traj": "ends"})


def by_sid(records: Iterable[Record]) -> dict[str, Record]:
    return {record.sid: record for record in timeless(records)}


@pytest.mark.slow
def test_results_do_not_depend_on_workers_or_order(
    tmp_path: Path, whole: tuple[Path, list[Record]]
) -> None:
    """Three processes that take the input backwards, against one that takes it forwards: the same
    to the last bit.
    """
    model = in_workers()
    folder = open_run_folder(tmp_path, model, many(3))
    records = list(run_relaxation(reversed(jobs()), model, many(3), folder))
    assert model.potential.calls == 0
    assert by_sid(records) == by_sid(whole[1])
    assert list(folder.records()) == sorted(
        records, key=lambda record: [job.sid for job in reversed(jobs())].index(record.sid)
    )
    assert stored(tmp_path) == records
    assert all(record.wall_s > 0 for record in records)
    ours, theirs = read(tmp_path / "relaxed.extxyz", ":"), read(whole[0] / "relaxed.extxyz", ":")
    assert [atoms.info["sid"] for atoms in ours] == [job.sid for job in reversed(jobs())]
    assert all(
        np.array_equal(a.positions, b.positions)
        for a, b in zip(reversed(ours), theirs, strict=True)
    )
    assert len(list((tmp_path / "trajectory").iterdir())) == 6
    again = timeless(run(tmp_path, jobs(), settings=many(1), resume=True))
    assert again == timeless(whole[1])
    assert (tmp_path / "relaxed.extxyz").read_bytes() == (whole[0] / "relaxed.extxyz").read_bytes()


@pytest.mark.slow
def test_a_structure_that_kills_its_worker_twice_has_an_error_and_the_others_do_not(
    tmp_path: Path, whole: tuple[Path, list[Record]]
) -> None:
    taken: list[str] = []
    given = [jobs()[5], *jobs()[:3]]  # the molecule first

    def stream() -> Iterable[Input]:
        for job in given:
            taken.append(job.sid)
            yield job

    model = in_workers(deadly=3)
    records = by_sid(run(tmp_path, stream(), model, many(2)))
    lost = records.pop("water.xyz#0")
    assert lost.status == "ERROR"
    assert lost.error.startswith(
        "the process that relaxed this structure was ended by SIGKILL (out of memory?), twice;"
    )
    assert records == {sid: one for sid, one in by_sid(whole[1]).items() if sid in records}
    assert len(records) == 3
    assert taken == [job.sid for job in given]
    again = named()
    # the structure that was lost is tried again, and only that
    resumed = by_sid(run(tmp_path, given, again, resume=True))
    assert again.potential.calls == resumed["water.xyz#0"].n_evaluations > 0
    assert resumed == {sid: one for sid, one in by_sid(whole[1]).items() if sid in resumed}
    assert by_sid(stored(tmp_path)) == resumed
    assert len(stored(tmp_path)) == len(read(tmp_path / "relaxed.extxyz", ":")) == 4


@pytest.mark.slow
def test_a_model_that_workers_cannot_open_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="changed while it was in use"):
        run(tmp_path, jobs(), replace(named(), opener=refuse), many(2))
    with pytest.raises(InputError, match="emt cannot be opened in other processes; use one worker"):
        run(tmp_path, jobs(), named(), many(2))
    with pytest.raises(InputError, match="a GPU is used by one process; use workers=1"):
        run(tmp_path, jobs(), replace(named(), device="cuda"), many(2))


def test_one_structure_needs_no_worker(tmp_path: Path) -> None:
    model = in_workers()
    run(tmp_path, jobs()[:1], model, many(2))
    assert model.potential.calls > 0


def test_quick_single_points_begin_without_workers(tmp_path: Path) -> None:
    model = in_workers()
    records = run(tmp_path, jobs()[:2], model, many(2).model_copy(update={"steps": 0}))
    assert [record.status for record in records] == ["SINGLE_POINT"] * 2
    assert model.potential.calls > 0


def test_batches_write_the_same_folder(tmp_path: Path, whole: tuple[Path, list[Record]]) -> None:
    model = named()
    records = run(tmp_path, jobs(), model, SETTINGS.model_copy(update={"batch_edges": 1500}))
    assert by_sid(records) == by_sid(whole[1])
    assert model.potential.calls < sum(record.n_evaluations for record in records)
    assert (tmp_path / "relaxed.extxyz").read_bytes() == (whole[0] / "relaxed.extxyz").read_bytes()


def test_a_disk_that_fills_up_stops_the_run_and_it_can_be_resumed(
    tmp_path: Path, whole: tuple[Path, list[Record]]
) -> None:
    model = named()
    path = tmp_path / "run"
    running = run_relaxation(jobs(), model, SETTINGS, open_run_folder(path, model, SETTINGS))
    kept = [next(running) for _ in range(2)]
    (path / "journal.jsonl").rename(tmp_path / "aside")
    (path / "journal.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        RunFolderError,
        match=r"the disk is full: .*; 2 finished structures remain saved; free some space and resume",
    ):
        next(running)
    (path / "journal.jsonl").unlink()
    (tmp_path / "aside").rename(path / "journal.jsonl")
    resumed = run(path, jobs(), model, resume=True)
    assert resumed[:2] == kept
    assert timeless(resumed) == timeless(whole[1])


def test_sources_are_taken_one_at_a_time(tmp_path: Path) -> None:
    taken: list[str] = []

    def stream() -> Iterable[Input]:
        for job in jobs(3):
            taken.append(job.sid)
            yield job

    model = named()
    running = run_relaxation(stream(), model, SETTINGS, open_run_folder(tmp_path, model, SETTINGS))
    next(running)
    assert taken == ["slab-0"]
    assert json.loads((tmp_path / "results.jsonl").read_text())["sid"] == "slab-0"
    running.close()
