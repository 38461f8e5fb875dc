"""Second opinions: a direct model beside a relaxation, in the same record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.io import read, write
from click.testing import CliRunner, Result
from helpers.models import write_model
from helpers.structures import adslab, rattled

import geocalc
from geocalc.cli.main import main
from geocalc.core.systems import Prediction, Systems
from geocalc.errors import EnergyKindError, InputError
from geocalc.potentials.cached import DirectModel
from geocalc.potentials.load import load_model
from geocalc.potentials.network import NetworkPotential
from geocalc.runs.forms import Input
from geocalc.runs.records import Record
from geocalc.runs.roles import relaxing_model
from geocalc.runs.runner import relax_inputs
from geocalc.runs.settings import RelaxSettings

BARS = {"n": 40, "floor": 1.0, "factor_68": 0.1, "factor_95": 0.4}
DIRECT = {
    "task": "is2re",
    "force_mode": "none",
    "calibration": BARS,
    "drop_subsurface": True,
    "frames": "averaged",
}
QUICK = {"steps": 2, "fmax": 1e-9, "dtype": "float64", "frames": "single"}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, and no models but those of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


@pytest.fixture
def potential(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "models", "forces", card={"reads_tags": False}))


@pytest.fixture
def direct(tmp_path: Path) -> str:
    return write_direct(tmp_path)


def write_direct(folder: Path, name: str = "direct", **card: object) -> str:
    return str(
        write_model(
            folder / "models", name, seed=3, card=DIRECT | card, settings={"direct_forces": True}
        )
    )


def slabs(n: int = 3) -> list[Atoms]:
    made = [rattled(adslab("O", size=(2, 2, 2)), seed=k) for k in range(n)]
    for k, atoms in enumerate(made):
        atoms.info = {"sid": f"s{k}"}
    return made


def without_times(records: list[Record]) -> list[Record]:
    return [replace(record, wall_s=0.0) for record in records]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def records(folder: str) -> list[Record]:
    return [
        Record.from_json(line) for line in Path(folder, "results.jsonl").read_text().splitlines()
    ]


def test_the_record_holds_what_predict_says_of_the_start(potential: str, direct: str) -> None:
    starts = slabs()
    results = geocalc.relax(starts, potential, **QUICK, second_opinion=direct)
    alone = geocalc.predict(starts, direct)
    plain = geocalc.relax(starts, potential, **QUICK)
    for result, told, other in zip(results, alone, plain, strict=True):
        opinion = result.record.second_opinion
        assert opinion.energy == told.record.energy
        assert (
            opinion.energy_error_68
            == told.record.energy_error_68
            == pytest.approx(0.1 * (1 + told.record.energy_std))
        )
        assert opinion.energy_error_95 == told.record.energy_error_95
        assert opinion.difference == opinion.energy - result.record.energy
        assert (opinion.model, opinion.model_hash, opinion.note) == (
            "direct",
            told.record.model_hash,
            None,
        )
        assert other.record.second_opinion is None
        assert without_times([replace(result.record, second_opinion=None)]) == without_times(
            [other.record]
        )


@pytest.mark.slow
def test_workers_and_batches_say_the_same(potential: str, direct: str) -> None:
    starts = slabs(4)
    alone, shared = (
        geocalc.relax(
            starts, potential, **QUICK, second_opinion=direct, workers=n, reproducible=True
        )
        for n in (1, 2)
    )
    assert without_times([r.record for r in alone]) == without_times([r.record for r in shared])
    settings = RelaxSettings(
        model=potential, second_opinion=direct, batch_edges=5000, traj="none", workers=1, **QUICK
    )
    model = relaxing_model(load_model(potential, dtype="float64", frames="single"), settings)
    batched = relax_inputs([Input(sid=a.info["sid"], atoms=a) for a in starts], model, settings)
    found = {end.record.sid: end.record.second_opinion.energy for end in batched}
    assert found == {r.record.sid: r.record.second_opinion.energy for r in alone}


@pytest.mark.parametrize("reproducible", [True, False], ids=["alone", "batched"])
def test_a_model_that_is_warm_start_too_is_computed_once(
    potential: str, direct: str, reproducible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    network = NetworkPotential.__call__

    def counted(self: NetworkPotential, systems: Systems) -> Prediction:
        calls.append(self.model.displaces * systems.n_systems)
        return network(self, systems)

    monkeypatch.setattr(NetworkPotential, "__call__", counted)
    settings = RelaxSettings(
        model=potential,
        second_opinion=direct,
        warm_start=direct,
        reproducible=reproducible,
        workers=1,
        traj="none",
        **QUICK,
    )
    model = relaxing_model(load_model(potential, dtype="float64", frames="single"), settings)
    ends = list(
        relax_inputs([Input(sid=a.info["sid"], atoms=a) for a in slabs(3)], model, settings)
    )
    assert all(
        end.record.second_opinion.energy is not None and end.record.error is None for end in ends
    )
    assert sum(calls) == 3


def test_a_structure_that_the_model_cannot_take_is_relaxed_all_the_same(
    potential: str, tmp_path: Path
) -> None:
    picky = write_direct(tmp_path, "picky", elements=("O", "Pt"))
    (result,) = geocalc.relax(slabs(1), potential, **QUICK, second_opinion=picky)
    opinion = result.record.second_opinion
    assert result.record.energy is not None
    assert (opinion.energy, opinion.energy_error_68, opinion.difference) == (None, None, None)
    assert "Cu" in opinion.note


def test_tags_that_only_the_second_model_reads_are_no_error(potential: str, direct: str) -> None:
    odd = slabs(1)[0]
    odd.set_tags([3, 1] * (len(odd) // 2) + [2] * (len(odd) % 2))
    (result,) = geocalc.relax(odd, potential, **QUICK, second_opinion=direct)
    assert result.record.error is None
    assert "tags" in result.record.second_opinion.note
    assert result.record.second_opinion.energy is None


def test_an_opinion_is_kept_where_the_relaxation_fails(tmp_path: Path, direct: str) -> None:
    narrow = str(write_model(tmp_path / "models", "narrow", card={"elements": ("O", "Pt")}))
    (result,) = geocalc.relax(slabs(1), narrow, **QUICK, second_opinion=direct)
    assert result.record.error is not None
    assert result.record.second_opinion.energy is not None
    assert result.record.second_opinion.difference is None


def test_energies_of_other_zeros_are_not_subtracted(potential: str, tmp_path: Path) -> None:
    other = write_direct(tmp_path, "other", reference_text="gas molecules", level_of_theory="PBE")
    (result,) = geocalc.relax(slabs(1), potential, **QUICK, second_opinion=other)
    opinion = result.record.second_opinion
    assert opinion.energy is not None
    assert opinion.difference is None
    assert opinion.note == (
        "energies of other and forces cannot be subtracted: they differ in level of theory and"
        " references ('PBE' and 'none: random weights'); use energies of one kind, level of theory"
        " and reference"
    )


def test_what_has_no_second_opinion_is_refused(potential: str, direct: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="forces predicts no relaxed energies, so it has no second opinion"
    ):
        geocalc.relax(slabs(1), potential, second_opinion=potential)
    total = write_direct(tmp_path, "total", energy_kind="total")
    with pytest.raises(
        EnergyKindError, match="total gives total energies and forces adsorption energies"
    ):
        geocalc.relax(slabs(1), potential, second_opinion=total)
    with pytest.raises(InputError, match="nothing is relaxed here"):
        geocalc.relax(slabs(1), potential, steps=0, second_opinion=direct)


def test_a_model_that_changed_is_not_asked(direct: str) -> None:
    systems = geocalc.from_atoms(slabs(1)[0])
    with pytest.raises(geocalc.errors.ModelFileError, match="was changed while it was in use"):
        DirectModel(direct, "0" * 16).predict(systems)


def test_on_the_command_line_and_resumed(potential: str, direct: str) -> None:
    write("in.extxyz", slabs(2))
    words = [
        "relax",
        "in.extxyz",
        "--model",
        potential,
        "--frames",
        "single",
        "--steps",
        2,
        "--workers",
        1,
        "--reproducible",
    ]
    told = invoke(*words, "--second-opinion", direct)
    assert told.exit_code == 3, told.output  # two steps are not enough
    assert "direct" in told.output
    found = records("in-relax")
    assert all(record.second_opinion.energy is not None for record in found)
    assert "second_opinion: direct (" in Path("in-relax/settings.yaml").read_text()
    assert [a.info["geocalc_second_opinion"] for a in read("in-relax/relaxed.extxyz", ":")] == [
        record.second_opinion.energy for record in found
    ]
    assert all(max(map(len, table.splitlines()[:3])) <= 80 for table in [told.output])

    journal = Path("in-relax/journal.jsonl")
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    assert "second_opinion was" in invoke(*words, "--resume").output
    again = invoke(*words, "--second-opinion", direct, "--resume")
    assert again.exit_code == 3, again.output
    assert without_times(records("in-relax")) == without_times(found)


def test_a_line_with_an_opinion_comes_back(potential: str, direct: str) -> None:
    record = geocalc.relax(slabs(1), potential, **QUICK, second_opinion=direct)[0].record
    line = record.to_json()
    assert Record.from_json(line) == record
    assert json.loads(line)["second_opinion"]["energy"] == record.second_opinion.energy
    for wrong in ({"model": "direct"}, 3, "yes"):
        with pytest.raises(InputError, match="not a record"):
            Record.from_json(json.dumps(json.loads(line) | {"second_opinion": wrong}))


def test_answers_do_not_depend_on_the_threads(direct: str) -> None:
    systems = geocalc.from_atoms(slabs(1)[0])
    opened = DirectModel(direct, load_model(direct).hash)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert (
            float(opened.predict(systems).energy[0])
            == geocalc.predict(slabs(1), direct)[0].record.energy
        )
    finally:
        torch.set_num_threads(threads)
