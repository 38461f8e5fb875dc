"""Extended XYZ text of structures with all digits, so that reading it back is bitwise exact."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from geocalc.core.elements import symbols
from geocalc.core.projectors import LINE_DIRECTION, PLANE_NORMAL, normals_and_directions
from geocalc.core.systems import Systems
from geocalc.errors import InputError

_UNQUOTED = re.compile(r"[A-Za-z_][A-Za-z0-9_.:#/+-]*")
_WORD = re.compile(
    r"T|F|true|false|True|False|[-+]?(inf|nan|infinity)|[-+0-9.][-+0-9.eEdD_]*", re.IGNORECASE
)
_RESERVED = (
    "numbers",
    "positions",
    "tags",
    "move_mask",
    "species",
    "pos",
    PLANE_NORMAL,
    LINE_DIRECTION,
)


def format_extxyz(
    systems: Systems, info: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> str:
    """Format one structure as extended XYZ text.

    Args:
        systems: one structure. Its tags are written; `move_mask` (True for atoms that may move) if
            any component is fixed; and the columns `geocalc_plane_normal` and
            `geocalc_line_direction` if atoms are confined to planes or lines.
        info: further values for the comment line; values without a native format are written as
            JSON.
        arrays: further columns by name, each (n_atoms,) or (n_atoms, n) of numbers, bools or text.
    Raises:
        InputError: the number of structures in `systems` is not one.
    """
    if systems.n_systems != 1:
        raise InputError(f"expected a batch of one structure, got {systems.n_systems}")
    columns: dict[str, np.ndarray] = {
        "species": np.array(symbols())[systems.numbers.cpu().numpy()],
        "pos": systems.positions.cpu().numpy(),
        "tags": systems.tags.cpu().numpy(),
    }
    movable = ~systems.fixed.cpu().numpy()
    if not movable.all():
        per_row = (movable == movable[:, :1]).all()
        columns["move_mask"] = movable[:, 0] if per_row else movable
    if systems.projector is not None:
        found = zip(
            (PLANE_NORMAL, LINE_DIRECTION),
            normals_and_directions(systems.projector.cpu().numpy()),
            strict=True,
        )
        columns |= {name: vectors for name, vectors in found if vectors.any()}
    columns |= {name: np.asarray(array) for name, array in arrays.items() if name not in _RESERVED}

    layout = ":".join(
        f"{name}:{_kind(array)}:{1 if array.ndim == 1 else array.shape[1]}"
        for name, array in columns.items()
    )
    lattice = " ".join(repr(float(x)) for x in systems.cell[0].flatten())
    head = [f'Lattice="{lattice}"', f"Properties={layout}"]
    head += [
        f"{_quoted(str(key))}={_value(value)}" for key, value in info.items() if value is not None
    ]
    head.append('pbc="' + " ".join("FT"[int(p)] for p in systems.pbc[0]) + '"')
    cells = [
        [_number(x) for x in column]
        for array in columns.values()
        for column in array.reshape(systems.n_atoms, -1).T
    ]
    rows = [" ".join(row) for row in zip(*cells, strict=True)]
    return "\n".join([str(systems.n_atoms), " ".join(head), *rows]) + "\n"


def _kind(array: np.ndarray) -> str:
    """Return the extended XYZ type letter of a column."""
    return {"f": "R", "i": "I", "u": "I", "b": "L"}.get(array.dtype.kind, "S")


def _number(value: Any) -> str:
    """Format a single value without spaces."""
    if isinstance(value, (bool, np.bool_)):
        return "FT"[int(value)]
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    return "_".join(str(value).split()) or "_"


def _value(value: Any) -> str:
    """Format a value of the comment line such that ASE reads back the same type."""
    if isinstance(value, str):
        return _quoted(f"_JSON {json.dumps(value)}" if _is_ambiguous(value) else value)
    if isinstance(value, (bool, np.bool_, int, float, np.integer, np.floating)):
        return _number(value)
    if (
        isinstance(value, np.ndarray)
        and value.ndim == 1
        and value.dtype.kind in "fiub"
        and value.size > 1
    ):
        return '"' + " ".join(_number(x) for x in value) + '"'
    return _quoted("_JSON " + json.dumps(value, default=_to_json))


def _to_json(value: Any) -> Any:
    """Convert a value that the json module does not support."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _is_ambiguous(text: str) -> bool:
    """Whether a reader would parse the text as numbers, booleans or JSON."""
    return text.startswith("_JSON") or all(_WORD.fullmatch(word) for word in text.split())


def _quoted(text: str) -> str:
    """Quote text if necessary."""
    if _UNQUOTED.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
