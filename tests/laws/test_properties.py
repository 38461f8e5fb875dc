"""What must hold for any structure whatever: random cells, constraints, tags and batches, and
faults among them.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import (
    FixAtoms,
    FixBondLength,
    FixCartesian,
    FixCom,
    FixConstraint,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixLinearTriatomic,
    FixScaled,
    Hookean,
)
from ase.geometry import complete_cell
from ase.neighborlist import neighbor_list
from helpers.models import random_potential
from hypothesis import event, given, settings
from hypothesis import strategies as st

from geocalc.core.systems import Prediction, Systems, concatenate, select
from geocalc.errors import InputError
from geocalc.graphs.neighbors import NeighborCache, build_graph, edge_vectors, pair_edges
from geocalc.optim import OPTIMIZERS, make_optimizer
from geocalc.optim.base import Ragged
from geocalc.potentials.ase import AsePotential
from geocalc.relaxation.loop import Relaxation, Status, relax_systems, start, step
from geocalc.runs.folder import RunFolder
from geocalc.runs.forms import Input
from geocalc.runs.records import Record
from geocalc.runs.roles import NamedPotential
from geocalc.runs.runner import open_run_folder, run_relaxation
from geocalc.runs.settings import RelaxSettings
from geocalc.structures.convert import from_atoms
from geocalc.structures.tags import TagsConverted

MOST_IMAGES = 5_000  # of a cell that ASE searches; it takes minutes for more
MORE = int(os.environ.get("GEOCALC_EXAMPLES", "1"))  # times as many examples, for a run by hand
EXACT = 1e-12  # Angstrom
SPACING = 2.3  # Angstrom between atoms before they are shaken
SMALL_FAENET = random_potential()
METALS, LIGHT, FOREIGN = (29, 47, 78), (1, 6, 8), (0, 10, 54, 118, 119, -3)
CELLS = (
    "box",
    "skewed",
    "left-handed",
    "none",
    "tiny",
    "thin",
    "flat",
    "huge",
    "vanishing",
    "not a number",
)
SOUND_CELLS = CELLS[:4]
FAULTS = ("same place", "near", "not a number", "endless", "far", "very far", "foreign")
TAGS = ("none", "zero", "oc20", "random", "negative", "fractions", "not a number")
UNSUPPORTED = (
    lambda n: Hookean(0, n - 1, 1.0, rt=1.2),
    lambda n: Hookean(0, (0.0, 0.0, 1.0, 2.0), 1.0),
    lambda n: FixBondLength(0, n - 1),
    lambda n: FixCom(),
    lambda n: FixInternals(bonds=[[1.0, [0, n - 1]]]),
    lambda n: FixLinearTriatomic([(0, 1, 2)]),
)


def examples(n: int):
    return settings(max_examples=n * MORE, deadline=None, derandomize=True, database=None)


def a_cell(kind: str, rng: np.random.Generator) -> np.ndarray:
    cell = np.diag(rng.uniform(3.5, 9.0, 3))
    if kind in ("skewed", "left-handed"):
        cell += np.tril(rng.uniform(-6.0, 6.0, (3, 3)), -1)
        cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    if kind == "left-handed":
        cell = cell[[1, 0, 2]] if np.linalg.det(cell) > 0 else cell
    small = {
        "tiny": rng.uniform(0.3, 2.5),
        "vanishing": 10.0 ** rng.uniform(-9, -1),
        "huge": 10.0 ** rng.uniform(2, 9),
    }
    if kind == "thin":
        cell[2] = cell[0] + cell[1] * 10.0 ** rng.uniform(-7, -1)
    if kind == "flat":
        cell[2] = cell[0] - 2 * cell[1]
    if kind == "not a number":
        cell[1, 1] = rng.choice([np.nan, np.inf])
    return np.zeros((3, 3)) if kind == "none" else cell * small.get(kind, 1.0)


def sites(n: int, rng: np.random.Generator) -> np.ndarray:
    """Places on a shaken grid, so that atoms without periodic images do not overlap."""
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = rng.choice(len(grid), size=n, replace=False)
    return SPACING * grid[chosen] + rng.uniform(-0.4, 0.4, (n, 3))


def spoil(atoms: Atoms, fault: str | None, rng: np.random.Generator) -> None:
    last = atoms.positions[-1]
    if fault in ("same place", "near"):
        last[:] = atoms.positions[0] + (1e-3 if fault == "near" else 0.0)
    elif fault in ("not a number", "endless"):
        last[rng.integers(3)] = np.nan if fault == "not a number" else -np.inf
    elif fault in ("far", "very far"):
        last += 10.0 ** rng.uniform(*((2, 4) if fault == "far" else (4, 16))) * rng.choice(
            [-1, 0, 1], size=3
        )
    elif fault == "foreign":
        atoms.numbers[-1] = rng.choice(FOREIGN)


def some_tags(kind: str, n: int, rng: np.random.Generator) -> np.ndarray | None:
    return {
        "none": None,
        "zero": np.zeros(n, dtype=int),
        "oc20": np.sort(rng.integers(0, 3, n)),
        "random": rng.integers(0, 5, n),
        "negative": rng.integers(-2, 2, n),
        "fractions": rng.uniform(0, 2, n),
        "not a number": np.full(n, np.nan),
    }[kind]


@st.composite
def constraints(draw, n: int) -> FixConstraint:
    kind = draw(st.sampled_from((FixAtoms, FixCartesian, FixedPlane, FixedLine, FixScaled)))
    who = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
    if kind is FixAtoms and draw(st.booleans()):
        return FixAtoms(mask=np.isin(np.arange(n), who))
    if kind is FixAtoms:
        return FixAtoms([k - n for k in who] if draw(st.booleans()) else who)
    if kind in (FixCartesian, FixScaled):
        return kind(who, draw(st.tuples(*[st.booleans()] * 3).filter(any)))
    way = draw(
        st.sampled_from(
            (
                (0, 0, 1),
                (1, 0, 0),
                (0, -3, 0),
                (1, 1, 0),
                (1.0, -2.0, 0.7),
                (1e-3, 1e3, 5.0),
                (1e-5, 0, 1),
            )
        )
    )
    return kind(who, way)


@st.composite
def structures(draw, faulty: bool = False, numbers=METALS + LIGHT, max_atoms: int = 6) -> Atoms:
    """A structure with any cell, periodicity, constraints and tags; with something wrong in it now
    and then if `faulty`.
    """
    n, rng = draw(st.integers(1, max_atoms)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(CELLS if faulty else SOUND_CELLS))
    pbc = draw(st.tuples(*[st.booleans()] * 3)) if faulty or kind != "none" else (False,) * 3
    atoms = Atoms(rng.choice(numbers, n), sites(n, rng), cell=a_cell(kind, rng), pbc=pbc)
    if not faulty and any(pbc):  # room for all atoms, whatever is drawn for them
        atoms.cell[:] *= 2 * SPACING * 2 / min(3.0, *np.linalg.norm(atoms.cell, axis=1)) * 0.75
    if draw(st.booleans()) and np.isfinite(atoms.cell).all():
        atoms.positions += rng.integers(-4, 5, (n, 3)) @ atoms.cell.array * pbc[0] * pbc[1] * pbc[2]
    given = some_tags(draw(st.sampled_from(TAGS if faulty else TAGS[:4])), n, rng)
    if given is not None:
        atoms.set_array("tags", given)
    held = draw(st.lists(constraints(n), max_size=3))
    if faulty and n > 2 and draw(st.integers(0, 5)) == 0:
        held.append(draw(st.sampled_from(UNSUPPORTED))(n))
    atoms.set_constraint(held)
    if faulty:
        spoil(atoms, draw(st.none() | st.sampled_from(FAULTS)), rng)
    return atoms


@contextmanager
def quiet_tags() -> Iterator[None]:
    """Warnings are errors, but not the one that says that tags were converted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TagsConverted)
        yield


def usable(given: list[Atoms], use_tags: bool = False) -> list[tuple[Atoms, Systems]]:
    """Those of the structures that can be used; the others are refused by the error that is meant
    for it.
    """
    found = []
    for atoms in given:
        before = atoms.copy()
        try:
            with quiet_tags():
                found.append((atoms, from_atoms(atoms, use_tags=use_tags)))
        except InputError as error:
            assert 20 < len(str(error)) < 1000  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        assert np.array_equal(atoms.positions, before.positions, equal_nan=True)
        assert np.array_equal(atoms.cell, before.cell, equal_nan=True)
    event(f"{len(found)} of {len(given)} usable")
    return found


@dataclass
class Emt:
    """EMT, for which one structure after the other is computed, with wrong numbers on request.

    Attributes:
        wrong: what energies and forces are multiplied by, for structures of as many atoms.
        after: evaluations of such a structure before that.
    """

    wrong: dict[int, float] = field(default_factory=dict)
    after: int = 0
    seen: int = 0
    emt: AsePotential = field(default_factory=lambda: AsePotential(calculator=EMT()))

    def __call__(self, systems: Systems) -> Prediction:
        # EMT refuses flat cells even where they mean nothing
        cell = systems.cell * systems.pbc[:, :, None]
        found = self.emt(replace(systems, cell=cell))
        if not self.wrong:
            return found
        self.seen += 1
        factor = torch.tensor(
            [
                self.wrong.get(n, 1.0) if self.seen > self.after else 1.0
                for n in systems.counts.tolist()
            ]
        )
        return replace(
            found,
            energy=found.energy * factor,
            forces=found.forces * factor[systems.system_idx, None],
        )


def same(one: Relaxation, other: Relaxation) -> bool:
    """Whether two relaxations are equal to the last bit."""
    a, b = ([getattr(end, f.name) for f in fields(Relaxation)] for end in (one, other))
    return all(equal(x, y) for x, y in zip(a, b, strict=True))


def equal(a: object, b: object) -> bool:
    """Bitwise equality of tensors, ragged items and dataclasses of them; NaN equals itself."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and _bits(a) == _bits(b)
        )
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, Ragged | tuple | list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__dataclass_fields__"):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def assert_constraints_hold(atoms: Atoms, end: Relaxation) -> None:
    final, n = end.systems.positions.numpy(), len(atoms)
    way = final - atoms.positions
    exact = EXACT + 4 * np.spacing(np.abs(atoms.positions).max())
    for constraint in atoms.constraints:
        index = np.asarray(constraint.index) % n
        moved = way[index]
        if isinstance(constraint, FixAtoms):
            assert np.array_equal(final[index], atoms.positions[index])
        elif isinstance(constraint, FixCartesian):
            held = np.broadcast_to(constraint.mask, moved.shape)
            assert np.array_equal(final[index][held], atoms.positions[index][held])
        elif isinstance(constraint, FixedPlane):
            assert np.abs(moved @ constraint.dir).max() <= exact
        elif isinstance(constraint, FixedLine):
            assert (
                np.linalg.norm(
                    moved - np.outer(moved @ constraint.dir, constraint.dir), axis=1
                ).max()
                <= 2 * exact
            )
        elif constraint.mask.all():
            assert np.array_equal(final[index], atoms.positions[index])
        else:
            dual = np.linalg.inv(atoms.cell.complete())[:, constraint.mask]
            assert np.abs(moved @ (dual / np.linalg.norm(dual, axis=0))).max() <= 2 * exact
    assert np.array_equal(
        final[end.systems.fixed.numpy()], atoms.positions[end.systems.fixed.numpy()]
    )


def assert_sound(end: Relaxation, fmax: float, max_steps: int) -> None:
    """An end is one of the ways that there are, and its numbers belong to it."""
    assert bool(torch.isfinite(end.systems.positions).all())
    assert end.status in set(Status) - {Status.ERROR}
    assert 0 <= end.n_steps <= max_steps
    assert end.n_evaluations == end.n_steps + 1
    assert math.isfinite(end.energy) or end.status is Status.NON_FINITE
    assert (end.status is Status.SINGLE_POINT) <= (max_steps == 0)
    if end.converged:
        assert end.fmax < fmax
    if end.status is Status.MAX_STEPS:
        assert end.n_steps == max_steps


def n_images(atoms: Atoms, cutoff: float) -> float:
    """Number of images of the cell that ASE searches for neighbors, about."""
    cell = complete_cell(atoms.cell.array * atoms.pbc[:, None])
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    return float(np.prod(2 * np.ceil(cutoff / heights[atoms.pbc]) + 1))


@pytest.mark.slow
@examples(150)
@given(structures(faulty=True), st.sampled_from((2.0, 3.0, 4.2)))
def test_neighbors_are_those_of_ase_and_each_edge_has_its_reverse(
    atoms: Atoms, cutoff: float
) -> None:
    for _, systems in usable([atoms]):
        graph = build_graph(systems, cutoff)
        edges = list(
            zip(
                graph.receivers.tolist(),
                graph.senders.tolist(),
                *graph.shifts.T.int().tolist(),
                strict=True,
            )
        )
        assert len(set(edges)) == len(edges)
        assert {(j, i, -x, -y, -z) for i, j, x, y, z in edges} == set(edges)
        lengths = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph).norm(
            dim=1
        )
        assert bool((lengths < cutoff * (1 + 1e-12)).all())
        assert len(pair_edges(graph, len(atoms)).unique()) == len(edges) / 2
        again = NeighborCache(cutoff)(systems)
        assert equal(again, graph)
        if graph.n_edges < 20_000 and n_images(atoms, cutoff) < MOST_IMAGES:
            plain = Atoms(
                atoms.numbers,
                atoms.positions,
                cell=atoms.cell.array * atoms.pbc[:, None],
                pbc=atoms.pbc,
            )
            i, j, shifts, length = neighbor_list("ijSd", plain, cutoff)
            inside = length < cutoff
            theirs = zip(
                i[inside].tolist(), j[inside].tolist(), *shifts[inside].T.tolist(), strict=True
            )
            assert set(theirs) == set(edges)


@pytest.mark.slow
@examples(120)
@given(
    st.lists(structures(faulty=True), min_size=1, max_size=4),
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(0, 4),
    st.sampled_from((1e-8, 0.05, 2.0)),
    st.data(),
)
def test_relaxations_of_anything(
    given: list[Atoms], name: str, max_steps: int, fmax: float, data: st.DataObject
) -> None:
    kept = [pair for pair in usable(given) if set(pair[0].numbers) <= set(METALS + LIGHT)]
    if not kept:
        return
    wrong = data.draw(
        st.dictionaries(
            st.integers(1, 3),
            st.sampled_from((math.nan, math.inf, -math.inf, 1e30, 0.0)),
            max_size=1,
        )
    )
    after = data.draw(st.integers(0, 2))
    optimizer, order = make_optimizer(name), data.draw(st.permutations(range(len(kept))))

    def ends(chosen: list[int]) -> list[Relaxation]:
        batch = concatenate([kept[k][1] for k in chosen])
        return relax_systems(batch, Emt(wrong, after), optimizer, fmax, max_steps)

    together = ends(list(range(len(kept))))
    assert len(together) == len(kept)
    for (atoms, systems), end in zip(kept, together, strict=True):
        assert equal(
            replace(end.systems, positions=systems.positions, projector=systems.projector), systems
        )
        assert_constraints_hold(atoms, end)
        assert_sound(end, fmax, max_steps)
        event(end.status.value)
    shuffled = ends(order)
    assert all(same(shuffled[place], together[k]) for place, k in enumerate(order))
    alone = [ends([k])[0] for k in range(len(kept))]
    assert all(same(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.slow
@examples(25)
@given(
    st.lists(structures(numbers=(1, 6, 8, 29)), min_size=1, max_size=3),
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(0, 2),
)
def test_relaxations_with_a_network(given: list[Atoms], name: str, max_steps: int) -> None:
    kept = usable(given, use_tags=True)
    if not kept:
        return
    batch = concatenate([systems for _, systems in kept])
    together = relax_systems(batch, SMALL_FAENET, make_optimizer(name), 0.05, max_steps)
    assert len(together) == len(kept)
    for (atoms, systems), end in zip(kept, together, strict=True):
        assert_constraints_hold(atoms, end)
        assert_sound(end, 0.05, max_steps)
        (alone,) = relax_systems(systems, SMALL_FAENET, make_optimizer(name), 0.05, 0)
        first = SMALL_FAENET(batch).energy[
            next(k for k, pair in enumerate(kept) if pair[1] is systems)
        ]
        assert alone.energy == pytest.approx(float(first), abs=1e-9)


@pytest.mark.slow
@examples(40)
@given(
    st.lists(structures(), min_size=2, max_size=5),
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(0, 3),
    st.data(),
)
def test_what_is_selected_and_joined_is_the_batch_again(
    given: list[Atoms], name: str, n_steps: int, data: st.DataObject
) -> None:
    kept = usable(given)
    if len(kept) < 2:
        return
    optimizer, batch = make_optimizer(name), concatenate([systems for _, systems in kept])
    active = start(batch, optimizer, torch.arange(batch.n_systems))
    for _ in range(n_steps):
        _, active = step(active, Emt(), optimizer, 1e-9, 99)
    n = active.n_systems
    if n < 2:
        return
    cut = torch.arange(n) < data.draw(st.integers(1, n - 1))
    assert equal(active.select(cut).join(active.select(~cut)), active)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    order = torch.cat([torch.nonzero(mask), torch.nonzero(~mask)]).flatten().tolist()
    mixed = active.select(mask).join(active.select(~mask)) if 0 < int(mask.sum()) < n else active
    for place, k in enumerate(order if mixed is not active else range(n)):
        assert equal(mixed.select(torch.arange(n) == place), active.select(torch.arange(n) == k))
    assert equal(
        select(active.coordinates, active.coordinates, torch.ones(n, dtype=torch.bool)),
        active.coordinates,
    )


def by_emt(wrong: dict[int, float]) -> NamedPotential:
    return NamedPotential(potential=Emt(wrong), name="emt", hash="emt", energy_kind="total")


def read_strictly(line: str) -> Record:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    json.loads(line, parse_constant=refuse)
    return Record.from_json(line)


@pytest.mark.slow
@examples(40)
@given(
    st.lists(structures(faulty=True, numbers=METALS + LIGHT + (54,)), min_size=1, max_size=4),
    st.sampled_from(sorted(OPTIMIZERS)),
    st.sampled_from((None, 1, 500)),
    st.booleans(),
    st.integers(0, 3),
)
def test_every_structure_has_one_record_whatever_it_is(
    given: list[Atoms], name: str, batch_edges: int | None, nan: bool, steps: int
) -> None:
    model = by_emt({2: math.nan} if nan else {})
    chosen = RelaxSettings(
        model="emt",
        optimizer=name,
        steps=steps,
        traj="full",
        dtype="float64",
        batch_edges=batch_edges,
    )
    jobs = [Input(sid=f"s{k}", atoms=atoms) for k, atoms in enumerate(given)]
    with tempfile.TemporaryDirectory() as folder, quiet_tags():
        run = open_run_folder(folder, model, chosen)
        found = list(run_relaxation(jobs, model, chosen, run))
        lines = Path(folder, "results.jsonl").read_text().splitlines()
        frames = Path(folder, "relaxed.extxyz").read_text()
        again = list(_resumed(folder, jobs, model, chosen).records())
    assert sorted(record.sid for record in found) == [job.sid for job in jobs]
    assert [read_strictly(line) for line in lines] == found
    assert again == sorted(found, key=lambda record: record.sid)
    assert frames.count("geocalc_status=") == sum(record.error is None for record in found)
    for record in found:
        assert (record.error is None) == (record.status != Status.ERROR.value)
        assert record.error is None or ("\n" not in record.error and len(record.error) > 20)
        event(record.status if record.error is None else record.error.split(":")[0][:40])


def _resumed(
    folder: str, jobs: list[Input], model: NamedPotential, chosen: RelaxSettings
) -> RunFolder:
    run = open_run_folder(folder, model, chosen, resume=True)
    list(run_relaxation(jobs, model, chosen, run))
    return run
