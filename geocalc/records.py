"""Records: what a run says of each structure, one line of JSON each."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from geocalc.errors import InputError

AS_ASKED = ("SINGLE_POINT", "PREDICTED")  # statuses of structures that were not to be relaxed
ROWS = 40  # structures that `format_table` lists at most
EXIT_CONVERGED, EXIT_ERROR, EXIT_UNCONVERGED = 0, 1, 3


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one structure; what is not known is None, never NaN.

    Attributes:
        sid: name of the structure: `info["sid"]`, else file and place in it.
        formula, n_atoms: of the structure, None if it could not be read.
        model, model_hash: what was evaluated.
        energy: eV, at the final geometry.
        energy_kind: total, adsorption, formation or relative.
        energy_std: eV, spread of the networks of an ensemble, else of the frames.
        energy_error_68, energy_error_95: eV, half of the intervals that hold so many of a hundred references, for relaxed structures
            like those of the model's calibration.
        fmax: eV/Angstrom at the final geometry, over free components.
        n_steps, n_evaluations: of the relaxation.
        converged: whether the result can be used as a relaxed structure.
        status: name of the status. stop_reason: the same in words.
        anomalies: names of what looks wrong with the final geometry.
        wall_s: seconds this structure took.
        device, dtype, version: where, how and by which geocalc it was computed.
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
        return json.dumps({name: _plain(value) for name, value in asdict(self).items()}, allow_nan=False)

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
        if not isinstance(values, dict) or set(values) != names:
            raise InputError(f"this is not a record of geocalc: {line[:80]!r}; expected JSON with the keys {sorted(names)}")
        return cls(**{**values, "anomalies": tuple(values["anomalies"])})


def finite(value: float) -> float | None:
    """The value, or None where it is not a finite number."""
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    return finite(value) if isinstance(value, float) else value


def exit_status(records: Iterable[Record]) -> int:
    """What the command line returns.

    Returns:
        0 if all converged, 3 if some did not, are flagged or have an error while at least one has a result, 1 if none has.
    """
    n_results, n_open = 0, 0
    for record in records:
        n_results += record.error is None
        n_open += not (record.converged or record.status in AS_ASKED) or bool(record.anomalies)
    if not n_results:
        return EXIT_ERROR
    return EXIT_UNCONVERGED if n_open else EXIT_CONVERGED


def format_table(records: Sequence[Record]) -> str:
    """A table for the terminal; of a long run only what did not converge, and always the counts."""
    lines = [f"{'structure':<28} {'formula':<16} {'status':<11} {'steps':>5} {'fmax eV/A':>10} {'energy eV':>14}"]
    shown = records if len(records) <= ROWS else [r for r in records if not r.converged or r.anomalies]
    for record in shown[:ROWS]:
        fmax = "-" if record.fmax is None else f"{record.fmax:.4f}"
        energy = "-" if record.energy is None else f"{record.energy:.4f}"
        flags = "  " + ", ".join(record.anomalies) if record.anomalies else ""
        lines.append(
            f"{_short(record.sid, 28):<28} {_short(record.formula or '-', 16):<16} {record.status:<11} {record.n_steps:>5} "
            f"{fmax:>10} {energy:>14}{flags}"
        )
        if record.error is not None:
            lines.append(f"  {record.error}")
    if len(shown) > ROWS:
        lines.append(f"... and {len(shown) - ROWS} more; all are in results.jsonl")
    counts = Counter(record.status for record in records)
    told = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    calls, seconds = sum(r.n_evaluations for r in records), sum(r.wall_s for r in records)
    lines.append(f"{len(records)} structures: {told or 'none'}; {calls} model calls, {seconds:.1f} s")
    return "\n".join(lines)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[len(text) - width + 3 :]
