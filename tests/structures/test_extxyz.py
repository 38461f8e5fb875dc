from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import read
from helpers.structures import adslab, rattled, systems_of

from geocalc.errors import InputError
from geocalc.structures.convert import fixed_mask
from geocalc.structures.extxyz import format_extxyz

INFO = {
    "sid": "random 12/α",
    "number_like": "12",
    "truth_like": "T",
    "quoted": 'he said "no" \\ yes',
    "empty": "",
    "count": 3,
    "weight": 0.1 + 0.2,
    "flag": np.bool_(True),
    "vector": np.array([1.5, -2.0, 3.25]),
    "nested": {"a": [1, 2], "b": None},
    "with space": "x",
    "missing": None,
}


def read_back(text: str):
    return read(io.StringIO(text), index=0, format="extxyz")


def test_positions_cell_tags_and_mask_come_back_bit_for_bit() -> None:
    atoms = rattled(adslab("CO"))
    atoms.set_constraint(FixAtoms(range(4)))
    systems = replace(systems_of(atoms), fixed=torch.from_numpy(fixed_mask(atoms)))
    forces = np.random.default_rng(0).normal(size=(len(atoms), 3))
    back = read_back(format_extxyz(systems, {}, {"geocalc_forces": forces}))
    assert np.array_equal(back.positions, atoms.positions)
    assert np.array_equal(back.cell.array, atoms.cell.array)
    assert np.array_equal(back.pbc, atoms.pbc)
    assert np.array_equal(back.numbers, atoms.numbers)
    assert np.array_equal(back.get_tags(), atoms.get_tags())
    assert np.array_equal(fixed_mask(back), fixed_mask(atoms))
    assert np.array_equal(back.arrays["geocalc_forces"], forces)
    assert "move_mask" in format_extxyz(systems, {}, {})


def test_single_fixed_components_are_kept() -> None:
    systems = systems_of(molecule("H2O"))
    fixed = torch.tensor([[True, False, False], [False] * 3, [True] * 3])
    back = read_back(format_extxyz(replace(systems, fixed=fixed), {}, {}))
    assert np.array_equal(fixed_mask(back), fixed.numpy())


def test_info_keeps_values_and_types() -> None:
    back = read_back(format_extxyz(systems_of(molecule("H2O")), INFO, {})).info
    assert "missing" not in back
    assert np.array_equal(back.pop("vector"), INFO["vector"])
    for name, value in back.items():
        plain = value.item() if isinstance(value, np.generic) else value
        assert plain == INFO[name], name
        assert type(plain) in (type(INFO[name]), bool), name
    assert len(back) == len(INFO) - 2


def test_columns_of_text_and_whole_numbers() -> None:
    arrays = {
        "label": np.array(["a", "b c", ""]),
        "count": np.array([1, 2, 3]),
        "on": np.array([True, False, True]),
    }
    back = read_back(format_extxyz(systems_of(molecule("H2O")), {}, arrays))
    assert back.arrays["label"].tolist() == ["a", "b_c", "_"]
    assert back.arrays["count"].tolist() == [1, 2, 3]
    assert back.arrays["on"].tolist() == [True, False, True]


def test_one_structure_at_a_time() -> None:
    with pytest.raises(InputError, match="got 2"):
        format_extxyz(systems_of(molecule("H2O"), molecule("CO")), {}, {})
