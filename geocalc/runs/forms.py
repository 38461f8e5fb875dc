"""The forms of a structure in a run: input, live, ended, record.

A structure comes as an `Input`. Converted for the model it is `Live`: an engine relaxes it, alone
or in a `geocalc.relaxation.loop.ActiveBatch` with others. It comes back `Ended`, with its
`geocalc.relaxation.state.Relaxation` or an error. What is kept of it is a
`geocalc.runs.records.Record`, in Python with the relaxed atoms as a `geocalc.runs.results.Result`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geocalc.core.systems import Systems
from geocalc.relaxation.state import Relaxation, Snapshot
from geocalc.runs.records import SecondOpinion
from geocalc.structures.readers import Source, Unreadable

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, kw_only=True)
class Input:
    """First form: a structure as it was given.

    Attributes:
        sid: `info["sid"]`, else `<file>#<index>`.
        atoms: the structure, None if it could not be read.
        error: why it could not be read, as a sentence; None if it could.
    """

    sid: str
    atoms: Atoms | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Live:
    """Second form: a structure ready to be relaxed, or being relaxed.

    Attributes:
        number: place in the input.
        sid: name.
        systems: the structure alone, on the CPU, as the relaxing model reads it.
        unrelaxed: the same as the model of the second opinion reads it, or a sentence why that
            model cannot read it; None where there is no second model.
    """

    number: int
    sid: str
    systems: Systems
    unrelaxed: Systems | str | None = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Third form: a structure whose relaxation has ended, or which has an error.

    Attributes:
        relaxation: the end of the relaxation, None where there is an error.
        path: geometries that the trajectory keeps, by the number of steps that led to them.
        error: one sentence, None where there is a relaxation.
        n_steps, n_evaluations: taken until the end or the error.
        wall_s: seconds spent on this structure.
        final: False where a lack of memory or a lost process is the reason for the error, so that
            another try may succeed.
        second_opinion: of another model; None where there is none, or the process was lost.
    """

    relaxation: Relaxation | None = None
    path: tuple[tuple[int, Snapshot], ...] = ()
    error: str | None = None
    n_steps: int = 0
    n_evaluations: int = 0
    wall_s: float = 0.0
    final: bool = True
    second_opinion: SecondOpinion | None = None


def inputs_of(found: Iterable[Source | Unreadable]) -> Iterator[Input]:
    """Convert the structures that `geocalc.structures.readers.read_structures` finds."""
    for one in found:
        yield (
            Input(sid=one.sid, error=one.error)
            if isinstance(one, Unreadable)
            else Input(sid=one.sid, atoms=one.atoms)
        )
