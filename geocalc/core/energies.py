"""Energies with their kind, level of theory and references; only energies of one basis combine.

    slab = Energy(-312.40, basis, name="E(slab)", source="relaxed with faenet-sfa")
    adslab = Energy(-320.12, basis, name="E(adslab)", source="relaxed with faenet-sfa")
    oxygen = Reference("O", 1, Energy(-7.20, basis, name="mu(O)", source="H2O - H2"))
    print(adsorption_energy(adslab, slab, [oxygen]).explain())

Arithmetic with energies of different bases raises `EnergyKindError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from geocalc.errors import EnergyKindError, InputError, NonFiniteError


class EnergyKind(StrEnum):
    """Kind of an energy, which says what its zero is."""

    TOTAL = "total"
    ADSORPTION = "adsorption"
    FORMATION = "formation"
    RELATIVE = "relative"

    @property
    def with_article(self) -> str:
        """Name for a sentence, such as `an adsorption energy`."""
        return f"{'an' if self is EnergyKind.ADSORPTION else 'a'} {self.value} energy"


@dataclass(frozen=True)
class EnergyBasis:
    """Kind, level of theory and references that two energies must share to be combined.

    Attributes:
        kind: total, adsorption, formation or relative.
        level: functional, code and settings in words.
        references: zero of energy in words; empty where the kind says it all.
    """

    kind: EnergyKind
    level: str
    references: str = ""

    def differences(self, other: EnergyBasis) -> tuple[str, ...]:
        """Name what two bases do not share: kind, level of theory, references."""
        pairs = (
            ("kind", self.kind, other.kind),
            ("level of theory", self.level, other.level),
            ("references", self.references, other.references),
        )
        return tuple(name for name, mine, theirs in pairs if mine != theirs)


@dataclass(frozen=True)
class Term:
    """One term of a sum of energies: `factor` times `value` (eV), with its name and source."""

    factor: float
    value: float
    name: str
    source: str


@dataclass(frozen=True)
class Energy:
    """An energy in eV that knows what it may be added to.

    `+`, `-` and multiplication by a number give an energy that remembers its terms, see `explain`.
    A difference is of kind `relative`.

    Attributes:
        value: eV.
        basis: kind, level of theory and references.
        name: short name for sums, such as `E(slab)`.
        source: origin of the number in words: the model, calculation or table.
        terms: terms of the sum; empty for an energy that is not a sum.
    Raises:
        NonFiniteError: the value is NaN or infinite.
    """

    value: float
    basis: EnergyBasis
    name: str = "E"
    source: str = "source not given"
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a value that is not a finite number."""
        if not math.isfinite(self.value):
            raise NonFiniteError(
                f"{self.name} ({self.source}) is {self.value} eV; an energy must be a finite number"
            )

    def __add__(self, other: Energy) -> Energy:
        """Add an energy of the same basis.

        Raises:
            EnergyKindError: kind, level of theory or references differ.
        """
        check_same_basis(self.basis, other.basis, self.name, other.name, "added")
        return self._sum(other, 1.0, self.basis)

    def __sub__(self, other: Energy) -> Energy:
        """Subtract an energy of the same basis; the difference is of kind `relative`.

        Raises:
            EnergyKindError: kind, level of theory or references differ.
        """
        check_same_basis(self.basis, other.basis, self.name, other.name, "subtracted")
        return self._sum(other, -1.0, replace(self.basis, kind=EnergyKind.RELATIVE))

    def __mul__(self, factor: float) -> Energy:
        """Multiply by a number, such as a number of atoms."""
        terms = tuple(replace(term, factor=term.factor * factor) for term in self._terms)
        return replace(self, value=self.value * factor, terms=terms)

    __rmul__ = __mul__

    @property
    def _terms(self) -> tuple[Term, ...]:
        return self.terms or (Term(1.0, self.value, self.name, self.source),)

    def _sum(self, other: Energy, sign: float, basis: EnergyBasis) -> Energy:
        terms = self._terms + (other * sign)._terms
        value = self.value + sign * other.value
        return Energy(value, basis, "E", "sum of the terms", terms)

    def explain(self) -> str:
        """Print the sum: the result, and one line for each term with its source."""
        about = f"{self.basis.kind.with_article} at {self.basis.level or 'an unnamed level'}"
        zero = f", relative to {self.basis.references}" if self.basis.references else ""
        lines = [f"{self.name} = {self.value:.4f} eV, {about}{zero}"]
        width = max(len(term.name) for term in self._terms)
        lines += [
            f"  {term.factor:+7.4g} x {term.name:<{width}} {term.value:14.4f} eV  {term.source}"
            for term in self._terms
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Reference:
    """Chemical potential that an adsorbate is measured against.

    Attributes:
        symbol: element or molecule.
        count: how many of them the adsorbate consists of; positive.
        energy: energy of one, in eV.
    Raises:
        InputError: the count is not positive.
    """

    symbol: str
    count: float
    energy: Energy

    def __post_init__(self) -> None:
        """Refuse a count that is not positive."""
        if not self.count > 0:
            raise InputError(
                f"the adsorbate has {self.count} {self.symbol}; give a positive number, or leave"
                " this reference out"
            )


def adsorption_energy(adslab: Energy, slab: Energy, references: Sequence[Reference]) -> Energy:
    """Compute E_ads = E(adslab) - E(slab) - sum_i n_i mu_i from total energies.

    Args:
        adslab: total energy of the relaxed slab with adsorbate.
        slab: total energy of the relaxed clean slab.
        references: chemical potentials mu_i of the n_i atoms or molecules of the adsorbate.
    Returns:
        Energy of kind `adsorption` whose `explain()` prints every term with its source.
    Raises:
        EnergyKindError: the energies are not all total energies at one level of theory.
        InputError: there are no references.
    """
    if not references:
        raise InputError(
            "an adsorption energy needs a reference for the adsorbate; give at least one, such as"
            " Reference('O', 1, mu_of_oxygen)"
        )
    parts = (adslab, slab, *(one.energy for one in references))
    for part in parts:
        if part.basis.kind is not EnergyKind.TOTAL:
            raise EnergyKindError(
                f"{part.name} is {part.basis.kind.with_article}; an adsorption energy is made of"
                " total energies"
            )
        check_same_basis(adslab.basis, part.basis, adslab.name, part.name, "combined")
    total = adslab + -1.0 * slab
    for one in references:
        total = total + -one.count * one.energy
    zero = ", ".join(f"{one.count:g} {one.symbol} ({one.energy.source})" for one in references)
    basis = EnergyBasis(EnergyKind.ADSORPTION, adslab.basis.level, f"the clean slab and {zero}")
    return replace(total, basis=basis, name="E_ads")


def check_same_basis(
    first: EnergyBasis, second: EnergyBasis, first_name: str, second_name: str, verb: str
) -> None:
    """Refuse to combine energies whose kind, level of theory or references differ.

    Args:
        first, second: bases of the energies.
        first_name, second_name: names for the message.
        verb: what would be done, such as `subtracted` or `compared`.
    Raises:
        EnergyKindError: the bases differ; the message names the first difference with both values.
    """
    differing = first.differences(second)
    if not differing:
        return
    values = {
        "kind": (first.kind.value, second.kind.value),
        "level of theory": (first.level, second.level),
        "references": (first.references, second.references),
    }
    mine, theirs = values[differing[0]]
    raise EnergyKindError(
        f"energies of {first_name} and {second_name} cannot be {verb}: they differ in"
        f" {' and '.join(differing)} ({mine or 'not given'!r} and {theirs or 'not given'!r}); use"
        " energies of one kind, level of theory and reference"
    )
