"""Graphs of inherent structures: edges join particles where the nearest minimum of the energy has
them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.glasses import CUTOFF, glass, make_recipe

from geocalc.errors import InputError, RunFolderError
from geocalc.properties import glass_graphs
from geocalc.properties.data import read_split
from geocalc.properties.glass.configuration import GlassConfiguration, write_configuration
from geocalc.properties.glass.inherent import inherent_structure
from geocalc.properties.glass.neighborhood import build_neighborhood
from geocalc.properties.glass_graphs import glass_graph
from geocalc.properties.recipe import GlassGraph, Structure
from geocalc.relaxation.status import Status

INHERENT = GlassGraph(structure=Structure.INHERENT, cutoff=CUTOFF)


def calm(seed: int) -> GlassConfiguration:
    """The made-up glass nearer to its lattice, so that no two particles overlap."""
    made, n = glass(seed), 5
    spacing = made.box[0] / n
    lattice = spacing * np.round(made.positions / spacing)
    return replace(made, positions=lattice + 0.2 * (made.positions - lattice))


def never(*given: object) -> None:
    raise AssertionError("it was computed before")


@pytest.mark.slow
def test_edges_are_those_of_the_nearest_minimum(tmp_path: Path) -> None:
    thermal = calm(0)
    minimum = replace(thermal, positions=inherent_structure(thermal).positions)
    found, expected = (
        glass_graph(thermal, INHERENT, tmp_path),
        build_neighborhood(minimum, CUTOFF, self_loops=True),
    )
    assert torch.equal(found.senders, expected.senders)
    assert torch.equal(found.edge_vec, expected.edge_vec)
    assert not torch.equal(
        found.senders, build_neighborhood(thermal, CUTOFF, self_loops=True).senders
    )


@pytest.mark.slow
def test_a_minimum_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = glass_graph(calm(0), INHERENT, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(glass_graphs, "inherent_structure", never)
        assert torch.equal(glass_graph(calm(0), INHERENT, tmp_path).edge_vec, first.edge_vec)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:50])  # cut short on the disk: made anew
    assert torch.equal(glass_graph(calm(0), INHERENT, tmp_path).edge_vec, first.edge_vec)
    assert np.load(kept).shape == (125, 3)


@pytest.mark.slow
def test_where_no_minimum_is_found_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfinished(configuration):
        return replace(
            inherent_structure(configuration), status=Status.MAX_STEPS, fmax=0.5, n_steps=7
        )

    monkeypatch.setattr(glass_graphs, "inherent_structure", unfinished)
    with pytest.raises(
        InputError, match=r"no minimum was found near g0: 7 steps left a force of 0\.5"
    ):
        glass_graph(calm(0), INHERENT, None)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot keep inherent structures in"):
        glass_graph(calm(0), INHERENT, tmp_path / "file")


@pytest.mark.slow
def test_a_recipe_may_ask_for_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for k in range(6):
        write_configuration(data / f"g{k}.npz", calm(k))
    recipe = make_recipe(data)
    split = read_split(
        recipe.data.model_copy(update={"graph": INHERENT, "training": ("g0",)}), tmp_path
    )
    assert len(list(tmp_path.glob("inherent-*.npy"))) == len(split.training) + len(split.validation)
    assert split.training[0].name == "g0"
    assert torch.equal(
        split.training[0].edge_vec, glass_graph(calm(0), INHERENT, tmp_path).edge_vec.float()
    )
