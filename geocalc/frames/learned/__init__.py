"""Canonicalizers: modules that predict the frames of every structure of a batch.

Canonicalizers with weights are part of the network and trained with it, or keep their initial
weights (`training.freeze: [canonicalizer]`):

* `vn-pointnet`, `vn-dgcnn`: vector-neuron networks, whose mean vectors span the frame;
* `signnet-mlp`, `signnet-vn`: principal axes, whose signs are chosen by a network.

All use the edges of the network within a reach, so frames do not depend on the image in which an
atom is stored, and are exactly equivariant under rotations, with `proper: false` also under
reflections, and invariant under permutations. If the vectors of a structure span no frame (CH4, an
adsorbate in a threefold hollow, linear molecules and single atoms), the average over lattice or PCA
frames is used and `degenerate` is set. Close to such a symmetry the frame rotates fast as atoms
move, and the forces, which are propagated through it, are large; the policy `averaged` avoids this.
A frame policy is a canonicalizer without weights (`PolicyFrames`).

Source: Kaba et al., Equivariance with learned canonicalization functions (2023); Puny et al., Frame
averaging (2022).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from geocalc.errors import InputError
from geocalc.frames.learned.base import Canonicalizer, Geometry, PolicyFrames
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
    """Canonicalizer class and its settings.

    Attributes:
        settings: class of the settings.
        build: called with the settings and the cutoff of the network in Angstrom.
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
    """Build a canonicalizer with weights, initialized from the global random state.

    Args:
        values: its `name` and settings.
        cutoff: Angstrom, cutoff of the network.
    Raises:
        InputError: the name is unknown; the message lists similar names.
        RecipeError: a setting is unknown or not allowed.
    """
    name = values.get("name")
    kind = CANONICALIZERS.get(str(name))
    if kind is None:
        raise InputError(
            f"no canonicalizer with weights is called {name!r};"
            f" {_advice(str(name), list(CANONICALIZERS))}"
        )
    return kind.build(kind.settings.parse(values, "canonicalizer"), cutoff)


def _advice(name: str, known: list[str]) -> str:
    """Return the end of a message with names similar to an unknown one."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"near names: {', '.join(near)}" if near else f"known names: {', '.join(known)}"


__all__ = [
    "CANONICALIZERS",
    "Canonicalizer",
    "CanonicalizerKind",
    "CanonicalizerSettings",
    "Geometry",
    "PolicyFrames",
    "build_canonicalizer",
]
