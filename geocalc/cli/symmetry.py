"""The work of `geocalc symmetry`: the broken symmetry that relaxed weights of a model show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from geocalc.errors import InputError
from geocalc.potentials.load import load_model
from geocalc.structures.readers import Source, read_structures
from geocalc.symmetry.orientations import best_orientation
from geocalc.symmetry.plot import plot_breaking
from geocalc.symmetry.point_groups import identify_point_group, rotated_group
from geocalc.symmetry.point_groups import point_group as group_named
from geocalc.symmetry.report import relaxed_weights, symmetry_breaking
from geocalc.symmetry.stabilizers import direction_text
from geocalc.symmetry.structure_groups import find_point_group


def symmetry_command(
    model: str,
    group: str | None,
    structure: Path | None,
    align: bool,
    tolerance: float,
    plot: Path | None,
) -> str:
    """The table, and a sentence for each thing done besides.

    Args:
        model: name or folder.
        group: name of a point group.
        structure: file whose first structure has the group, in place of a name.
        align: whether the group is turned to where it fits best.
        tolerance: see `symmetry_breaking`.
        plot: PNG to write.
    Raises:
        InputError: a group is given twice or to be turned and not given; see also
            `symmetry_breaking`.
    """
    if group is not None and structure is not None:
        raise InputError(
            "the group is given twice, by name and by a structure; give one of --group and"
            " --structure"
        )
    matrices = (
        group_named(group)
        if group is not None
        else None
        if structure is None
        else find_point_group(_first(structure))
    )
    if matrices is None and align:
        raise InputError("there is no group to turn; give one with --group or --structure")
    loaded, notes, rotation = load_model(model, device="cpu"), [], None
    if structure is not None and matrices is not None:
        notes.append(f"{structure.name} has the point group {identify_point_group(matrices)}")
    if matrices is not None and align:
        best = best_orientation((theta for _, theta in relaxed_weights(loaded)), matrices)
        rotation, matrices = best.rotation, rotated_group(matrices, best.rotation)
        notes.append(
            f"{identify_point_group(matrices)} keeps {best.share:.2%} after a turn by"
            f" {_turn_text(rotation)}"
        )
    breaking = symmetry_breaking(loaded, matrices, orientation=rotation, tolerance=tolerance)
    if plot is not None:
        notes.append(f"{plot_breaking(breaking, plot)}: drawn")
    return "\n".join([str(breaking), *(["", *notes] if notes else [])])


def _first(path: Path) -> Atoms:
    """The first structure of a file."""
    found = next((one.atoms for one in read_structures(path) if isinstance(one, Source)), None)
    if found is None:
        raise InputError(
            f"{path}: there is no structure that can be read; give a file that ASE reads"
        )
    return found


def _turn_text(rotation: np.ndarray) -> str:
    vector = Rotation.from_matrix(rotation).as_rotvec()
    angle = float(np.linalg.norm(vector))
    return f"{np.degrees(angle):.2f}°" + (
        f" about {direction_text(vector / angle)}" if angle > 1e-9 else ""
    )
