"""Records and results of ended structures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from geocalc.core.elements import N_ELEMENTS, symbols
from geocalc.potentials.calibration import Calibration
from geocalc.potentials.domain import Light, reason_for
from geocalc.relaxation.state import Relaxation
from geocalc.relaxation.status import Status
from geocalc.runs.forms import Ended, Input
from geocalc.runs.records import Record, SecondOpinion, finite
from geocalc.runs.roles import NamedPotential
from geocalc.version import __version__


@dataclass(frozen=True, kw_only=True)
class Result:
    """Last form of a structure in Python: its record and its relaxed atoms.

    Attributes:
        record: energies, forces and status; the same fields as in `results.jsonl`.
        atoms: a relaxed copy with energy (eV) and forces (eV/Angstrom) attached, and stress
            (eV/Angstrom^3) where the cell was relaxed; constraints and info are kept. A copy of the
            input where nothing could be computed.
        number: place of the structure in the input.
    """

    record: Record
    atoms: Atoms
    number: int


def result_of(number: int, given: Input, ended: Ended, record: Record) -> Result:
    """Attach the relaxed geometry to a record."""
    final, end = Atoms() if given.atoms is None else given.atoms.copy(), ended.relaxation
    if end is not None:
        final.positions[:] = end.systems.positions.cpu().numpy()
        values: dict[str, Any] = {"energy": end.energy}
        if end.status is not Status.PREDICTED:
            values["forces"] = end.forces.cpu().numpy()
        if end.stress is not None:
            final.cell[:] = end.systems.cell[0].cpu().numpy()
            if bool(end.stress.isfinite().all()):
                values["stress"] = full_3x3_to_voigt_6_stress(end.stress.cpu().numpy())
        final.calc = SinglePointCalculator(final, **values)
    return Result(record=record, atoms=final, number=number)


def record_of(given: Input, ended: Ended, model: NamedPotential) -> Record:
    """Write the record of a structure that has ended."""
    end = ended.relaxation
    energy = None if end is None else finite(end.energy)
    status = Status.ERROR if end is None else end.status
    domain, reason = domain_of_end(end)
    known = domain is not Light.RED
    error_68, error_95 = _half_widths(end, model.calibration) if known else (None, None)
    return Record(
        sid=given.sid,
        formula=formula_of(given.atoms),
        n_atoms=None if given.atoms is None else len(given.atoms),
        model=model.name,
        model_hash=model.hash,
        energy=energy,
        energy_kind=model.energy_kind,
        energy_std=None if end is None else finite(end.energy_std),
        energy_error_68=error_68,
        energy_error_95=error_95,
        domain=None if domain is None else domain.value,
        domain_reason=reason,
        novelty=None if end is None else finite(end.novelty),
        second_opinion=_compared(ended.second_opinion, energy, model),
        fmax=None if end is None else finite(end.fmax),
        n_steps=ended.n_steps,
        n_evaluations=ended.n_evaluations,
        converged=status is Status.CONVERGED,
        status=status.value,
        stop_reason=status.sentence if end is None else end.sentence,
        anomalies=(),
        wall_s=round(ended.wall_s, 4),
        device=model.device,
        dtype=model.dtype,
        version=__version__,
        error=ended.error,
    )


def domain_of_end(end: Relaxation | None) -> tuple[Light | None, str | None]:
    """Whether an ended structure is in the domain of the model, and why not; None and None where
    that is not known.
    """
    if end is None or math.isnan(end.novelty):
        return None, None
    symbol = symbols()[int(end.systems.numbers[end.novel_atom])]
    return reason_for(end.novelty, end.novel_atom, symbol, end.unseen, end.path_novelty)


def formula_of(atoms: Atoms | None) -> str | None:
    """The chemical formula; None where there is none, as for atomic numbers of no element."""
    if atoms is None or (
        len(atoms) and not 0 <= atoms.numbers.min() <= atoms.numbers.max() <= N_ELEMENTS
    ):
        return None
    return atoms.get_chemical_formula()


def _compared(
    opinion: SecondOpinion | None, energy: float | None, model: NamedPotential
) -> SecondOpinion | None:
    """The second opinion with its difference from the energy (eV) of the relaxation."""
    if opinion is None or model.second_opinion is None:
        return opinion
    return model.second_opinion.compared(opinion, energy)


def _half_widths(
    end: Relaxation | None, calibration: Calibration | None
) -> tuple[float | None, float | None]:
    """Half the intervals around the energy of a relaxed structure, eV; None where the model is not
    calibrated.
    """
    if calibration is None or end is None or end.status not in (Status.CONVERGED, Status.PREDICTED):
        return None, None
    return calibration.half_widths(end.energy_std, end.novelty)
