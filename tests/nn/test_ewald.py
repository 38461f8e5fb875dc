"""Ewald message passing against direct sums in real space, and what its filters promise."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from helpers.models import random_network, random_potential, write_model
from helpers.structures import adslab, cloud, rattled, systems_of
from torch import Tensor

from geocalc.architectures import ARCHITECTURES, SchNet, SchNetSettings
from geocalc.architectures.ensemble import Ensemble
from geocalc.core.systems import Systems, select
from geocalc.errors import InputError, RecipeError
from geocalc.frames import frame_policy
from geocalc.graphs.neighbors import build_graph
from geocalc.nn.ewald.blocks import EwaldFilter, pair_messages, plane_messages
from geocalc.nn.ewald.indices import indices_in_box, indices_within
from geocalc.nn.ewald.waves import EwaldSettings, Waves, make_waves, sinc, voxel_window
from geocalc.potentials.load import load_model
from geocalc.potentials.network import EnergyModel, ForceMode, NetworkPotential, Scales, evaluate

AGREEMENT = 1e-8  # of messages with sums in real space; features are near one
EXACT = 1e-9  # eV; rounding is at 1e-13
WIDTH = 0.5  # a of the Gaussian exp(-a r^2), 1/Angstrom^2
FINE = EwaldSettings(k_cutoff=8.0, delta_k=0.25)  # the Gaussian is 1e-14 there
# cells in each direction; the smallest is 2 Angstrom wide, and the Gaussian at 10 Angstrom 1e-22
IMAGES = 5


def waves_of(systems: Systems, settings: EwaldSettings = FINE) -> Waves:
    return make_waves(systems.positions, systems.cell, systems.system_idx, systems.pbc, settings)


def values_of(systems: Systems) -> Tensor:
    """One feature for each atom, (n_atoms, 1)."""
    return torch.randn(
        (systems.n_atoms, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def gaussian_messages(waves: Waves, values: Tensor) -> Tensor:
    """Messages (n_atoms, 1) through the filter exp(-k^2 / 4a) (pi / a)^(3/2), which is exp(-a r^2)
    in real space.
    """
    up, total = torch.ones(1, 1, dtype=torch.float64), torch.zeros_like(values)
    for part in (waves.plane, waves.pairs):
        if part is None:
            continue
        low = (part.weights * (np.pi / WIDTH) ** 1.5 * torch.exp(-(part.lengths**2) / (4 * WIDTH)))[
            :, :, None
        ]
        if part is waves.plane:
            total = total + plane_messages(part.layout, part.cosines, part.sines, low)(values, up)
        else:
            total = total + pair_messages(
                part.layout, torch.einsum("sijk,kd->sdij", part.waves, low[0])
            )(values, up)
    return total


def real_space_sum(atoms: Atoms, values: np.ndarray) -> np.ndarray:
    """The sum over atoms j and periodic images of g_j exp(-a r^2), for each atom, (n_atoms,)."""
    total = np.zeros(len(atoms))
    for image in product(*(range(-IMAGES, IMAGES + 1) if on else (0,) for on in atoms.pbc)):
        between = (
            atoms.positions[:, None] - atoms.positions[None] + np.array(image) @ atoms.cell.array
        )
        total += np.exp(-WIDTH * (between**2).sum(2)) @ values
    return total


def crystals() -> list[Atoms]:
    """Cells of one atom, of two, triclinic ones, a left-handed one."""
    triclinic = Atoms("CuOH", cell=[[3.1, 0.2, 0], [1.4, 2.8, -0.3], [-0.5, 0.9, 3.6]], pbc=True)
    triclinic.positions = np.random.default_rng(0).normal(scale=2, size=(3, 3))
    mirrored = triclinic.copy()
    mirrored.set_cell(np.diag([1, 1, -1]) @ mirrored.cell.array)
    return [bulk("Cu"), rattled(bulk("NaCl", "rocksalt", a=4.4), 0.2), triclinic, mirrored]


def slabs() -> list[Atoms]:
    """Slabs whose third vector is long, missing, or the first of the cell, and oblique; one of a
    single layer.
    """
    slab = rattled(adslab("CO", size=(1, 1, 2)), 0.1)
    flat, turned, layer = slab.copy(), slab.copy(), adslab("", size=(1, 2, 1))
    flat.cell[2] = 0
    turned.set_cell(turned.cell.array[[2, 0, 1]])
    turned.pbc = (False, True, True)
    turned.rotate(37, (1.0, 2.0, 0.5), rotate_cell=True)
    return [slab, flat, turned, layer]


def test_crystals_equal_the_lattice_sum_without_its_mean() -> None:
    structures = crystals()
    systems = systems_of(*structures)
    values = values_of(systems)
    found = gaussian_messages(waves_of(systems), values)[:, 0].split(systems.counts.tolist())
    for atoms, one, given in zip(
        structures, found, values[:, 0].split(systems.counts.tolist()), strict=True
    ):
        mean = (np.pi / WIDTH) ** 1.5 / atoms.get_volume() * float(given.sum())  # k = 0
        expected = real_space_sum(atoms, given.numpy()) - mean
        assert np.abs(one.numpy() - expected).max() < AGREEMENT
        assert np.abs(expected).max() > 0.01


def window_of(atoms: Atoms, delta_k: float) -> np.ndarray:
    """The mean of exp(i q z) over the voxel for each atom of a slab, z from the mean height."""
    first, second = atoms.cell.array[atoms.pbc]
    normal = np.cross(first, second)
    height = atoms.positions @ normal / np.linalg.norm(normal)
    x = delta_k * (height - height.mean()) / 2
    return np.where(x == 0, 1.0, np.sin(x) / np.where(x == 0, 1.0, x))


def test_slabs_equal_the_lattice_sum_in_the_plane() -> None:
    structures = slabs()
    systems = systems_of(*structures)
    window = torch.from_numpy(
        np.concatenate([window_of(atoms, FINE.delta_k) for atoms in structures])
    )[:, None]
    values = values_of(systems)
    found = (gaussian_messages(waves_of(systems), values / window) / window)[:, 0].split(
        systems.counts.tolist()
    )
    for atoms, one, given in zip(
        structures, found, values[:, 0].split(systems.counts.tolist()), strict=True
    ):
        assert np.abs(one.numpy() - real_space_sum(atoms, given.numpy())).max() < AGREEMENT


def test_molecules_equal_the_sum_over_pairs() -> None:
    structures = [molecule("CH3CH2OH"), cloud(), Atoms("H")]
    systems = systems_of(*structures)
    values, start = values_of(systems), 0
    waves = waves_of(systems)
    found = gaussian_messages(waves, values)[:, 0].numpy()
    spacing = float(waves.pairs.lengths[0, 0])
    for atoms in structures:
        rows = slice(start, start := start + len(atoms))
        between = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None], axis=2)
        kernel = np.exp(-WIDTH * between**2) * np.sinc(spacing * between / 2 / np.pi)
        assert np.abs(found[rows] - kernel @ values[rows, 0].numpy()).max() < AGREEMENT


def grid_messages(atoms: Atoms, values: np.ndarray, delta_k: float) -> np.ndarray:
    """The published sum over a cubic grid of k, with the window of each axis, for one structure."""
    axis = delta_k * np.arange(-int(5 / delta_k), int(5 / delta_k) + 1)
    vectors = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    weights = (
        (np.pi / WIDTH) ** 1.5
        * np.exp(-(vectors**2).sum(1) / (4 * WIDTH))
        * (delta_k / (2 * np.pi)) ** 3
    )
    place = atoms.positions - atoms.positions.mean(0)
    window = np.sinc(delta_k * place / 2 / np.pi).prod(1)
    waves = np.exp(1j * place @ vectors.T) * window[:, None]
    return ((waves * weights) @ (waves.conj().T @ values)).real


def test_the_published_grid_tends_to_the_mean_over_directions() -> None:
    atoms = cloud(4)
    values = values_of(systems_of(atoms))[:, 0].numpy()
    ours = gaussian_messages(
        waves_of(systems_of(atoms), EwaldSettings(k_cutoff=8.0, delta_k=0.002)),
        values_of(systems_of(atoms)),
    )
    errors = [
        np.abs(grid_messages(atoms, values, delta_k) - ours[:, 0].numpy()).max()
        for delta_k in (0.4, 0.2)
    ]
    assert errors[1] < 0.03
    assert 3.5 < errors[0] / errors[1] < 4.5  # of second order in the spacing


def test_the_window_is_the_mean_over_a_voxel_and_the_published_one_is_not() -> None:
    delta_k, x = 0.2, torch.linspace(-9, 9, 7, dtype=torch.float64)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    mean = torch.from_numpy((np.cos(delta_k / 2 * nodes * x.numpy()[:, None]) * weights).sum(1) / 2)
    assert torch.allclose(voxel_window(x, delta_k), mean, rtol=0, atol=1e-14)
    published = torch.sinc(delta_k * x / 2)
    assert torch.allclose(published, voxel_window(np.pi * x, delta_k), rtol=0, atol=1e-14)
    assert float((published - mean).abs().max()) > 0.5
    # an atom 10 Angstrom away is silent
    assert float(torch.sinc(torch.tensor(delta_k * 10 / 2))) < 1e-7
    assert float(voxel_window(torch.tensor(10.0), delta_k)) > 0.8


def test_the_sinc_and_its_derivatives_are_right_at_zero_and_where_the_series_ends() -> None:
    squared = torch.tensor(
        [0.0, 1e-12, 0.3, 1 - 1e-13, 1.0, 40.0], dtype=torch.float64, requires_grad=True
    )
    x = squared.detach().sqrt()
    assert torch.allclose(sinc(squared).detach(), torch.sinc(x / np.pi), rtol=0, atol=1e-15)
    (slope,) = torch.autograd.grad(sinc(squared).sum(), squared, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), squared)
    assert float(slope[0].detach()) == pytest.approx(-1 / 6, abs=1e-15)
    assert float(curve[0]) == pytest.approx(1 / 60, abs=1e-15)
    assert float((slope[3] - slope[4]).detach()) == pytest.approx(0, abs=1e-12)
    assert float(curve[3] - curve[4]) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "atoms",
    [crystals()[1], slabs()[3], rattled(slabs()[1]), cloud(3)],
    ids=["cell", "layer", "slab", "molecule"],
)
def test_messages_can_be_differentiated_twice(atoms: Atoms) -> None:
    systems = systems_of(atoms)
    values = values_of(systems)

    def messages(positions: Tensor, cell: Tensor) -> Tensor:
        waves = make_waves(
            positions,
            cell,
            systems.system_idx,
            systems.pbc,
            EwaldSettings(k_cutoff=2.0, delta_k=0.8),
        )
        return gaussian_messages(waves, values)

    given = systems.positions.clone().requires_grad_(), systems.cell.clone().requires_grad_()
    assert torch.autograd.gradcheck(messages, given)
    assert torch.autograd.gradgradcheck(messages, given)


def test_indices_are_half_of_the_published_box() -> None:
    assert [len(indices_in_box(grid)) for grid in ((1, 1, 3), (2, 2, 5))] == [31, 137]
    indices = indices_in_box((1, 1, 3))
    everything = {tuple(row) for row in np.concatenate([indices, -indices])}
    assert len(everything) == 62
    assert (0, 0, 0) not in everything


def skewed(atoms: Atoms, basis: object) -> Systems:
    """The same crystal with other lattice vectors: an integer matrix of determinant 1 or -1 times
    the old ones.
    """
    copy = atoms.copy()
    copy.set_cell(np.array(basis) @ copy.cell.array)
    return systems_of(copy)


def crystal() -> Atoms:
    atoms = Atoms("Cu3OH", cell=[[4.4, 0.2, 0], [1.4, 3.9, -0.3], [-0.5, 0.9, 6.6]], pbc=True)
    atoms.positions = np.random.default_rng(1).uniform(size=(5, 3)) @ atoms.cell.array
    return atoms


BASES = {
    "cyclic": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    "swapped": [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
    "left-handed": [[1, 0, 0], [0, -1, 0], [0, 0, 1]],
    "unimodular": [[1, 2, -1], [0, 1, 3], [0, 0, 1]],
}


@pytest.mark.parametrize("basis", BASES.values(), ids=list(BASES))
@pytest.mark.parametrize("architecture", ["faenet", "schnet"])
def test_the_radial_filter_reads_the_crystal_and_not_the_choice_of_its_cell(
    architecture: str, basis: list[list[int]]
) -> None:
    chosen = random_potential("none", architecture=architecture, ewald={"k_cutoff": 2.5})
    one, other = chosen(systems_of(crystal())), chosen(skewed(crystal(), basis))
    assert float((one.energy - other.energy).abs()) < EXACT
    assert float((one.forces - other.forces).abs().max()) < EXACT


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 3)])
@pytest.mark.parametrize("architecture", ["faenet", "schnet"])
def test_a_supercell_along_any_vector_is_as_many_cells(
    architecture: str, repeats: tuple[int, int, int]
) -> None:
    chosen = random_potential("none", architecture=architecture, ewald={"k_cutoff": 2.5})
    one, many = chosen(systems_of(crystal())), chosen(systems_of(crystal().repeat(repeats)))
    n = int(np.prod(repeats))
    assert float((n * one.energy - many.energy).abs()) < n * EXACT
    assert float((one.forces.repeat(n, 1) - many.forces).abs().max()) < EXACT


def test_the_published_filter_reads_the_choice_of_the_cell() -> None:
    chosen = random_potential("none", architecture="schnet", ewald={"filter": "index"})
    expected = float(chosen(systems_of(crystal())).energy)
    for basis in (BASES["cyclic"], BASES["unimodular"]):
        assert abs(float(chosen(skewed(crystal(), basis)).energy) - expected) > 1e-4
    assert abs(float(chosen(systems_of(crystal().repeat((2, 1, 1)))).energy) - 2 * expected) > 1e-4


def test_the_published_filter_is_a_weight_for_each_index() -> None:
    systems = systems_of(crystal())
    shared = EwaldFilter(EwaldSettings(filter="index", grid=(1, 0, 1), down_size=2)).double()
    values, up = (
        values_of(systems).expand(-1, 3).contiguous(),
        torch.tensor([[0.3, -1.0], [0.5, 0.2], [0.0, 2.0]], dtype=torch.float64),
    )
    found = shared(waves_of(systems, EwaldSettings(filter="index", grid=(1, 0, 1))))(
        values, up
    ).detach()
    expected = torch.zeros_like(found)
    reciprocal = 2 * np.pi * torch.linalg.inv(systems.cell[0]).T
    for n, index in enumerate([(0, 0, 1), (1, 0, -1), (1, 0, 0), (1, 0, 1)]):
        phase = systems.positions @ (torch.tensor(index, dtype=torch.float64) @ reciprocal)
        factor = (torch.exp(-1j * phase)[:, None] * values).sum(0)
        weight = up @ shared.down.weight[:, n].detach()
        expected += 0.01 * (torch.exp(1j * phase)[:, None] * factor).real * weight
    assert float((found - expected).abs().max()) < 1e-12


@pytest.mark.parametrize("architecture", ["faenet", "schnet"])
@pytest.mark.parametrize(
    "pbc", [(False, False, False), (True, True, False), (True, True, True)], ids=str
)
def test_molecules_beyond_the_cutoff_feel_each_other_with_ewald_alone(
    architecture: str, pbc: tuple[bool, ...]
) -> None:
    pair = Atoms(
        "OHCO",
        positions=[(0, 0, 0), (0.97, 0, 0), (9, 0, 0.2), (10.1, 0.1, 0)],
        cell=(24, 8, 8),
        pbc=pbc,
    )

    def pull(ewald: dict[str, object] | None) -> float:
        """Net force on the first molecule."""
        forces = random_potential("none", architecture=architecture, ewald=ewald)(
            systems_of(pair)
        ).forces
        assert float(forces.abs().max()) > 1e-3
        return float(forces[:2].sum(0).norm())

    assert pull(None) < 1e-12
    assert pull({}) > 1e-5


def test_slabs_need_no_third_vector_and_molecules_no_cell() -> None:
    chosen = random_potential("averaged", ewald={})
    slab, gas = adslab("O", size=(1, 2, 2)), cloud()
    bare, boxed = slab.copy(), gas.copy()
    bare.cell[2] = 0
    boxed.set_cell((20, 20, 20))
    one, other = chosen(systems_of(slab, boxed)), chosen(systems_of(bare, gas))
    assert float((one.energy - other.energy).abs().max()) < EXACT
    assert float((one.forces - other.forces).abs().max()) < EXACT


def test_a_long_vacuum_tends_to_none() -> None:
    """With three periodic vectors k gets dense along the vacuum, and the sum over it tends to the
    same integral.
    """
    chosen = random_potential("none", architecture="schnet", ewald={"delta_k": 0.02})
    slab, errors = adslab("O", size=(1, 2, 2)), []
    expected = float(chosen(systems_of(slab)).energy)
    slab.pbc = True
    for height in (100.0, 400.0):
        slab.set_cell([*slab.cell.array[:2], (0, 0, height)])
        errors.append(abs(float(chosen(systems_of(slab)).energy) - expected))
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < 0.01


def wire() -> Atoms:
    return Atoms("Cu", cell=(2.5, 0, 0), pbc=(True, False, False))


@pytest.mark.parametrize(
    ("atoms", "ewald", "sentence"),
    [
        (
            wire(),
            {},
            "structure 1 is periodic along a only, which Ewald message passing does not support",
        ),
        (
            adslab(),
            {"filter": "index"},
            (
                "structure 1 is periodic along a, b; the indexed Ewald filter needs three periodic"
                " vectors"
            ),
        ),
        (
            cloud(),
            {"filter": "index"},
            "structure 1 is periodic along no vector; the indexed Ewald filter",
        ),
        (
            Atoms("Cu", cell=(150, 150, 150), pbc=True),
            {"k_cutoff": 3.0},
            "so large or flat that it needs 3e+06 waves up to k_cutoff=3 1/Å",
        ),
    ],
)
def test_structures_without_waves_are_refused(
    atoms: Atoms, ewald: dict[str, object], sentence: str
) -> None:
    chosen = random_potential("none", architecture="schnet", ewald=ewald)
    with pytest.raises(InputError, match=re.escape(sentence)):
        chosen(systems_of(bulk("Cu"), atoms))


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False)])
def test_cells_without_volume_are_refused(pbc: tuple[bool, ...]) -> None:
    flat = Atoms("Cu", cell=[(3, 0, 0), (6, 0, 0), (0, 0, 5)], pbc=pbc)
    with pytest.raises(InputError, match="linearly dependent"):
        waves_of(systems_of(bulk("Cu"), flat))


@pytest.mark.parametrize(
    ("ewald", "sentence"),
    [
        ({"k_cutof": 1.0}, "unknown key `ewald.k_cutof`; did you mean `k_cutoff`?"),
        ({"filter": "sinc"}, "`ewald.filter` is 'sinc': input should be 'radial' or 'index'"),
        ({"k_cutoff": 0.0}, "`ewald.k_cutoff` is 0.0: input should be greater than 0"),
        ({"grid": (0, 0, 0)}, "grid must have at least one index above 0, such as (1, 1, 3)"),
        ({"grid": (1, 1)}, "`ewald.grid"),
    ],
)
@pytest.mark.parametrize("architecture", ["faenet", "schnet"])
def test_wrong_settings_are_told_in_a_sentence(
    architecture: str, ewald: dict[str, object], sentence: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        ARCHITECTURES[architecture].settings.parse({"ewald": ewald}, "settings")


def test_a_network_without_waves_says_where_they_come_from() -> None:
    with pytest.raises(InputError, match="got no waves"):
        EwaldFilter(EwaldSettings())(None)


def test_waves_are_made_once_for_all_frames_and_found_once_for_all_steps() -> None:
    """Layers share what `EwaldFilter` returns; frames share the waves of their structure; steps,
    the indices of a cell.
    """
    indices_within.cache_clear()
    chosen = random_potential("averaged", ewald={"k_cutoff": 1.3})
    systems = systems_of(rattled(adslab("O", size=(1, 2, 2))), rattled(crystal()))
    for shift in (0.0, 0.1, 0.2):
        chosen(replace(systems, positions=systems.positions + shift * systems.positions.sin()))
    assert indices_within.cache_info().misses == 2
    assert indices_within.cache_info().hits == 4
    waves = waves_of(systems, EwaldSettings())
    owner = torch.tensor([0, 0, 1, 1, 1])
    copies = waves.copies(
        owner, torch.repeat_interleave(torch.arange(5), systems.counts[owner]), torch.float32
    )
    assert torch.equal(copies.plane.cosines, waves.plane.cosines.float()[owner])
    assert torch.equal(copies.plane.layout.counts, systems.counts[owner])


def test_every_weight_learns_from_energies_and_forces() -> None:
    systems = systems_of(rattled(adslab("CO", size=(1, 2, 2))), rattled(crystal()), cloud())
    for architecture, policy in (("faenet", "averaged"), ("schnet", "none")):
        model = random_potential(policy, architecture=architecture, ewald={}).model.requires_grad_(
            True
        )
        graph = build_graph(systems, model.network.cutoff)
        levels = torch.zeros_like(systems.counts)
        found = evaluate(
            model, systems, graph, levels, frame_policy(policy), ForceMode.GRADIENT, training=True
        )
        ((found.energy - 1).pow(2).sum() + (found.forces - 0.1).pow(2).sum()).backward()
        slopes = {
            name: weight.grad for name, weight in model.network.named_parameters() if "long" in name
        }
        assert len(slopes) == 1 + 2 * (2 + 1 + 1 + 2 * 3)
        assert all(
            float(slope.abs().max()) > 0 and bool(torch.isfinite(slope).all())
            for slope in slopes.values()
        )


def test_an_ensemble_hands_its_waves_to_every_member() -> None:
    networks = [random_network(seed, "schnet", ewald={}).double() for seed in (1, 2)]
    scales = Scales(energy=1.0, forces=1.0, references=torch.zeros(1, 119))
    systems = systems_of(crystal(), cloud())

    def energies(network: object) -> Tensor:
        model = EnergyModel(network, scales, None).requires_grad_(False)
        return NetworkPotential(model=model, policy=frame_policy("none"))(systems).energy

    expected = torch.stack([energies(network) for network in networks]).mean(0)
    assert torch.allclose(energies(Ensemble(networks).double()), expected, rtol=0, atol=1e-12)


def test_a_network_without_ewald_has_no_part_of_it() -> None:
    for architecture in ("faenet", "schnet"):
        plain, long = (
            random_network(architecture=architecture),
            random_network(architecture=architecture, ewald={}),
        )
        assert plain.reciprocal is None
        extra = set(long.state_dict()) - set(plain.state_dict())
        assert {name.split(".")[0] for name in extra} == {"long_filter", "long_blocks"}


def charged(n_structures: int) -> tuple[Systems, Tensor]:
    """Cells of 9 Angstrom with two charges of each sign, all further apart than 2.5 Angstrom, and
    their energies of Coulomb.

    Energies of Gaussian charges by Ewald's sum, in units of their standard deviation, mean zero.
    """
    rng, side, structures, energies = np.random.default_rng(0), 9.0, [], []
    index = np.array([n for n in product(range(-4, 5), repeat=3) if any(n)])
    waves = 2 * np.pi / side * index
    squared = (waves**2).sum(1)
    while len(structures) < n_structures:
        atoms = Atoms(
            "Na2Cl2", positions=rng.uniform(high=side, size=(4, 3)), cell=[side] * 3, pbc=True
        )
        if atoms.get_all_distances(mic=True)[np.triu_indices(4, 1)].min() > 2.5:
            factor = np.exp(1j * atoms.positions @ waves.T).T @ [1, 1, -1, -1]
            structures.append(atoms)
            energies.append((np.exp(-squared) / squared * np.abs(factor) ** 2).sum())
    found = torch.tensor(np.array(energies))
    return systems_of(*structures), (found - found.mean()) / found.std()


@pytest.mark.slow
def test_a_network_learns_charges_beyond_its_cutoff() -> None:
    systems, expected = charged(96)
    ewald = EwaldSettings(k_cutoff=2.0, num_hidden=1)
    sizes = {
        "cutoff": 2.4,
        "hidden_channels": 16,
        "num_filters": 4,
        "num_interactions": 2,
        "num_gaussians": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, plain = (
            SchNet(SchNetSettings(**sizes, ewald=choice)).double() for choice in (ewald, None)
        )
    known = torch.arange(96) < 64
    seen, unseen = select(systems, systems, known), select(systems, systems, ~known)
    # it sees no difference, so it could learn none
    assert float(energies_of(plain, systems).std().detach()) < 1e-12
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 100)
        optimizer.zero_grad()
        (energies_of(network, seen) - expected[known]).pow(2).mean().backward()
        optimizer.step()
    error = (energies_of(network, unseen) - expected[~known]).detach()
    assert float(error.pow(2).mean().sqrt()) < 0.5


def energies_of(network: SchNet, systems: Systems) -> Tensor:
    """Differentiable by the weights, in units of the network."""
    model = EnergyModel(
        network, Scales(energy=1.0, forces=1.0, references=torch.zeros(1, 119)), None
    )
    graph, levels = build_graph(systems, network.cutoff), torch.zeros_like(systems.counts)
    return evaluate(
        model, systems, graph, levels, frame_policy("none"), ForceMode.NONE, training=True
    ).energy


def test_a_model_folder_keeps_its_ewald_settings(tmp_path: Path) -> None:
    folder = write_model(tmp_path, settings={"ewald": {"k_cutoff": 1.5, "num_hidden": 1}})
    double, single = (
        load_model(folder, device="cpu", dtype=dtype).potential for dtype in ("float64", "float32")
    )
    assert double.model.network.reciprocal == EwaldSettings(k_cutoff=1.5, num_hidden=1)
    systems = systems_of(
        rattled(adslab("CO", size=(1, 2, 2))), molecule("CH3CH2OH"), rattled(bulk("Cu", cubic=True))
    )
    assert float((double(systems).energy - single(systems).energy).abs().max()) < 1e-4
    bare = write_model(tmp_path, "bare")
    assert (
        float(
            (double(systems).energy - load_model(bare, device="cpu").potential(systems).energy)
            .abs()
            .min()
        )
        > 1e-3
    )
