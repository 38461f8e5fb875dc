"""Records: the results of structures, one line of JSON each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from geocalc.errors import InputError

AS_ASKED = ("SINGLE_POINT", "PREDICTED")  # statuses of structures that are not relaxed
UNCONVERGED = ("MAX_STEPS", "NOISE_FLOOR")  # statuses of sound structures that did not converge
OUTSIDE = "red"  # the domain of a record whose energy has no grounds
EXIT_CONVERGED, EXIT_ERROR, EXIT_UNCONVERGED = 0, 1, 3


@dataclass(frozen=True, kw_only=True)
class SecondOpinion:
    """Relaxed energy that a direct model predicts from the unrelaxed structure.

    Attributes:
        model, model_hash: of the direct model.
        energy: eV, None where the model could not take the structure.
        energy_error_68, energy_error_95: eV, half widths of the intervals of its calibration.
        difference: eV, this energy minus that of the relaxation.
        note: why there is no energy or no difference, as a sentence.
    """

    model: str
    model_hash: str
    energy: float | None
    energy_error_68: float | None
    energy_error_95: float | None
    difference: float | None
    note: str | None


@dataclass(frozen=True, kw_only=True)
class PropertySummary:
    """A property of the particles of a structure; the values themselves are arrays of the
    structure.

    Attributes:
        name, unit: of the property.
        n: particles with a value.
        mean, std: over these particles, one number for each target.
    """

    name: str
    unit: str
    n: int
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """Last form of a structure: its result. Unknown values are None, never NaN.

    Attributes:
        sid: name of the structure: `info["sid"]`, else file and place in it.
        formula, n_atoms: of the structure, None if it could not be read.
        model, model_hash: of the model that relaxes.
        energy: eV, at the final geometry.
        energy_kind: total, adsorption, formation or relative.
        energy_std: eV, spread of the networks of an ensemble, else of the frames.
        energy_error_68, energy_error_95: eV, half widths of the intervals that hold 68 and 95 % of
            references, for relaxed structures like those of the model's calibration; None outside
            the domain.
        domain: green, amber or red: whether the model has grounds for its answer; None where its
            domain is not known.
        domain_reason: why the domain is not green, None where it is.
        novelty: distance from the training data, 1 at the edge of the domain; None where it is not
            known.
        property: of a model of a property; None for models of energies.
        second_opinion: of a direct model; None where there is none.
        fmax: eV/Angstrom at the final geometry, over free components.
        n_steps, n_evaluations: of the relaxation.
        converged: whether the forces fell below fmax.
        status: name of the status.
        stop_reason: the same in words.
        anomalies: names of anomalies of the final geometry.
        wall_s: seconds this structure took.
        device, dtype, version: device, precision and version of geocalc.
        error: why there is no result, as a sentence.
    """

    sid: str
    formula: str | None
    n_atoms: int | None
    model: str
    model_hash: str
    energy: float | None
    energy_kind: str | None
    energy_std: float | None
    energy_error_68: float | None
    energy_error_95: float | None
    domain: str | None = None
    domain_reason: str | None = None
    novelty: float | None = None
    second_opinion: SecondOpinion | None = None
    property: PropertySummary | None = None
    fmax: float | None
    n_steps: int
    n_evaluations: int
    converged: bool
    status: str
    stop_reason: str
    anomalies: tuple[str, ...]
    wall_s: float
    device: str
    dtype: str
    version: str
    error: str | None

    def to_json(self) -> str:
        """One line of JSON without the newline; numbers that are not finite become null."""
        return json.dumps(_plain(asdict(self)), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Inverse of `to_json`.

        Raises:
            InputError: the line is no JSON object with exactly the fields of a record.
        """
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        names = {f.name for f in fields(cls)}
        opinion = values.get("second_opinion") if isinstance(values, dict) else None
        found = values.get("property") if isinstance(values, dict) else None
        if (
            not isinstance(values, dict)
            or set(values) != names
            or not (opinion is None or _has_fields_of(SecondOpinion, opinion))
            or not (found is None or _has_fields_of(PropertySummary, found))
        ):
            raise InputError(
                f"this is not a record of geocalc: {line[:80]!r}; expected JSON with the keys"
                f" {sorted(names)}"
            )
        told = None if opinion is None else SecondOpinion(**opinion)
        if found is not None:
            spread = {name: tuple(found[name]) for name in ("mean", "std")}
            found = PropertySummary(**{**found, **spread})
        values |= {
            "anomalies": tuple(values["anomalies"]),
            "second_opinion": told,
            "property": found,
        }
        return cls(**values)


def finite(value: float) -> float | None:
    """The value, or None where it is not a finite number."""
    return value if math.isfinite(value) else None


def _has_fields_of(kind: type[SecondOpinion | PropertySummary], values: Any) -> bool:
    return isinstance(values, dict) and set(values) == {f.name for f in fields(kind)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return finite(value) if isinstance(value, float) else value


def exit_status(records: Iterable[Record], *, allow_unconverged: bool = False) -> int:
    """Choose the exit status of a run.

    Args:
        records: of the run.
        allow_unconverged: whether structures whose steps ran out, or that reached the noise of the
            forces, count as converged.
    Returns:
        0 if all converged, 3 if some did not, are flagged, lie outside the domain of the model or
        have an error while at least one has a result, 1 if none has.
    """
    n_results, n_open = 0, 0
    for record in records:
        n_results += record.error is None
        sound = record.converged or record.status in AS_ASKED
        sound = sound or (allow_unconverged and record.status in UNCONVERGED)
        n_open += not sound or bool(record.anomalies) or record.domain == OUTSIDE
    if not n_results:
        return EXIT_ERROR
    return EXIT_UNCONVERGED if n_open else EXIT_CONVERGED
