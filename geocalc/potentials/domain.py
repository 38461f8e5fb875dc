"""The domain of a model: what it has learned from, and whether a structure is like that.

Four things are known of the training data: which pairs of elements were bonded, the formulas of
adsorbates, which metals were next to a metal that an adsorbate sat on, and the features that the
last layer of the network has for every atom. Atoms with alike surroundings have alike features, so
the distance of an atom's features from those of the training atoms of its element tells how new its
surroundings are. A few prototypes stand for the training atoms.

`novelty` is that distance in units in which 1 is the edge of the domain: of held-out structures
like those of the training, few have an atom beyond.

Source: distances in latent features as a measure of uncertainty: Janet, Duan, Yang, Nandy, Kulik,
Chem. Sci. 10, 7913 (2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from ase.data import covalent_radii
from ase.formula import Formula
from torch import Tensor

from geocalc.core import elements
from geocalc.core.systems import Prediction, Systems, max_per_system
from geocalc.errors import ModelFileError
from geocalc.graphs.neighbors import Graph

AMBER, RED = 1.0, 2.0  # novelties where the light changes
BONDED = 1.25  # atoms are bonded that are nearer than this times the sum of their covalent radii
# novelty of a bond of an atom that is no metal, which the training data do not have: outside
NEW_BOND = 3.0
# of bonds between metals, which differ less, of adsorbates that were never seen, and of one on
# metals side by side that had none there
NEAR_EDGE = 1.5
NONMETALS = (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 33, 34, 35, 36, 52, 53, 54, 85, 86)


class Light(StrEnum):
    """Whether a model has grounds for an answer.

    green: the structure is like those of the training. amber: it is near the edge of what was
    learned. red: it is outside; errors may have any size.
    """

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Training data of a model, as far as they tell what is new.

    Attributes:
        projection: (width, k), from features to coordinates in which distances are measured.
        prototypes: (n, k) coordinates of chosen training atoms.
        elements: (n,) int64, atomic number of each.
        scales: (119,) distance from the prototypes that is the edge of the domain, for each
            element; infinite for elements without prototypes.
        bonds: (119, 119) bool, symmetric, pairs of elements that are bonded in the training data.
        bonds_of_atoms: (n,) int64, codes of how many atoms of which light elements an atom is
            bonded to in the training data, see `Bonds`.
        hosts: (119, 119) bool, pairs of a metal with an adsorbate on it and a metal beside that one
            in the training data.
        molecules: (n,) int64, codes of the formulas of adsorbates in the training data, see
            `Bonds`.
    """

    projection: Tensor
    prototypes: Tensor
    elements: Tensor
    scales: Tensor
    bonds: Tensor
    bonds_of_atoms: Tensor
    hosts: Tensor
    molecules: Tensor

    def to(self, device: torch.device | str) -> Domain:
        """The same on another device."""
        return Domain(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def coordinates(self, features: Tensor) -> Tensor:
        """Coordinates (n_atoms, k) of features (n_atoms, width)."""
        return features.to(self.projection) @ self.projection

    def novelty_of_atoms(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Novelty of the surroundings of each atom, (n_atoms,) float64.

        Args:
            features: (n_atoms, width), of the last layer.
            numbers: (n_atoms,) int64, atomic numbers.
        """
        present = torch.zeros(_BASE, dtype=torch.bool, device=numbers.device)
        present[numbers] = True
        chosen = torch.nonzero(present[self.elements]).squeeze(1)
        scale = self.scales[numbers].double()
        if not len(chosen):
            return torch.full_like(scale, NEW_BOND)
        distance = torch.cdist(self.coordinates(features), self.prototypes[chosen])
        distance.masked_fill_(numbers[:, None] != self.elements[chosen], torch.inf)
        nearest = distance.amin(1).double()
        return torch.where(scale.isfinite(), nearest / scale, NEW_BOND)

    def check(
        self, features: Tensor, systems: Systems, graph: Graph, edge_vec: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Judge every structure of a batch.

        Args:
            features: (n_atoms, width), of the last layer.
            systems: batch of structures.
            graph: edges of the batch, at least as long as bonds.
            edge_vec: (n_edges, 3) Angstrom.
        Returns:
            `novelty`, `novel_atom` and `unseen` of a `Prediction`, (n_systems,) each.
        """
        per_atom = self.novelty_of_atoms(features, systems.numbers)
        novelty, novel_atom = _largest(per_atom, systems)
        unseen = self._unseen(systems, graph, edge_vec)
        return torch.maximum(novelty, _novelty_of(unseen)), novel_atom, unseen

    def _unseen(self, systems: Systems, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Code of what tells most among bonds that were never seen, (n_systems,) int64."""
        bonds = find_bonds(systems, graph, edge_vec)
        new_pair = torch.nonzero(~self.bonds[bonds.first, bonds.second]).squeeze(1)
        first, second = bonds.first[new_pair], bonds.second[new_pair]
        pairs = torch.minimum(first, second) * _BASE + torch.maximum(first, second)
        new_host = torch.nonzero(bonds.hosts & ~self.hosts[bonds.first, bonds.second]).squeeze(1)
        hosts = _HOSTS + bonds.first[new_host] * _BASE + bonds.second[new_host]
        light = torch.nonzero(bonds.of_atoms).squeeze(1)
        codes = bonds.of_atoms[light]
        new_atom = torch.nonzero(~_among(codes, self.bonds_of_atoms)).squeeze(1)
        whole = torch.nonzero(bonds.molecules).squeeze(1)
        molecules = bonds.molecules[whole]
        new_molecule = torch.nonzero(~_among(molecules, self.molecules)).squeeze(1)
        # pairs of light elements have the smallest codes, and tell most
        none = torch.iinfo(torch.int64).max
        code = torch.full((systems.n_systems,), none, device=systems.numbers.device)
        for owner, found in (
            (bonds.owner[new_pair], pairs),
            (systems.system_idx[light[new_atom]], codes[new_atom]),
            (systems.system_idx[whole[new_molecule]], _MOLECULES + molecules[new_molecule]),
            (bonds.owner[new_host], hosts),
        ):
            if len(found):
                code.scatter_reduce_(0, owner, found, reduce="amin")
        return code.masked_fill(code == none, 0)


def _among(codes: Tensor, known: Tensor) -> Tensor:
    """Whether codes (n,) are among known ones, which ascend, (n,) bool."""
    if not len(known):
        return torch.zeros_like(codes, dtype=torch.bool)
    place = torch.searchsorted(known, codes).clamp(max=len(known) - 1)
    return known[place] == codes


def _largest(per_atom: Tensor, systems: Systems) -> tuple[Tensor, Tensor]:
    """The largest value of each structure and the place of its atom, both (n_systems,)."""
    if systems.n_systems == 1:
        largest, place = per_atom.max(0, keepdim=True)
        return largest, place
    novelty = max_per_system(per_atom, systems)
    counts = systems.counts
    first = counts.cumsum(0) - counts
    place = torch.arange(systems.n_atoms, device=per_atom.device) - first[systems.system_idx]
    largest = per_atom == novelty[systems.system_idx]
    return novelty, (counts - 1).scatter_reduce_(
        0, systems.system_idx[largest], place[largest], reduce="amin"
    )


@dataclass(frozen=True, kw_only=True)
class Bonds:
    """Bonds of a batch, by distances.

    Attributes:
        first, second: (n_bonds,) int64, atomic numbers; every bond in both directions.
        owner: (n_bonds,) int64, the structure of each.
        of_atoms: (n_atoms,) int64, a code of how many atoms of each light element an atom is bonded
            to; 0 for atoms of a metal.
        hosts: (n_bonds,) bool, whether the bond is one between metals, and the first has an atom of
            a light element on it.
        molecules: (n_atoms,) int64, a code of the formula of each adsorbate at its first atom, 0 at
            others; an adsorbate is H, C, N, O and S atoms that are bonded to each other.
    """

    first: Tensor
    second: Tensor
    owner: Tensor
    of_atoms: Tensor
    hosts: Tensor
    molecules: Tensor


def find_bonds(systems: Systems, graph: Graph, edge_vec: Tensor) -> Bonds:
    """Find the bonded atoms of a batch.

    Args:
        systems: batch of structures.
        graph: edges of the batch, at least as long as bonds.
        edge_vec: (n_edges, 3) Angstrom.
    """
    numbers, device = systems.numbers, systems.numbers.device
    vectors = edge_vec.detach()
    i, j = numbers[graph.receivers], numbers[graph.senders]
    bonded = torch.nonzero((vectors * vectors).sum(1) < bond_lengths(i, j) ** 2).squeeze(1)
    i, j, atom = i[bonded], j[bonded], graph.receivers[bonded]
    partners = torch.zeros_like(numbers).index_add_(0, atom, _WEIGHTS.to(device)[j])
    of_atoms = _BASE**2 + numbers * _MOST ** len(COUNTED) + partners
    light_i, light_j = _LIGHT.to(device)[i], _LIGHT.to(device)[j]
    loaded = torch.zeros_like(numbers, dtype=torch.bool)
    loaded[atom[light_j]] = True
    return Bonds(
        first=i,
        second=j,
        owner=systems.system_idx[atom],
        of_atoms=torch.where(_LIGHT.to(device)[numbers], of_atoms, 0),
        hosts=loaded[atom] & ~light_i & ~light_j,
        molecules=_molecules(numbers, atom, graph.senders[bonded]),
    )


def _molecules(numbers: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Codes of formulas, see `Bonds`, from the atoms of each bond, (n_bonds,) each."""
    formula = _FORMULAS.to(numbers.device)[numbers]
    counted = formula > 0
    inside = torch.nonzero(counted[first] & counted[second]).squeeze(1)
    first, second = first[inside], second[inside]
    # the first atom that each can be reached from
    start = torch.arange(len(numbers), device=numbers.device)
    while True:
        nearer = start.scatter_reduce(0, first, start[second], reduce="amin")
        if torch.equal(nearer, start):
            break
        start = nearer
    return torch.zeros_like(formula).index_add_(0, start, formula)


def bond_lengths(i: Tensor, j: Tensor) -> Tensor:
    """Length in Angstrom below which atoms with these atomic numbers count as bonded."""
    radii = _RADII.to(i.device)
    return radii[i] + radii[j]


_BASE = elements.N_ELEMENTS + 1
COUNTED = (1, 6, 7, 8, 16, 0)  # elements whose atoms codes count; 0 for all other light ones
_MOST = 10  # atoms of an element that a code can count, one more than the most
_IN_FORMULA = 64  # atoms of an element that the code of a formula can count, one more than the most
_MOLECULES, _HOSTS = 10**9, 10**12  # beyond all other codes
_RADII = BONDED * torch.from_numpy(covalent_radii)
_LIGHT = torch.zeros(_BASE, dtype=torch.bool)
_LIGHT[list(NONMETALS)] = True
_WEIGHTS = torch.zeros(_BASE, dtype=torch.int64)
_WEIGHTS[list(NONMETALS)] = _MOST ** (len(COUNTED) - 1)
_WEIGHTS[list(COUNTED[:-1])] = torch.tensor([_MOST**k for k in range(len(COUNTED) - 1)])
_FORMULAS = torch.zeros(_BASE, dtype=torch.int64)
_FORMULAS[list(COUNTED[:-1])] = torch.tensor([_IN_FORMULA**k for k in range(len(COUNTED) - 1)])


def _novelty_of(code: Tensor) -> Tensor:
    """Novelty of bonds that were never seen (n_systems,), 0 where there are none."""
    light = _LIGHT.to(code.device)
    pair = code.clamp(max=_BASE**2 - 1)
    near_edge = ~(light[pair // _BASE] | light[pair % _BASE]) & (code < _BASE**2)
    near_edge |= code > _MOLECULES
    novelty = torch.where(near_edge, NEAR_EDGE, NEW_BOND).double()
    return novelty.masked_fill(code == 0, 0.0)


def _describe(code: int) -> str:
    """Say in words what was never seen; with a negative code only at other levels of theory."""
    if code < 0:
        return f"{_describe(-code)} at this level of theory"
    known = elements.symbols()
    if code < _BASE**2:
        first, second = divmod(code, _BASE)
        return f"no {known[first]}-{known[second]} bond in training"
    if code > _HOSTS:
        first, second = divmod(code - _HOSTS, _BASE)
        return f"no adsorbate on {known[first]} next to {known[second]} in training"
    if code > _MOLECULES:
        return f"no {_formula(code - _MOLECULES)} on a surface in training"
    z, partners = divmod(code - _BASE**2, _MOST ** len(COUNTED))
    told = []
    for place, element in enumerate(COUNTED):
        number = partners // _MOST**place % _MOST
        if number:
            symbol = known[element] if element else "other"
            told.append(symbol if number == 1 else f"{number} {symbol}")
    with_whom = f"bonded to {' and '.join(told)}" if told else "alone or on metal only"
    return f"no {known[z]} atom {with_whom} in training"


def _formula(code: int) -> str:
    """The formula of a code, in the order of Hill."""
    counts = {}
    for place, z in enumerate(COUNTED[:-1]):
        if number := code // _IN_FORMULA**place % _IN_FORMULA:
            counts[elements.symbols()[z]] = number
    return Formula.from_dict(counts).format("hill")


def light_of(novelty: float) -> Light:
    """The light of a novelty."""
    return Light.RED if novelty > RED else Light.AMBER if novelty > AMBER else Light.GREEN


def reason_for(
    novelty: float, novel_atom: int, symbol: str, unseen: int, path_novelty: float
) -> tuple[Light, str | None]:
    """The light of a structure, and why it is not green.

    Args:
        novelty: of the final geometry.
        novel_atom: the atom with the newest surroundings, by its place in the structure.
        symbol: of that atom.
        unseen: see `Prediction`.
        path_novelty: largest novelty on the way there; NaN or the same where there was no way.
    """
    light = light_of(novelty)
    if unseen:
        return light, _describe(unseen)
    if light is Light.RED:
        return light, f"surroundings of atom {novel_atom} ({symbol}) unlike any in training"
    if light is Light.AMBER:
        return light, f"surroundings of atom {novel_atom} ({symbol}) are rare in training"
    if path_novelty > RED:  # and the end is green
        return Light.AMBER, "the path led through surroundings unlike any in training"
    return light, None


def domain_of_prediction(
    prediction: Prediction, systems: Systems
) -> tuple[Light | None, str | None]:
    """The light of the only structure of a batch, and why it is not green; None and None where the
    model has no domain.
    """
    if prediction.novelty is None or prediction.novel_atom is None or not len(prediction.novelty):
        return None, None
    novelty, atom = float(prediction.novelty[0]), int(prediction.novel_atom[0])
    symbol = elements.symbols()[int(systems.numbers[atom])]
    bond = 0 if prediction.unseen is None else int(prediction.unseen[0])
    return reason_for(novelty, atom, symbol, bond, novelty)


def domain_tensors(domain: Domain) -> dict[str, Tensor]:
    """The tensors of a domain by name, for a file."""
    whole = torch.contiguous_format  # a file cannot hold what two domains share
    return {f.name: getattr(domain, f.name).clone(memory_format=whole) for f in fields(domain)}


def domain_of(tensors: Mapping[str, Tensor], name: str) -> Domain:
    """The domain in a file.

    Raises:
        ModelFileError: a tensor is missing.
    """
    wanted = {f.name for f in fields(Domain)}
    if set(tensors) != wanted:
        raise ModelFileError(
            f"the domain of {name} has the tensors {sorted(tensors)}, expected {sorted(wanted)};"
            " install the model again"
        )
    return Domain(**dict(tensors))
