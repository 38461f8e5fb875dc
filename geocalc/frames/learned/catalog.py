"""Canonicalizers by name; a new one is a file and a line in `CANONICALIZERS`.

A canonicalizer gives every structure of a batch its frames. Canonicalizers with weights are part
of the network, trained with it or frozen as drawn (`training.freeze: [canonicalizer]`):

* `vn-pointnet`, `vn-dgcnn`: networks of vector neurons, whose pooled vectors make the frame;
* `signnet-mlp`, `signnet-vn`: principal axes, whose signs a network chooses.

All use the network's edges within a reach, so frames do not depend on the image in which an atom is
stored, and are equivariant under rotations (with `proper: false` reflections too) and permutations.
Where their vectors span no frame (CH4, an adsorbate in a threefold hollow, linear molecules and
single atoms), the frames of the lattice or of PCA are averaged over, and `degenerate` marks the
structure. Close to such a symmetry the one frame turns fast as atoms move, and forces, which are
differentiated through it, are large; a set of frames (`averaged`) does not have that fault. A frame
policy is a canonicalizer without weights (`PolicyFrames`).

Source: Kaba et al., Equivariance with learned canonicalization functions (2023); Puny et al., Frame
averaging (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from geocalc.core.nearest import nearest
from geocalc.errors import InputError
from geocalc.frames.learned.base import Canonicalizer
from geocalc.frames.learned.settings import (
    CanonicalizerSettings,
    SignNetMLPSettings,
    VectorNeuronSettings,
)
from geocalc.frames.learned.signnet import SignNetMLP, SignNetVN
from geocalc.frames.learned.vn_dgcnn import VNDGCNN
from geocalc.frames.learned.vn_pointnet import VNPointNet


@dataclass(frozen=True)
class CanonicalizerKind:
    """A canonicalizer class and the settings it is built from; it takes the cutoff of the network
    too.
    """

    settings: type[CanonicalizerSettings]
    build: Callable[[Any, float], Canonicalizer]


CANONICALIZERS: Mapping[str, CanonicalizerKind] = {
    "signnet-mlp": CanonicalizerKind(SignNetMLPSettings, SignNetMLP),
    "signnet-vn": CanonicalizerKind(VectorNeuronSettings, SignNetVN),
    "vn-pointnet": CanonicalizerKind(VectorNeuronSettings, VNPointNet),
    "vn-dgcnn": CanonicalizerKind(VectorNeuronSettings, VNDGCNN),
}


def build_canonicalizer(values: Mapping[str, Any], cutoff: float) -> Canonicalizer:
    """The canonicalizer with weights that `values` describe, drawn from the global seed.

    Args:
        values: its `name` and settings.
        cutoff: Angstrom, of the network that it serves.
    Raises:
        InputError: no canonicalizer has that name; the message suggests near names.
        RecipeError: a setting is unknown or not allowed.
    """
    name = values.get("name")
    kind = CANONICALIZERS.get(str(name))
    if kind is None:
        raise InputError(
            f"no canonicalizer with weights is called {name!r};"
            f" {nearest(str(name), CANONICALIZERS)}"
        )
    return kind.build(kind.settings.parse(values, "canonicalizer"), cutoff)
