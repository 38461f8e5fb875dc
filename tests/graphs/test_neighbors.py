"""Neighbor lists against ASE's, as sets of (receiver, sender, shift), and the skin cache against
fresh lists.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list

from geocalc.core.systems import Systems, concatenate
from geocalc.errors import InputError
from geocalc.graphs.neighbors import Graph, NeighborCache, build_graph, edge_vectors, pair_edges
from geocalc.structures.convert import from_atoms


def raw(atoms: Atoms) -> Systems:
    """A batch without the checks of `from_atoms`, so that odd cells and dense structures can be
    tried.
    """
    n = len(atoms)
    return Systems(
        positions=torch.tensor(atoms.positions),
        numbers=torch.tensor(atoms.numbers),
        tags=torch.zeros(n, dtype=torch.int64),
        fixed=torch.zeros(n, 3, dtype=torch.bool),
        system_idx=torch.zeros(n, dtype=torch.int64),
        cell=torch.tensor(np.array(atoms.cell))[None],
        pbc=torch.tensor(atoms.pbc)[None],
    )


def slab(pbc: tuple[bool, bool, bool] = (True, True, False)) -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    atoms.rattle(0.05, seed=1)
    atoms.pbc = pbc
    return atoms


def unwrapped(pbc: tuple[bool, bool, bool]) -> Atoms:
    atoms = slab(pbc)
    jumps = np.random.default_rng(3).integers(-3, 4, (len(atoms), 3)) * np.array(pbc)
    atoms.positions += jumps @ atoms.cell.array
    return atoms


def tiny(pbc: tuple[bool, bool, bool] = (True, True, True)) -> Atoms:
    cell = [[1.3, 0.0, 0.0], [0.4, 1.2, 0.0], [-0.5, 0.3, 1.9]]
    return Atoms("HC", positions=[[0, 0, 0], [0.3, 0.4, 0.9]], cell=cell, pbc=pbc)


def recelled(atoms: Atoms, matrix: list[list[int]]) -> Atoms:
    """The same crystal described by other lattice vectors."""
    atoms.set_cell(np.array(matrix) @ atoms.cell.array)
    return atoms


def spread(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms(
        "C6",
        positions=6 * rng.normal(size=(6, 3)),
        cell=3 * rng.normal(size=(3, 3)),
        pbc=rng.random(3) < 0.6,
    )


BEYOND = {  # structures that end the process, or fill its memory, inside the search
    "atoms in a plane": Atoms("CO", positions=[[0.0, 0.0, 0.0], [2000.0, 2000.0, 0.0]]),
    "atoms in a line": Atoms("CO", positions=[[0.0, 0.0, 0.0], [1e6, 0.0, 0.0]]),
    "far images": Atoms(
        "CO", positions=[[0.0, 0.0, 0.0], [1e10, 0.0, 1.0]], cell=[4.0] * 3, pbc=True
    ),
    "wide cell": Atoms("C", cell=[1e6, 4.0, 4.0], pbc=True),
    "vanishing cell": Atoms("C", cell=[1e-3] * 3, pbc=True),
    "flat cell": Atoms("C", cell=[[30.0, 0, 0], [30.0, 1e-4, 0], [0, 0, 30.0]], pbc=True),
}
CASES = {
    "molecule": molecule("CH3CH2OH"),
    "molecule far away": Atoms("CO", positions=[[900.0, -50, 3], [901.1, -50, 3]]),
    "isolated atom": Atoms("Pt"),
    "one-atom cell": bulk("Cu"),
    "slab TTF": slab(),
    "slab TTT": slab((True, True, True)),
    "slab without a third vector": fcc111("Cu", (2, 2, 3)),
    "unwrapped TTF": unwrapped((True, True, False)),
    "unwrapped TTT": unwrapped((True, True, True)),
    "left-handed": recelled(slab((True, True, True)), [[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "skewed": recelled(bulk("Cu"), [[1, 0, 0], [0, 1, 0], [3, 2, 1]]),
    "tiny": tiny(),
    "wire": tiny((False, True, False)),
    "sheet": tiny((True, False, True)),
} | {f"random {seed}": spread(seed) for seed in range(5)}


def as_set(i: np.ndarray, j: np.ndarray, shifts: np.ndarray) -> list[tuple[int, ...]]:
    return sorted(map(tuple, np.column_stack([i, j, shifts]).astype(int).tolist()))


def graph_set(graph: Graph) -> list[tuple[int, ...]]:
    return as_set(graph.receivers.numpy(), graph.senders.numpy(), graph.shifts.numpy())


def same(a: Graph, b: Graph) -> bool:
    return (
        torch.equal(a.receivers, b.receivers)
        and torch.equal(a.senders, b.senders)
        and torch.equal(a.shifts, b.shifts)
        and a.n_truncated == b.n_truncated
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cutoff", [3.0, 6.0])
def test_equals_ase(name: str, cutoff: float) -> None:
    atoms = CASES[name]
    systems = raw(atoms)
    graph = build_graph(systems, cutoff)
    i, j, shifts, lengths = neighbor_list("ijSd", atoms, cutoff)
    assert graph_set(graph) == as_set(i, j, shifts)
    assert (torch.diff(graph.receivers) >= 0).all()
    mine = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph).norm(dim=1)
    torch.testing.assert_close(mine.sort()[0], torch.tensor(np.sort(lengths)), atol=1e-9, rtol=0)


def test_cutoff_may_exceed_two_cells() -> None:
    assert 2 * tiny().cell.lengths().max() < 6.0
    assert build_graph(raw(tiny()), 6.0).shifts.abs().max() > 2


def test_open_direction_may_hold_any_vector() -> None:
    flat = tiny((True, True, False))
    flat.set_cell([flat.cell[0], flat.cell[1], flat.cell[0] + 0.5 * flat.cell[1]])
    none = flat.copy()
    none.set_cell([flat.cell[0], flat.cell[1], [0, 0, 0]])
    assert graph_set(build_graph(raw(flat), 4.0)) == as_set(*neighbor_list("ijS", none, 4.0))


def test_mixed_batch_is_its_members() -> None:
    members = [raw(CASES[name]) for name in CASES]
    batch = build_graph(concatenate(members), 4.0)
    expected, start = [], 0
    for systems in members:
        one = build_graph(systems, 4.0)
        expected += [(i + start, j + start, *s) for i, j, *s in graph_set(one)]
        start += systems.n_atoms
    assert graph_set(batch) == expected
    assert (torch.diff(batch.receivers) >= 0).all()


def test_far_jumps_sort_the_same() -> None:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.positions += (
        np.array([10**5, 0, -(10**5)])[:, None][[0, 1, 2, 0, 1, 2, 0, 1]] * atoms.cell[2]
    )
    graph = build_graph(raw(atoms), 3.0)
    keys = np.column_stack([graph.receivers, graph.senders, graph.shifts])
    assert graph.n_edges == 8 * 12
    assert keys.tolist() == sorted(keys.tolist())


def test_tied_neighbors_are_kept() -> None:
    graph = build_graph(raw(bulk("Cu")), 6.0, max_neighbors=11)
    assert graph.n_edges == 12
    assert graph.n_truncated == build_graph(raw(bulk("Cu")), 6.0).n_edges - 12


def test_nearest_are_kept() -> None:
    systems = raw(slab())
    graph = build_graph(systems, 6.0, max_neighbors=7)
    full = build_graph(systems, 6.0)
    length = edge_vectors(systems.positions, systems.cell, systems.system_idx, full).norm(dim=1)
    for atom in range(systems.n_atoms):
        mine = full.receivers == atom
        seventh = length[mine].sort()[0][6]
        kept = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph).norm(dim=1)[
            graph.receivers == atom
        ]
        assert len(kept) == 7
        assert kept.max() == seventh


def test_no_truncation_needed() -> None:
    systems = raw(slab())
    assert same(build_graph(systems, 3.0, max_neighbors=500), build_graph(systems, 3.0))


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_cutoff(cutoff: float) -> None:
    with pytest.raises(InputError, match="cutoff must be a positive length"):
        build_graph(raw(slab()), cutoff)


def test_bad_max_neighbors() -> None:
    with pytest.raises(InputError, match="max_neighbors must be at least 1"):
        build_graph(raw(slab()), 3.0, max_neighbors=0)


def test_position_that_is_not_a_number() -> None:
    atoms = slab()
    atoms.positions[3, 1] = np.nan
    with pytest.raises(InputError, match="position of atom 3 is"):
        build_graph(raw(atoms), 3.0)


def test_zero_cell_with_pbc() -> None:
    with pytest.raises(InputError, match="lattice vector a is zero although pbc is on"):
        build_graph(raw(Atoms("H", pbc=True)), 3.0)


def test_flat_periodic_cell() -> None:
    with pytest.raises(InputError, match="zero volume"):
        build_graph(raw(Atoms("H", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True)), 3.0)


def walk(systems: Systems, n_steps: int, size: float) -> list[Systems]:
    generator = torch.Generator().manual_seed(5)
    path = [systems]
    for _ in range(n_steps):
        move = size * torch.randn(systems.positions.shape, generator=generator, dtype=torch.double)
        path.append(replace(path[-1], positions=path[-1].positions + move))
    return path


@pytest.mark.parametrize("max_neighbors", [None, 11])
@pytest.mark.parametrize("name", ["slab TTF", "unwrapped TTT", "tiny", "molecule", "isolated atom"])
def test_cache_equals_fresh_lists(name: str, max_neighbors: int | None) -> None:
    cache = NeighborCache(4.0, max_neighbors, skin=0.6)
    path = walk(raw(CASES[name]), 40, 0.05)
    for systems in path:
        assert same(cache(systems), build_graph(systems, 4.0, max_neighbors))
    assert 1 < cache.n_searches < len(path) / 2


def test_cache_of_a_batch() -> None:
    cache = NeighborCache(4.0, skin=0.6)
    batch = concatenate(
        [raw(CASES[name]) for name in ("slab TTF", "molecule", "one-atom cell", "left-handed")]
    )
    path = walk(batch, 10, 0.02)
    for systems in path:
        assert same(cache(systems), build_graph(systems, 4.0))
    assert cache.n_searches < len(path) * batch.n_systems / 2


def test_cache_searches_only_what_moved_or_entered() -> None:
    cache = NeighborCache(4.0, skin=0.6)
    first, second, third = (raw(CASES[name]) for name in ("slab TTF", "molecule", "one-atom cell"))
    away = replace(second, positions=second.positions + 1.0)
    for batch, n_searches in [
        ([first, second], 2),
        ([third, second, first], 3),
        ([away, first], 4),
        ([first, away, away], 4),
    ]:
        systems = concatenate(batch)
        assert same(cache(systems), build_graph(systems, 4.0))
        assert cache.n_searches == n_searches


def test_cache_tells_structures_of_one_cell_apart() -> None:
    cache = NeighborCache(4.0, skin=0.4)
    still = raw(slab())
    other = replace(
        still,
        positions=still.positions + 0.3 * torch.sin(torch.arange(still.n_atoms * 3).reshape(-1, 3)),
    )
    for batch in ([still, other], [other, still], [other]):
        systems = concatenate(batch)
        assert same(cache(systems), build_graph(systems, 4.0))
    assert cache.n_searches == 2


def test_cache_sees_what_changed() -> None:
    systems = raw(slab((True, True, True)))
    changes = [
        {"cell": systems.cell * 1.001},
        {"pbc": torch.tensor([[True, True, False]])},
        {"positions": systems.positions + torch.tensor([0.26, 0.0, 0.0], dtype=torch.double)},
    ]
    for change in changes:
        cache = NeighborCache(4.0, skin=0.5)
        cache(systems)
        cache(systems)
        assert cache.n_searches == 1
        other = replace(systems, **change)
        assert same(cache(other), build_graph(other, 4.0))
        assert cache.n_searches == 2


def test_cache_starts_anew_for_other_batches() -> None:
    cache = NeighborCache(4.0, skin=0.5)
    for systems in (
        raw(slab()),
        raw(molecule("H2O")),
        concatenate([raw(slab()), raw(molecule("H2O"))]),
    ):
        assert same(cache(systems), build_graph(systems, 4.0))
    assert cache.n_searches == 3


def test_cache_is_not_fooled_by_positions_changed_in_place() -> None:
    systems = raw(slab())
    cache = NeighborCache(3.0, skin=0.5)
    cache(systems)
    systems.positions[0] += 2.0
    assert same(cache(systems), build_graph(systems, 3.0))
    assert cache.n_searches == 2


def test_cache_without_skin() -> None:
    systems = raw(slab())
    cache = NeighborCache(3.0, skin=0.0)
    cache(systems)
    cache(systems)
    assert cache.n_searches == 1
    moved = replace(systems, positions=systems.positions + 1e-9)
    assert same(cache(moved), build_graph(moved, 3.0))
    assert cache.n_searches == 2


def test_bad_skin() -> None:
    with pytest.raises(InputError, match="skin must be zero or a positive length"):
        NeighborCache(3.0, skin=-0.1)


def test_checked_structures_give_the_same_graph() -> None:
    atoms = slab()
    atoms.set_tags(np.array([0] * 8 + [1] * 4))
    assert same(build_graph(from_atoms(atoms), 3.0), build_graph(raw(atoms), 3.0))


@pytest.mark.parametrize("max_neighbors", [None, 11])
@pytest.mark.parametrize("name", CASES)
def test_pairs_join_an_edge_and_its_reverse(name: str, max_neighbors: int | None) -> None:
    systems = concatenate([raw(CASES[name]), raw(slab())])
    graph = build_graph(systems, 5.0, max_neighbors)
    pair_of = pair_edges(graph, systems.n_atoms)
    ends = zip(
        graph.receivers.tolist(),
        graph.senders.tolist(),
        graph.shifts.to(torch.int64).tolist(),
        strict=True,
    )
    wanted: dict[frozenset[tuple[int, ...]], set[int]] = {}
    for edge, (i, j, shift) in enumerate(ends):
        wanted.setdefault(frozenset({(i, j, *shift), (j, i, *(-s for s in shift))}), set()).add(
            edge
        )
    found: dict[int, set[int]] = {}
    for edge, pair in enumerate(pair_of.tolist()):
        found.setdefault(pair, set()).add(edge)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, wanted.values()))
    assert set(found) == set(range(len(found)))
    assert max_neighbors is not None or graph.n_edges == 2 * len(found)
    owners = [
        systems.system_idx[graph.receivers[min(found[pair])]].item() for pair in range(len(found))
    ]
    assert owners == sorted(owners)


@pytest.mark.parametrize("name", BEYOND)
def test_sizes_beyond_all_measure_are_refused(name: str) -> None:
    with pytest.raises(
        InputError,
        match=(r"(check the cell|check the input file|choose shorter lattice vectors)$"),
    ):
        build_graph(raw(BEYOND[name]), 2.0)
    with pytest.raises(InputError, match=r"^[A-Z]\w*: "):
        from_atoms(BEYOND[name], use_tags=False)
