"""The surroundings of the particles of a glass in fixed numbers: local energies, and densities and
bond order with their averages.

Densities are sums over neighbors of each type of Gaussians of the distance. Bond order of degree l
in a radial shell is

    q_l = (sum_jk w_j w_k P_l(u_j . u_k))^1/2 / sum_j w_j, w Gaussians of the distance, u
    directions,

which is (4 pi / (2 l + 1) sum_m |q_lm|^2)^1/2. Then come the averages of all these over neighbors,
and the averages of the averages.

Source: Boattini, Smallenburg and Filion, Phys. Rev. Lett. 127, 088007 (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from geocalc.properties import legendre_coefficients, monomial_exponents, monomial_multiplicities
from geocalc.properties.glass import (
    GlassConfiguration,
    KobAndersen,
    build_neighborhood,
    glass_systems,
)

REACH = 4.0  # sigma_AA, as all lengths here; of densities and of averages of energies
CENTRES, WIDTH = tuple(np.arange(0.8, REACH, 0.1).round(1)), 0.1  # of the Gaussians of densities
SHELLS = ((1.0, 0.12), (1.3, 0.15), (1.7, 0.2), (2.1, 0.2))  # centers and widths, of bond order
BOND_REACH, DEGREE = 2.5, 8
# of averages over neighbors, with weights exp(-r / DECAY) and 1 for the particle itself
AVERAGE_REACH, DECAY = 3.0, 1.0
GENERATIONS = 2
# decays of the averages of energies; 0 is the particle alone
LENGTHS = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Edges:
    """Neighbors of a configuration, each pair both ways.

    Attributes:
        n: particles.
        i, j: (n_edges,) center and neighbor.
        vectors: (n_edges, 3) from one to the other.
        r: (n_edges,) lengths.
    """

    n: int
    i: np.ndarray
    j: np.ndarray
    vectors: np.ndarray
    r: np.ndarray

    @classmethod
    def of(cls, configuration: GlassConfiguration) -> Edges:
        """All pairs within `REACH`."""
        found = build_neighborhood(configuration, REACH, self_loops=False)
        vectors = -found.edge_vec.numpy()
        return cls(
            configuration.n_particles,
            found.receivers.numpy(),
            found.senders.numpy(),
            vectors,
            np.linalg.norm(vectors, axis=1),
        )

    def within(self, reach: float) -> Edges:
        """The pairs that are nearer."""
        near = self.r < reach
        return Edges(self.n, self.i[near], self.j[near], self.vectors[near], self.r[near])

    def average(self, decay: float) -> sparse.csr_array:
        """(n, n), averages over neighbors with weights exp(-r / decay) and over the particle
        itself with weight 1.
        """
        weights = sparse.csr_array(
            (np.exp(-self.r / decay), (self.i, self.j)), shape=(self.n, self.n)
        ) + sparse.eye_array(self.n)
        return sparse.csr_array(sparse.diags_array(1 / weights.sum(axis=1)) @ weights)


def local_energies(configuration: GlassConfiguration) -> np.ndarray:
    """Kob-Andersen energies of particles, averaged with each decay of `LENGTHS`: (n, n_lengths),
    epsilon_AA.
    """
    energies = KobAndersen()(glass_systems(configuration)).atom_energies
    if energies is None:
        raise RuntimeError("the Kob-Andersen potential gives energies of particles")
    own, edges = energies.numpy(), Edges.of(configuration)
    return np.stack([edges.average(length) @ own if length else own for length in LENGTHS], axis=1)


def descriptors(configuration: GlassConfiguration) -> np.ndarray:
    """Densities, bond order, and two generations of their averages: (n, 3 * 96)."""
    edges = Edges.of(configuration)
    columns = [
        np.concatenate(
            [densities(edges, configuration.types), bond_order(edges.within(BOND_REACH))], axis=1
        )
    ]
    average = edges.within(AVERAGE_REACH).average(DECAY)
    for _ in range(GENERATIONS):
        columns.append(average @ columns[-1])
    return np.concatenate(columns, axis=1)


def densities(edges: Edges, types: np.ndarray) -> np.ndarray:
    """(n, 2 * n_centers), those of A first."""
    columns = []
    for kind in (0, 1):
        some = types[edges.j] == kind
        i, r = edges.i[some], edges.r[some]
        columns += [
            np.bincount(i, np.exp(-0.5 * ((r - center) / WIDTH) ** 2), edges.n)
            for center in CENTRES
        ]
    return np.stack(columns, axis=1)


def bond_order(edges: Edges) -> np.ndarray:
    """(n, n_shells * DEGREE) of degrees 1 to `DEGREE`, shell by shell; zero where a shell is empty."""
    weights = [np.exp(-0.5 * ((edges.r - center) / width) ** 2) for center, width in SHELLS]
    each = np.arange(len(edges.i))
    sums = [
        sparse.csr_array((weight, (edges.i, each)), shape=(edges.n, len(each)))
        for weight in weights
    ]
    totals = [np.maximum(total.sum(axis=1), 1e-9) for total in sums]
    powers = _powers(edges.vectors / edges.r[:, None])
    # sums over pairs of neighbors of powers of the cosine between them
    cosines = np.zeros((len(SHELLS), edges.n, DEGREE + 1))
    for degree in range(DEGREE + 1):
        products = np.stack(
            [powers[0][a] * powers[1][b] * powers[2][c] for a, b, c in monomial_exponents(degree)],
            axis=1,
        )
        often = monomial_multiplicities(degree).numpy()
        for k, (total, norm) in enumerate(zip(sums, totals, strict=True)):
            cosines[k, :, degree] = ((total @ products) / norm[:, None]) ** 2 @ often
    polynomials = legendre_coefficients(DEGREE).to(torch.float64).numpy()
    return np.concatenate(
        [np.sqrt(np.maximum(shell @ polynomials.T, 0.0))[:, 1:] for shell in cosines], axis=1
    )


def _powers(unit: np.ndarray) -> list[list[np.ndarray]]:
    """For x, y and z their powers 0 to `DEGREE`, (n_edges,) each."""
    return [[unit[:, axis] ** power for power in range(DEGREE + 1)] for axis in range(3)]
