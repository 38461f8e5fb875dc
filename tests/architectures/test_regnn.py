"""Relaxed weights: exact equivariance at the start and when they turn too, convolutions against
e3nn's, training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations, product
from pathlib import Path

import pytest
import torch
from e3nn import o3
from helpers.models import SMALL_RELAXED, random_network
from helpers.structures import adslab, rattled, systems_of, turned
from helpers.training import cpu_fabric, make_recipe, recipe_values, relaxation, write_data
from torch import Tensor

from geocalc import GeoCalc
from geocalc.architectures.regnn.convolution import Convolution, Kinds
from geocalc.architectures.regnn.filters import RelaxedFilters, all_irreps
from geocalc.architectures.regnn.layer import RelaxedLayer
from geocalc.core.systems import Systems
from geocalc.data.prepare import prepare_store
from geocalc.data.store import read_store
from geocalc.errors import InputError, RecipeError
from geocalc.frames import frame_policy
from geocalc.nn.edges import EdgeIndex
from geocalc.nn.relaxed_weights import Theta, thetas
from geocalc.potentials.network import EnergyModel, NetworkPotential, Scales
from geocalc.train.recipe import Recipe
from geocalc.train.register import register_model
from geocalc.train.run import start_training
from geocalc.train.task import train

EXACT = 1e-9
HARMONICS = o3.Irreps.spherical_harmonics(2)
FEATURES = o3.Irreps("3x0e + 2x1o + 1x1e + 2x2e")
MESSAGES = o3.Irreps("2x0e + 3x1o + 2x2e + 1x0o")
N_ATOMS, N_RADIAL = 6, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_turn(seed: int = 0, mirror: bool = False) -> Tensor:
    """An orthogonal matrix."""
    q, _ = torch.linalg.qr(drawn(3, 3, seed=seed))
    q = q * torch.linalg.det(q)
    return -q if mirror else q


@contextmanager
def in_double() -> Iterator[None]:
    """e3nn computes its constants in the default type, and rounds them to it for good."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def wigner(irreps: o3.Irreps, turn: Tensor) -> Tensor:
    with in_double():
        return irreps.D_from_matrix(turn)


def turn_theta(theta: Theta, irreps: o3.Irreps, turn: Tensor) -> None:
    with torch.no_grad():
        theta.values.copy_(wigner(irreps, turn) @ theta.values)


def edges() -> EdgeIndex:
    """Edges of six atoms, of which the last has none."""
    pairs = [
        (i, j) for i in range(N_ATOMS - 1) for j in range(N_ATOMS - 1) if i != j and (i + j) % 4
    ]
    receivers, senders = torch.tensor(pairs).T.contiguous()
    return EdgeIndex.build(senders, receivers, N_ATOMS)


def filters(copies: int = 1, l_relaxed: int = 2, random: bool = True) -> RelaxedFilters:
    made = RelaxedFilters(HARMONICS, all_irreps(l_relaxed, copies)).double()
    if random:
        with torch.no_grad():
            made.theta.values.copy_(drawn(len(made.theta.values)))
    return made


def potential(policy: str = "none", **settings: object) -> NetworkPotential:
    """A float64 potential with random weights, but relaxed ones as they begin."""
    network = random_network(architecture="regnn", **settings).double()
    for _, theta in thetas(network):
        with torch.no_grad():
            theta.values.copy_(Theta(all_irreps(settings.get("l_relaxed", 2))).values)
    scales = Scales(energy=1.0, forces=1.0, references=torch.zeros(1, 119))
    return NetworkPotential(model=EnergyModel(network, scales, None), policy=frame_policy(policy))


def slab() -> Systems:
    return systems_of(rattled(adslab("CO", "fcc", size=(2, 2, 2)), 0.1))


def test_a_network_begins_equivariant() -> None:
    """The first of the checks, for rotations, reflections and the inversion."""
    chosen = potential()
    here = chosen(slab())
    for turn in (random_turn(1), random_turn(2, mirror=True), -torch.eye(3, dtype=torch.float64)):
        there = chosen(turned(slab(), turn.T))
        assert float((there.energy - here.energy).abs()) < EXACT
        assert float((there.forces - here.forces @ turn.T).abs().max()) < EXACT


def test_turning_relaxed_weights_along_turns_everything() -> None:
    """The second of the checks, on the network; without turning them along, energies change."""
    chosen = potential()
    for k, (_, theta) in enumerate(thetas(chosen.model.network)):
        with torch.no_grad():
            theta.values.add_(0.5 * drawn(len(theta.values), seed=k))
    here = chosen(slab())
    for turn in (random_turn(1), random_turn(2, mirror=True)):
        there = chosen(turned(slab(), turn.T))
        assert float((there.energy - here.energy).abs()) > 1e-3
        before = [theta.values.detach().clone() for _, theta in thetas(chosen.model.network)]
        for _, theta in thetas(chosen.model.network):
            turn_theta(theta, all_irreps(2), turn)
        there = chosen(turned(slab(), turn.T))
        assert float((there.energy - here.energy).abs()) < EXACT
        assert float((there.forces - here.forces @ turn.T).abs().max()) < EXACT
        for (_, theta), values in zip(thetas(chosen.model.network), before, strict=True):
            with torch.no_grad():
                theta.values.copy_(values)


def test_turning_relaxed_weights_along_turns_the_messages_of_a_layer() -> None:
    """The second of the checks, for features, messages and relaxed weights of every kind, two
    copies of each.
    """
    index, made = edges(), filters(copies=2)
    convolution = Convolution(FEATURES, made.irreps_out, MESSAGES, N_RADIAL).double()
    features, radial, vectors = (
        drawn(N_ATOMS, FEATURES.dim),
        drawn(len(index.senders), N_RADIAL),
        drawn(len(index.senders), 3),
    )

    def messages(turn: Tensor) -> Tensor:
        harmonics = o3.spherical_harmonics(HARMONICS, vectors @ turn.T, True, "component")
        return convolution(
            features @ wigner(FEATURES, turn).T, radial, harmonics, made(), index
        ).detach()

    here = messages(torch.eye(3, dtype=torch.float64))
    turn = random_turn(3, mirror=True)
    assert float((messages(turn) - here @ wigner(MESSAGES, turn).T).abs().max()) > 1e-2
    turn_theta(made.theta, all_irreps(2, 2), turn)
    assert float((messages(turn) - here @ wigner(MESSAGES, turn).T).abs().max()) < EXACT


@pytest.mark.slow
def test_no_breaking_in_the_data_gives_no_gradient_to_break() -> None:
    """The principle of Curie, the fourth of the checks: a loss over all 48 poses of a structure
    pushes 0e alone.
    """
    chosen = potential()
    chosen.model.requires_grad_(True)
    poses = [
        torch.tensor(signs, dtype=torch.float64)[:, None]
        * torch.eye(3, dtype=torch.float64)[list(order)]
        for order in permutations(range(3))
        for signs in product((1.0, -1.0), repeat=3)
    ]
    for pose in poses:
        found = chosen.model.network(_seen(chosen, turned(slab(), pose)))
        (found.energy - 1.0).square().sum().backward()
    for _, theta in thetas(chosen.model.network):
        scalar = torch.tensor(
            [block.is_scalar for block in theta.blocks for _ in range(block.copies * block.width)]
        )
        gradient = theta.values.grad.abs()
        size = float(gradient[scalar].max())
        assert size > 1e-6
        assert float(gradient[~scalar].max()) < 1e-12 * max(1.0, size)


def _seen(chosen: NetworkPotential, systems: Systems) -> object:
    from geocalc.graphs.strategies import make_graph
    from geocalc.potentials.network import posed

    graph = make_graph(systems, chosen.model.network.cutoff, None, chosen.model.graph)
    return posed(chosen.model, systems, graph, torch.zeros_like(systems.counts), chosen.policy)[0]


def test_a_single_pose_does_give_such_a_gradient() -> None:
    chosen = potential()
    chosen.model.requires_grad_(True)
    (chosen.model.network(_seen(chosen, slab())).energy - 1.0).square().sum().backward()
    first = next(theta for _, theta in thetas(chosen.model.network))
    assert float(first.values.grad[1:].abs().max()) > 1e-4


def test_filters_are_e3nn_s_tensor_product() -> None:
    made = filters(copies=2)
    paths = [
        (i, j, k, "uvw", True)
        for i, (_, degree) in enumerate(HARMONICS)
        for j, (_, relaxed) in enumerate(all_irreps(2, 2))
        for k, (_, out) in enumerate(made.irreps_out)
        if out in degree * relaxed
    ]
    with in_double():
        theirs = o3.TensorProduct(
            HARMONICS, all_irreps(2, 2), made.irreps_out, paths, path_normalization="none"
        )
    ours = {j: iter(getattr(made, f"weight_{j}").T) for j in range(len(all_irreps(2)))}
    with torch.no_grad():
        for _, path, view in theirs.weight_views(yield_instruction=True):
            view.copy_(next(ours[path.i_in2])[None, :, None] / math.sqrt(2))  # two copies of 0e
    assert [list(rest) for rest in ours.values()] == [[]] * 6
    harmonics = o3.spherical_harmonics(HARMONICS, drawn(4, 3), True, "component")
    expected = theirs(harmonics, made.theta.values.expand(4, -1))
    assert float((harmonics @ made() - expected).detach().abs().max()) < 1e-12
    assert float(expected.detach().abs().min()) > 0


@pytest.mark.parametrize("highest", [0, 1, 3])
def test_filters_begin_as_harmonics_times_numbers_of_unit_size(highest: int) -> None:
    torch.manual_seed(highest)
    natural = torch.tensor(
        [
            irrep in [one for _, one in HARMONICS]
            for _, irrep in filters(l_relaxed=highest).irreps_out
        ]
    )
    numbers = []
    for _ in range(60):
        made = filters(l_relaxed=highest, random=False)
        matrix = made().detach()
        places = [
            place for place, kept in zip(made.irreps_out.slices(), natural, strict=True) if kept
        ]
        assert torch.count_nonzero(matrix) == 9
        for place, there in zip(places, HARMONICS.slices(), strict=True):
            block = matrix[there, place]
            assert torch.allclose(block, block[0, 0] * torch.eye(len(block), dtype=torch.float64))
            numbers.append(float(block[0, 0]))
    assert torch.tensor(numbers).square().mean().sqrt() == pytest.approx(1.0, rel=0.2)


def test_the_convolution_is_e3nn_s_tensor_product_on_every_edge() -> None:
    index, made = edges(), filters(copies=2)
    convolution = Convolution(FEATURES, made.irreps_out, MESSAGES, N_RADIAL).double()
    features, radial = drawn(N_ATOMS, FEATURES.dim), drawn(len(index.senders), N_RADIAL, seed=1)
    harmonics = o3.spherical_harmonics(
        HARMONICS, drawn(len(index.senders), 3, seed=2), True, "component"
    )
    with in_double():
        theirs = o3.FullyConnectedTensorProduct(
            FEATURES, made.irreps_out, MESSAGES, shared_weights=False, internal_weights=False
        )
    weights, used = [], dict.fromkeys(product(range(len(FEATURES)), range(len(MESSAGES))), 0)
    for path in theirs.instructions:
        ends = (path.i_in1, path.i_out)
        ours = getattr(convolution, f"weight_{ends[0]}_{ends[1]}")
        into = next(
            i
            for b in convolution.blocks
            for i in b.into
            if (b.coupling, i.output) == (f"coupling_{ends[0]}", ends[1])
        )
        ours = ours.view(N_RADIAL, FEATURES[ends[0]].mul, into.n_paths, MESSAGES[ends[1]].mul)
        copies = made.irreps_out[path.i_in2].mul
        ours = ours[:, :, used[ends] : used[ends] + copies]
        used[ends] += copies
        weights.append(torch.einsum("ek,kuvw->euvw", radial, ours).flatten(1) / math.sqrt(N_RADIAL))
    messages = theirs(features[index.senders], harmonics @ made(), torch.cat(weights, 1))
    summed = torch.zeros(N_ATOMS, MESSAGES.dim, dtype=torch.float64).index_add(
        0, index.receivers, messages
    )
    ours = convolution(features, radial, harmonics, made(), index)
    assert float((ours - summed).detach().abs().max()) < 1e-12
    assert float(summed[:-1].detach().abs().min()) > 0
    assert bool((ours[-1] == 0).all())


def test_kinds_of_atoms_give_the_messages_of_their_atoms() -> None:
    """Also where relaxed weights couple all filters, and for an atom without neighbors."""
    index, made = edges(), filters(copies=2)
    scalars = o3.Irreps("3x0e")
    convolution = Convolution(scalars, made.irreps_out, MESSAGES, N_RADIAL).double()
    kinds = Kinds(drawn(2, 3), torch.tensor([0, 1, 1, 0, 1, 0]))
    radial = drawn(len(index.senders), N_RADIAL, seed=1)
    harmonics = o3.spherical_harmonics(
        HARMONICS, drawn(len(index.senders), 3, seed=2), True, "component"
    )
    rest = (radial, harmonics, made(), index)
    few, all_atoms = (
        convolution(features, *rest) for features in (kinds, kinds.features[kinds.of_atoms])
    )
    assert float((few - all_atoms).detach().abs().max()) < 1e-12
    assert float(few[:-1].detach().abs().min()) > 0


def test_messages_of_a_layer_have_about_unit_size() -> None:
    torch.manual_seed(0)
    layer = RelaxedLayer(
        FEATURES, FEATURES, filters(random=False).float(), 4, 16, 8, neighbors=N_ATOMS - 2
    ).double()
    index = edges()
    harmonics = o3.spherical_harmonics(HARMONICS, drawn(len(index.senders), 3), True, "component")
    basis, envelope = (
        drawn(len(index.senders), 4).abs(),
        torch.ones(len(index.senders), 1, dtype=torch.float64),
    )
    found = layer(drawn(N_ATOMS, FEATURES.dim), basis, envelope, harmonics, index)
    assert found.shape == (N_ATOMS, FEATURES.dim)
    assert 0.05 < float(found.detach().square().mean().sqrt()) < 5


def test_the_penalty_is_of_what_breaks_alone() -> None:
    theta = Theta(o3.Irreps("2x0e + 1x0o + 2x1o"))
    assert theta.values.tolist() == [1.0, 1.0] + [0.0] * 7
    assert float(theta.penalty().detach()) == 0.0
    theta.penalty().backward()
    assert theta.values.grad.tolist() == [0.0] * 9  # it is at rest where nothing is broken
    with torch.no_grad():
        theta.values.copy_(torch.tensor([5.0, 7.0, 2.0, 3.0, 0.0, 4.0, 0.0, 0.0, 0.0]))
    assert float(theta.penalty().detach()) == pytest.approx(2.0 + math.sqrt(3) * 5.0, abs=1e-5)
    assert [part.shape for part in theta.parts()] == [(2, 1), (1, 1), (2, 3)]
    assert [block.name for block in theta.blocks] == ["0e", "0o", "1o"]


def test_the_penalty_of_a_network_is_that_of_its_relaxed_weights() -> None:
    relaxed = random_network(architecture="regnn")
    wanted = sum(float(theta.penalty().detach()) for _, theta in thetas(relaxed))
    assert float(relaxed.penalty().detach()) == pytest.approx(wanted)
    assert wanted > 0
    for without in ("faenet", "schnet"):
        network = random_network(architecture=without)
        assert (float(network.penalty()), network.penalty().requires_grad) == (0.0, False)


def test_the_equivariant_twin_has_no_more_than_a_scale() -> None:
    twin, relaxed = (
        random_network(architecture="regnn", features="4x0e + 2x1o", l_relaxed=n) for n in (0, 2)
    )
    assert [block.name for _, theta in thetas(twin) for block in theta.blocks] == ["0e", "0e"]
    assert [block.name for block in next(iter(thetas(relaxed)))[1].blocks] == [
        "0e",
        "0o",
        "1e",
        "1o",
        "2e",
        "2o",
    ]
    weights = [
        sum(p.numel() for n, p in net.named_parameters() if "theta" not in n)
        for net in (twin, relaxed)
    ]
    assert weights[0] < weights[1] < 2 * weights[0]


def test_frames_of_the_cell_make_a_broken_network_turn_with_its_slab() -> None:
    broken = random_network(architecture="regnn").double()
    scales = Scales(energy=1.0, forces=1.0, references=torch.zeros(1, 119))
    turn = random_turn(4)
    for policy, same in (("none", False), ("single", True), ("averaged", True)):
        chosen = NetworkPotential(
            model=EnergyModel(broken, scales, None), policy=frame_policy(policy)
        )
        energies = [float(chosen(one).energy) for one in (slab(), turned(slab(), turn.T))]
        assert (abs(energies[0] - energies[1]) < EXACT) is same


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"features": "8x0e + up"},
            "irreps '8x0e + up' cannot be read; write copies, degree and parity, such as 16x0e",
        ),
        ({"features": "8x1o"}, "features '8x1o' have no 0e, which the energy needs"),
        (
            {"tag_hidden_channels": 60},
            "hidden_channels=64 leaves -26 channels for the element table",
        ),
        ({"l_relaxed": 0}, "no message 0o can be made of features 6x0e"),
    ],
)
def test_settings_that_make_no_network_are_one_sentence(
    settings: dict[str, object], told: str
) -> None:
    with pytest.raises(InputError) as caught:
        random_network(architecture="regnn", **settings)
    assert told in str(caught.value)


def recipe(data: Path, **training: object) -> Recipe:
    values = recipe_values(data, **{"frames": "single", **training})
    values["model"] |= {"architecture": "regnn", "settings": SMALL_RELAXED, "frames": "single"}
    return Recipe.parse(values, "test")


@pytest.mark.slow
def test_it_trains_registers_and_calculates(tmp_path: Path) -> None:
    chosen = recipe(write_data(tmp_path / "d.traj"), penalty_weight=1e-3)
    run = train(chosen, tmp_path / "run", tmp_path / "data", cpu_fabric())
    # from its checkpoint
    again = train(recipe(tmp_path / "d.traj", steps=14), run, tmp_path / "data", cpu_fabric())
    atoms = relaxation("x", n_frames=1, seed=9)[0]
    atoms.calc = GeoCalc(register_model(again, "mine", tmp_path / "models", tmp_path / "data"))
    assert math.isfinite(atoms.get_potential_energy())
    assert atoms.get_forces().shape == (len(atoms), 3)


@pytest.mark.slow
def test_relaxed_weights_are_pulled_by_their_penalty_and_by_no_decay(tmp_path: Path) -> None:
    data = write_data(tmp_path / "d.traj")
    sizes = []
    for weight in (0.0, 3.0):
        chosen = recipe(
            data, penalty_weight=weight, steps=12, learning_rate=0.02, warmup_fraction=0.0
        )
        samples = read_store(prepare_store(chosen, tmp_path / "data"))
        run = start_training(chosen, samples.training)
        assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.01, 0.0]
        assert len(run.optimizer.param_groups[1]["params"]) == 2
        folder = train(chosen, tmp_path / f"run-{weight}", tmp_path / "data", cpu_fabric())
        from geocalc.train.checkpoint import load_checkpoint

        load_checkpoint(folder / "checkpoint", run.model.network, run.optimizer, run.average)
        sizes.append(float(run.model.network.penalty().detach()))
    assert sizes[1] < 0.5 * sizes[0]


def test_the_penalty_follows_its_schedule() -> None:
    training = make_recipe(
        Path("d.traj"), steps=5, penalty_weight=1.0, penalty_weight_end=0.0
    ).training
    assert [training.penalty_weight_at(step) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({}, "faenet with these settings has no penalty"),
        (
            {
                "architecture": "regnn",
                "settings": {**SMALL_RELAXED, "l_relaxed": 0, "features": "6x0e + 4x1o"},
                "frames": "single",
            },
            "regnn with these settings has no penalty",
        ),
    ],
)
def test_a_penalty_that_a_network_does_not_have_is_refused(
    tmp_path: Path, model: dict[str, object], named: str
) -> None:
    from helpers.training import write_recipe

    from geocalc.train.recipe import read_recipe

    values = recipe_values(tmp_path / "d.traj", penalty_weight_end=0.1)
    values["model"] |= model
    path = write_recipe(tmp_path / "r.yaml", values)
    with pytest.raises(RecipeError, match=named):
        read_recipe(path)
