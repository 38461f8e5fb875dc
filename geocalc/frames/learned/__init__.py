"""Canonicalizers: modules that give every structure of a batch its frames, from weights or from a
rule.

Those with weights, each trained with the network or frozen as drawn (`training.freeze:
[canonicalizer]`), are part of the network:

* `vn-pointnet`, `vn-dgcnn`: networks of vector neurons, whose pooled vectors make the frame;
* `signnet-mlp`, `signnet-vn`: principal axes, whose ends a network tells apart.

All see the network's edges within a reach, so frames do not depend on the image in which an atom is
stored, and follow the structure exactly: turns, with `proper: false` mirror images too,
permutations. Where their vectors span no frame (CH4, an adsorbate in a threefold hollow, linear
molecules and single atoms), the frames of the lattice or of PCA are averaged over, and `degenerate`
says so. Close to such a symmetry the one frame turns fast as atoms move, and forces, which go
through it, are large; a set of frames (`averaged`) does not have that fault. A frame policy is a
canonicalizer as well, without weights (`PolicyFrames`).

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
        InputError: no canonicalizer has that name; the message lists near names.
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
