"""Edges of glasses: the published count, signs and nearest images."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.glass_engine import small_configuration

from geocalc.errors import InputError
from geocalc.properties.glass.configuration import read_configuration
from geocalc.properties.glass.neighborhood import build_neighborhood

SMALL = small_configuration()


@pytest.mark.data
def test_the_published_sample_has_the_published_edges() -> None:
    sample = read_configuration(
        Path(os.environ["GEOCALC_DATA"]) / "glassy-kob-andersen-1config" / "ka_T044_4096.npz"
    )
    assert build_neighborhood(sample).senders.shape == (171_066,)
    assert build_neighborhood(sample, self_loops=False).senders.shape == (166_970,)


@pytest.mark.parametrize("cutoff", [1.1, 2.0, 2.8])
def test_edges_are_those_of_all_pairs_by_the_nearest_image(cutoff: float) -> None:
    outside = replace(
        SMALL,
        positions=SMALL.positions + SMALL.box * np.random.default_rng(1).integers(-2, 3, (216, 3)),
    )
    vectors = outside.positions[None] - outside.positions[:, None]  # [sender, receiver]
    vectors -= outside.box * np.round(vectors / outside.box)
    near = np.linalg.norm(vectors, axis=-1) < cutoff
    receivers, senders = np.nonzero(near.T)  # by receiver, then by sender
    found = build_neighborhood(outside, cutoff)
    np.testing.assert_array_equal(found.receivers, receivers)
    np.testing.assert_array_equal(found.senders, senders)
    np.testing.assert_allclose(found.edge_vec, vectors[senders, receivers], atol=1e-12)


def test_a_vector_leads_from_the_sender_to_the_receiver() -> None:
    found = build_neighborhood(SMALL, 1.1, self_loops=False)
    reached = (
        SMALL.positions[found.senders] + found.edge_vec.numpy() - SMALL.positions[found.receivers]
    )
    np.testing.assert_allclose(reached / SMALL.box, np.round(reached / SMALL.box), atol=1e-12)
    assert bool((found.edge_vec.norm(dim=1) > 0).all())


def test_self_loops_are_one_for_each_particle_and_have_no_length() -> None:
    found = build_neighborhood(SMALL, 1.1)
    loops = found.senders == found.receivers
    np.testing.assert_array_equal(found.senders[loops], np.arange(216))
    assert not found.edge_vec[loops].any()


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), 2.9])
def test_a_cutoff_that_reaches_two_images_is_refused(cutoff: float) -> None:
    with pytest.raises(InputError, match="no more than half the shortest edge"):
        build_neighborhood(SMALL, cutoff)
