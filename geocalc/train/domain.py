"""The domain of a trained model, from the structures that it was trained on and those held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from geocalc.core.elements import N_ELEMENTS
from geocalc.data.collate import collate_samples
from geocalc.data.settings import Data
from geocalc.data.store import Sample, Samples
from geocalc.graphs.neighbors import build_graph, edge_vectors
from geocalc.potentials.domain import Domain, domain_tensors, find_bonds
from geocalc.potentials.level_domain import LevelDomain, level_tensors
from geocalc.potentials.network import NetworkPotential

BATCH = 16  # structures computed together
N_TRAINING, N_HELD_OUT = 2500, 600  # structures whose features are looked at, at most
N_BONDED = 20000  # structures whose bonds are looked at, at most
N_ATOMS = 5000  # of an element that prototypes are chosen from, at most
N_PROTOTYPES = 128  # of an element
N_COORDINATES = 16
FEW = 30  # held-out atoms of an element; with fewer the training atoms tell its scale
ATOM_QUANTILE = 0.99  # of the distances of an element's atoms, its scale
# of held-out structures that are to be green, as a share
GREEN_SHARE = 0.96


@dataclass(frozen=True)
class _Atoms:
    """Features (n_atoms, width), atomic numbers (n_atoms,) and structures (n_atoms,) of atoms."""

    features: Tensor
    numbers: Tensor
    owner: Tensor


def known_samples(samples: Samples, data: Data) -> Samples:
    """The samples of those sources that count as known, see `DataSource.domain`."""
    known = np.array([source.domain for source in data.sources])
    return samples.where(known[samples.sample_index.source])


def make_domains(
    potential: NetworkPotential, training: Samples, held_out: Samples, levels: Sequence[int]
) -> dict[str, Tensor]:
    """Describe what a model has learned from at each of its levels, as tensors for a file.

    Args:
        potential, training, held_out: see `make_domain`.
        levels: number of the level of each source.
    """
    n_levels = potential.model.network.n_levels
    if n_levels == 1:
        return domain_tensors(make_domain(potential, training, held_out))
    found, bonded = [], _bonds_of(training, potential)  # bonds are the same at each level
    for level in range(n_levels):
        there = replace(potential, level=level)
        own, own_held_out = (_at_level(some, levels, level) for some in (training, held_out))
        found.append(
            LevelDomain(
                own=make_domain(there, own, own_held_out if len(own_held_out) else own),
                whole=_domain(there, training, held_out, bonded),
            )
        )
    return level_tensors(found)


def _at_level(samples: Samples, levels: Sequence[int], level: int) -> Samples:
    """The samples of one level."""
    return samples.where(np.asarray(levels)[samples.sample_index.source] == level)


def make_domain(potential: NetworkPotential, training: Samples, held_out: Samples) -> Domain:
    """Describe what a model has learned from.

    Args:
        potential: the trained model.
        training: structures it was trained on; some are chosen at random, one of each relaxation
            first.
        held_out: structures like them that it was not trained on; they set the edge of the domain.
    """
    return _domain(potential, training, held_out, _bonds_of(training, potential))


def _domain(
    potential: NetworkPotential, training: Samples, held_out: Samples, bonded: _Bonded
) -> Domain:
    """The domain of structures whose bonds are known."""
    seen = _atoms_of(potential, _some(training, N_TRAINING))
    others = _atoms_of(potential, _some(held_out, N_HELD_OUT))
    projection = _projection(seen)
    chosen, owners = _prototypes(seen.features @ projection, seen.numbers)
    domain = Domain(
        projection=projection,
        prototypes=chosen,
        elements=owners,
        scales=torch.full((N_ELEMENTS + 1,), torch.inf),
        bonds=bonded.bonds,
        bonds_of_atoms=bonded.of_atoms,
        hosts=bonded.hosts,
        molecules=bonded.molecules,
    )
    return _scaled(domain, seen, others)


@dataclass(frozen=True)
class _Bonded:
    """Facts about bonds; as those of a `Domain`."""

    bonds: Tensor
    of_atoms: Tensor
    hosts: Tensor
    molecules: Tensor


def _bonds_of(training: Samples, potential: NetworkPotential) -> _Bonded:
    """Facts about the bonds of training structures."""
    samples, cutoff = _some(training, N_BONDED), potential.model.network.cutoff
    bonds = torch.zeros(N_ELEMENTS + 1, N_ELEMENTS + 1, dtype=torch.bool)
    hosts, atoms, molecules = bonds.clone(), [], []
    for start in range(0, len(samples), BATCH):
        some = [samples[k] for k in range(start, min(start + BATCH, len(samples)))]
        systems = collate_samples(some)[0]
        graph = build_graph(systems, cutoff)
        vectors = edge_vectors(systems.positions, systems.cell, systems.system_idx, graph)
        found = find_bonds(systems, graph, vectors)
        bonds[found.first, found.second] = True
        hosts[found.first[found.hosts], found.second[found.hosts]] = True
        atoms.append(found.of_atoms[found.of_atoms > 0].unique())
        molecules.append(found.molecules[found.molecules > 0].unique())
    return _Bonded(bonds, torch.cat(atoms).unique(), hosts, torch.cat(molecules).unique())


def _some(samples: Samples, most: int) -> Samples:
    """At most so many samples, spread over relaxations."""
    index = samples.sample_index
    rng = np.random.default_rng(0)
    order = rng.permutation(len(samples))
    # the first sample of each relaxation in a random order, then the second ones, and so on
    rank, counts = np.empty(len(samples), dtype=int), dict[int, int]()
    for k in order:
        relaxation = int(index.relaxation[k])
        rank[k] = counts[relaxation] = counts.get(relaxation, -1) + 1
    chosen = order[np.argsort(rank[order], kind="stable")][:most]
    return samples.where(np.sort(chosen))


def _atoms_of(potential: NetworkPotential, samples: Sequence[Sample]) -> _Atoms:
    """Features of all atoms of some structures."""
    found = []
    for start in range(0, len(samples), BATCH):
        some = [samples[k] for k in range(start, min(start + BATCH, len(samples)))]
        near = potential.surroundings(collate_samples(some)[0])
        parts = (near.features.float(), near.systems.numbers, near.systems.system_idx + start)
        found.append([part.cpu() for part in parts])
    return _Atoms(*(torch.cat(column) for column in zip(*found, strict=True)))


def _projection(seen: _Atoms) -> Tensor:
    """Principal axes (width, k) of how features vary among atoms of one element, each scaled to a
    variance of 1.
    """
    total = torch.zeros(N_ELEMENTS + 1, seen.features.shape[1], dtype=torch.float64)
    total.index_add_(0, seen.numbers, seen.features.double())
    counts = torch.bincount(seen.numbers, minlength=N_ELEMENTS + 1).clamp(min=1)
    residual = seen.features.double() - (total / counts[:, None])[seen.numbers]
    # every element counts the same, however many atoms it has
    weight = (1 / counts[seen.numbers])[:, None]
    covariance = (residual * weight).T @ residual / (counts > 1).sum()
    values, axes = torch.linalg.eigh(covariance)
    k = min(N_COORDINATES, len(values))
    values, axes = values[-k:].flip(0), axes[:, -k:].flip(1)
    floor = 1e-3 * values[0].clamp(min=1e-12)
    return (axes / (values + floor).sqrt()).float()


def _prototypes(coordinates: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Atoms of each element that lie far apart, so that the others are near one of them.

    Returns:
        Coordinates (n, k) and atomic numbers (n,) of the chosen atoms.
    """
    chosen, owners = [], []
    for z in numbers.unique().tolist():
        points = coordinates[numbers == z]
        points = points[:: -(-len(points) // N_ATOMS)]
        picked = _far_apart(points, N_PROTOTYPES)
        chosen.append(points[picked])
        owners += [z] * len(picked)
    return torch.cat(chosen), torch.tensor(owners, dtype=torch.int64)


def _far_apart(points: Tensor, most: int) -> list[int]:
    """Rows of `points` by farthest-point sampling, from the one nearest to the mean."""
    first = int((points - points.mean(0)).norm(dim=1).argmin())
    picked, distance = [first], (points - points[first]).norm(dim=1)
    while len(picked) < min(most, len(points)):
        following = int(distance.argmax())
        if float(distance[following]) == 0.0:
            break
        picked.append(following)
        distance = torch.minimum(distance, (points - points[following]).norm(dim=1))
    return picked


def _scaled(domain: Domain, seen: _Atoms, others: _Atoms) -> Domain:
    """The domain with the distance of each element at which novelty is 1."""
    ones = replace(domain, scales=torch.ones_like(domain.scales))
    inside, outside = (ones.novelty_of_atoms(a.features, a.numbers) for a in (seen, others))
    scales = torch.full_like(domain.scales, torch.inf)
    for z in seen.numbers.unique().tolist():
        near, far = inside[seen.numbers == z], outside[others.numbers == z]
        far = far[far.isfinite()]
        known = far if len(far) >= FEW else torch.cat([near, far])
        scales[z] = max(float(known.quantile(ATOM_QUANTILE)), 1e-6)
    found = replace(domain, scales=scales)
    per_atom = found.novelty_of_atoms(others.features, others.numbers)
    largest = torch.zeros(int(others.owner.max()) + 1, dtype=torch.float64)
    largest.scatter_reduce_(0, others.owner, per_atom, reduce="amax")
    edge = float(largest.quantile(GREEN_SHARE))
    return replace(domain, scales=scales * edge)
