"""What `geocalc evaluate` measures of a model without looking at labels: symmetries, and the
features of its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from geocalc.cli.progress import progress_line
from geocalc.core.systems import Systems
from geocalc.data.collate import collate_samples
from geocalc.data.store import Sample
from geocalc.errors import InputError
from geocalc.evaluation.oversmoothing import layer_mad
from geocalc.evaluation.symmetry_errors import measure_symmetry_errors
from geocalc.potentials.registry import LoadedModel
from geocalc.structures.convert import from_atoms
from geocalc.structures.readers import Source, read_structures

SYMMETRY, OVERSMOOTHING = "symmetry", "oversmoothing"
N_ROTATIONS = 10
NOTHING = "-"
LABELS = {
    "rotation_z": "rotation about z",
    "rotation": "rotation",
    "reflection_z": "reflection along z",
    "reflection": "reflection",
    "translation": "translation",
    "permutation": "permutation",
    "rewrap": "re-wrapping",
    "basis": "lattice basis",
    "batch": "alone, in a batch",
    "repeat": "repeated call",
}
UNITS = {"energy": "eV", "forces": "eV/Å", "displacement": "Å"}


def of_samples(samples: Sequence[Sample], limit: int, name: str) -> Systems:
    """At most `limit` of the samples, evenly spread.

    Raises:
        InputError: there is nothing to measure.
    """
    return collate_samples([samples[place] for place in _places(len(samples), limit, name)])[0]


def of_file(path: Path, limit: int, use_tags: bool) -> Systems:
    """At most `limit` structures of a file or folder, evenly spread; they need no labels.

    Raises:
        InputError: there is nothing to measure, or something cannot be read.
    """
    atoms = [one.atoms for one in read_structures(path) if isinstance(one, Source)]
    return from_atoms(
        [atoms[place] for place in _places(len(atoms), limit, path.name)], use_tags=use_tags
    )


def _places(n: int, limit: int, name: str) -> list[int]:
    """Evenly over all, since neighbors are often frames of one relaxation."""
    if limit < 1 or n < 1:
        raise InputError(
            f"{name} holds {n} structures, of which {limit} are to be measured; at least one is"
            " needed"
        )
    return sorted({round(place) for place in np.linspace(0, n - 1, min(limit, n)).tolist()})


def symmetry_task(model: LoadedModel, groups: Mapping[str, Systems], seed: int) -> dict[str, Any]:
    """Symmetry errors by source, as metrics.json holds them."""
    results = {}
    for name, systems in groups.items():
        with progress_line(SYMMETRY) as show:
            done = partial(_show_done, show, systems.n_systems)
            errors = measure_symmetry_errors(
                model, systems.to(model.device), n_rotations=N_ROTATIONS, seed=seed, progress=done
            )
        results[name] = {"n": systems.n_systems, **asdict(errors)}
    return results


def _show_done(show: Callable[[str], None], total: int, n: int) -> None:
    show(f"{SYMMETRY}: {n} of {total}")


def mad_task(model: LoadedModel, groups: Mapping[str, Systems], seed: int) -> dict[str, Any]:
    """Mean average distance by source and layer, as metrics.json holds it."""
    potential, results = model.potential, {}
    for name, systems in groups.items():
        layers = layer_mad(
            potential.model, systems, potential.policy, level=potential.level, seed=seed
        )
        results[name] = {"n": systems.n_systems, "layers": [asdict(layer) for layer in layers]}
    return results


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """What metrics.json of these tasks holds, for the terminal."""
    make = _symmetry_table if summary["task"] == SYMMETRY else _mad_table
    return [
        make(f"{summary['model']}, {name}, {found['n']} structures", found)
        for name, found in summary["results"].items()
    ]


def _symmetry_table(title: str, found: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("operation")
    kinds = [kind for kind in UNITS if any(found[name] and found[name][kind] for name in LABELS)]
    for kind in kinds:
        table.add_column(f"{kind} mean {UNITS[kind]}", justify="right")
        table.add_column(f"max {UNITS[kind]}", justify="right")
    for name, label in LABELS.items():
        cells = [_size(found[name], kind, which) for kind in kinds for which in ("mean", "maximum")]
        table.add_row(label, *cells)
    return table


def _size(operation: Mapping[str, Any] | None, kind: str, which: str) -> str:
    if operation is None or operation[kind] is None:
        return NOTHING
    return f"{operation[kind][which]:.1e}"


def _mad_table(title: str, found: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left")
    for head in ("depth", "neighbors", "all pairs", "update, neighbors", "update, all pairs"):
        table.add_column(head, justify="right")
    for layer in found["layers"]:
        numbers = [
            layer[name]
            for name in ("neighbors", "all_pairs", "update_neighbors", "update_all_pairs")
        ]
        table.add_row(
            str(layer["depth"]),
            *(NOTHING if number is None else f"{number:.4f}" for number in numbers),
        )
    return table
