"""Errors of one structure: bad input is one sentence; a fault of the program is logged with its
traceback and named; the other structures go on either way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from geocalc.core.cells import CellCoordinates
from geocalc.core.energies import EnergyBasis, EnergyKind
from geocalc.core.systems import Prediction, Systems
from geocalc.errors import InputError
from geocalc.potentials.ase import AsePotential
from geocalc.potentials.cached import DirectModel
from geocalc.relaxation.cell_filters import CellFilter
from geocalc.runs.forms import Input
from geocalc.runs.records import Record
from geocalc.runs.roles import NamedPotential, SecondModel
from geocalc.runs.runner import open_run_folder, relax_inputs, run_relaxation
from geocalc.runs.settings import RelaxSettings

FAULT = AttributeError("'NoneType' object has no attribute 'shape'")
SENTENCE = (
    "unexpected AttributeError: 'NoneType' object has no attribute 'shape'; the log has the"
    " traceback"
)


@dataclass
class Failing:
    """EMT that fails for methane."""

    error: Exception
    emt: AsePotential = field(default_factory=lambda: AsePotential(calculator=EMT()))

    def __call__(self, systems: Systems) -> Prediction:
        if 5 in systems.counts.tolist():
            raise self.error
        return self.emt(systems)


def potential(error: Exception) -> NamedPotential:
    return NamedPotential(
        potential=Failing(error), name="emt", hash="emt", opener=partial(Failing, error)
    )


def inputs() -> list[Input]:
    return [Input(sid=name, atoms=molecule(name)) for name in ("H2O", "CH4", "NH3", "H2")]


def run(path: Path, error: Exception, **options: object) -> dict[str, Record]:
    settings = RelaxSettings(model="emt", dtype="float64", traj="none", **options)
    model = potential(error)
    folder = open_run_folder(path, model, settings)
    return {record.sid: record for record in run_relaxation(inputs(), model, settings, folder)}


@pytest.mark.parametrize(
    "options", [{"workers": 1}, {"batch_edges": 5000, "workers": 1}], ids=["alone", "batch"]
)
def test_an_unexpected_exception_ends_one_structure_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, int]
) -> None:
    records = run(tmp_path, FAULT, **options)
    assert (records["CH4"].status, records["CH4"].error) == ("ERROR", SENTENCE)
    assert {records[name].status for name in ("H2O", "NH3", "H2")} == {"CONVERGED"}
    (told,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert told.getMessage() == "unexpected error in structure CH4"
    assert told.exc_info is not None
    assert told.exc_info[0] is AttributeError


@pytest.mark.slow
def test_an_unexpected_exception_in_a_worker_ends_one_structure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    records = run(tmp_path, FAULT, workers=2)
    assert records["CH4"].error == SENTENCE
    assert {records[name].status for name in ("H2O", "NH3", "H2")} == {"CONVERGED"}
    assert "Traceback (most recent call last)" in capfd.readouterr().err


@pytest.mark.parametrize(
    "options", [{"workers": 1}, {"batch_edges": 5000, "workers": 1}], ids=["alone", "batch"]
)
def test_bad_input_is_one_sentence_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, int]
) -> None:
    records = run(tmp_path, InputError("methane is not known"), **options)
    assert (records["CH4"].status, records["CH4"].error) == ("ERROR", "methane is not known")
    assert {records[name].status for name in ("H2O", "NH3", "H2")} == {"CONVERGED"}
    assert caplog.records == []


def test_a_fault_while_a_structure_is_converted_ends_it_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Atoms) -> None:
        raise FAULT

    bad = molecule("CH4")
    monkeypatch.setattr(type(bad), "get_tags", broken)
    given = [Input(sid="CH4", atoms=bad)]
    (result,) = relax_inputs(given, potential(FAULT), RelaxSettings(workers=1))
    assert result.record.error == SENTENCE
    assert "unexpected error in structure CH4" in caplog.text


def test_a_fault_of_the_second_model_leaves_the_relaxation_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: DirectModel, systems: Systems) -> Prediction:
        raise FAULT

    monkeypatch.setattr(DirectModel, "predict", broken)
    basis = EnergyBasis(EnergyKind.ADSORPTION, "PBE", "gas molecules")
    second = SecondModel(
        model=DirectModel("nowhere", "0"),
        name="direct",
        reads_tags=True,
        basis=basis,
        run_name="emt",
        run_basis=basis,
    )
    model = NamedPotential(potential=Failing(FAULT), name="emt", hash="emt", second_opinion=second)
    (result,) = relax_inputs(inputs()[:1], model, RelaxSettings(workers=1))
    assert result.record.converged
    assert result.record.second_opinion is not None
    assert result.record.second_opinion.note == SENTENCE
    assert "unexpected error in a second opinion of direct" in caplog.text


def test_a_fault_while_a_cell_is_prepared_ends_one_structure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    coordinates = CellFilter.coordinates

    def broken(self: CellFilter, systems: Systems) -> CellCoordinates:
        if systems.n_atoms == 1:
            raise FAULT
        return coordinates(self, systems)

    monkeypatch.setattr(CellFilter, "coordinates", broken)
    emt = AsePotential(calculator=EMT(), stress=True)
    model = NamedPotential(potential=emt, name="emt", hash="emt", stress=True)
    given = [Input(sid="one", atoms=bulk("Cu")), Input(sid="four", atoms=bulk("Cu", cubic=True))]
    settings = RelaxSettings(cell="unit", workers=1, steps=1)
    one, four = relax_inputs(given, model, settings)
    assert one.record.error == SENTENCE
    assert four.record.error is None
    assert "unexpected error in structure one" in caplog.text


@pytest.mark.parametrize("number", [-3, 119, 300])
def test_an_atomic_number_of_no_element_ends_one_structure(number: int) -> None:
    bad = molecule("H2")
    bad.numbers[0] = number
    given = [Input(sid="bad", atoms=bad), *inputs()[:1]]
    wrong, good = relax_inputs(given, potential(FAULT), RelaxSettings(workers=1))
    assert wrong.record.formula is None
    assert f"atomic number {number}" in str(wrong.record.error)
    assert good.record.error is None
