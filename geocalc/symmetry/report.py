"""Symmetry breaking of a trained network: its relaxed weights, interpreted as tensors.

Source: Hofgard, Wang, Walters and Smidt, Relaxed Equivariant Graph Neural Networks, arXiv
2407.20471 (2024). The symmetry breaking can be distributed over the layers, and the tensor product
of a layer can absorb a factor of its relaxed weights: compare directions, subspaces and symmetries
of layers, not lengths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from geocalc.calculator import GeoCalc
from geocalc.errors import InputError
from geocalc.nn.relaxed_weights import Theta, thetas
from geocalc.potentials.load import LoadedModel, load_model
from geocalc.symmetry.invariants import Part, invariant_projector, quadrupole_matrix
from geocalc.symmetry.point_groups import as_group, identify_point_group, point_group, rotated_group
from geocalc.symmetry.stabilizers import Stabilizer, direction_text, find_stabilizer

TOLERANCE = 0.02
ZERO = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Axes:
    """Principal axes of a component of degree 2, largest absolute value first.

    Attributes:
        values: (3,) eigenvalues of the symmetric traceless matrix; 1 : 1 : -2 for a prism.
        vectors: (3, 3) unit vectors as rows.
    """

    values: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Component(Part):
    """One copy of an irrep in the relaxed weights of a layer.

    Attributes:
        layer: name of the weights in the network.
        copy: index among the copies of its irrep, from 0.
        relative: length divided by that of a 0e of the layer (root mean square over its copies);
            None without 0e.
        kept_fraction: fraction of the squared length that is invariant under the group; None
            without a group or for a zero component.
        dimension: dimension of the subspace that is invariant under the group; None without a
            group.
        is_zero: whether the length is below `zero` times the length of all weights of the layer.
        direction: (3,) unit vector of 1o (polar) and 1e (axial); None for other irreps.
        axes: principal axes of 2e and 2o; None for other irreps.
    """

    layer: str
    copy: int
    relative: float | None
    share: float | None
    dimension: int | None
    is_zero: bool
    direction: np.ndarray | None
    axes: Axes | None

    @property
    def irrep(self) -> str:
        """Name of the irrep, such as `2e`."""
        return f"{self.degree}{'e' if self.parity == 1 else 'o'}"

    def angle(self, direction: np.ndarray) -> float:
        """Compute the angle between a direction and this vector or the first principal axis.

        Args:
            direction: (3,) such as a surface normal; its sign does not matter.
        Returns:
            Degrees, 0 to 90.
        Raises:
            InputError: this component has no direction, or the given direction has no length.
        """
        own = self.direction if self.axes is None else self.axes.vectors[0]
        if own is None:
            raise InputError(
                f"{self.irrep} of {self.layer} has no direction: it is zero, or of another degree"
                " than 1 and 2"
            )
        given = np.asarray(direction, dtype=np.float64)
        if given.shape != (3,) or not np.linalg.norm(given) > 0:
            raise InputError(
                f"a direction has three components that are not all zero, got {given.tolist()}"
            )
        given = given / np.linalg.norm(given)
        return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(own, given)), abs(own @ given))))


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerBreaking:
    """Symmetry breaking of one layer.

    Attributes:
        name: name of the layer in the network.
        components: all copies of all irreps, in the order of the weights.
        symmetry: largest group that leaves the components invariant.
    """

    name: str
    components: tuple[Component, ...]
    symmetry: Stabilizer

    @property
    def broken(self) -> float:
        """Euclidean norm of all components other than 0e."""
        return float(np.sqrt(sum(one.length**2 for one in self.components if not one.is_scalar)))

    @property
    def share(self) -> float | None:
        """Fraction of the squared length that is invariant under the group.

        0e and zero components are excluded; None without other components.
        """
        told = [
            (one.length**2, one.share)
            for one in self.components
            if not one.is_scalar and one.share is not None
        ]
        return (
            sum(squared * share for squared, share in told) / sum(squared for squared, _ in told)
            if told
            else None
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SymmetryBreaking:
    """Symmetry breaking of a network; `print` shows it as a table.

    Attributes:
        layers: one entry for each set of relaxed weights.
        symmetry: largest group under which all layers are invariant.
        group: name of the group that the fractions refer to; None without a group.
    """

    layers: tuple[LayerBreaking, ...]
    symmetry: Stabilizer
    group: str | None

    @property
    def components(self) -> Iterator[Component]:
        """Components of all layers."""
        return (one for layer in self.layers for one in layer.components)

    def __str__(self) -> str:
        return breaking_text(self)


def symmetry_breaking(
    model: nn.Module | LoadedModel | GeoCalc | str | os.PathLike[str],
    group: str | np.ndarray | None = None,
    *,
    orientation: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    zero: float = ZERO,
) -> SymmetryBreaking:
    """Read what symmetry a network with relaxed weights has given up.

    Directions and groups are along the axes in which the network sees structures: those of a file
    with `frames: none`, those of the lattice with `single` or `averaged`.

    Args:
        model: name or folder of a model, a loaded one, the calculator, or a network.
        group: that one expects to be left, by name or as (n, 3, 3) Cartesian matrices (see
            `geocalc.symmetry.structure_groups.find_point_group`).
        orientation: (3, 3) orthogonal; a group given by name, and the axes along which symmetries
            are looked for, are turned by it.
        tolerance: an element of O(3) is kept if it changes the relaxed weights by less than this
            part of what is not 0e.
        zero: components shorter than this part of all the weights of their layer are said to be
            zero, and not judged.
    Raises:
        InputError: the model has no relaxed weights or ones that are no numbers, the group or the
            orientation is none, or a tolerance is not between 0 and 1.
    """
    if not (0 < tolerance < 1 and 0 <= zero < 1):
        raise InputError(
            f"tolerance and zero are parts of a length between 0 and 1, got {tolerance} and {zero}"
        )
    found = relaxed_weights(model)
    if orientation is not None:
        rotated_group(np.eye(3)[None], orientation)
    matrices = (
        point_group(group, orientation)
        if isinstance(group, str)
        else None
        if group is None
        else as_group(group)
    )
    layers = []
    for name, theta in found:
        components = _components(name, theta, matrices, zero)
        symmetry = find_stabilizer([_counted(components)], tolerance, matrices, orientation)
        layers.append(LayerBreaking(name=name, components=components, symmetry=symmetry))
    one = len(layers) == 1
    common = (
        layers[0].symmetry
        if one
        else find_stabilizer(
            [_counted(layer.components) for layer in layers], tolerance, matrices, orientation
        )
    )
    title = None if matrices is None else str(identify_point_group(matrices))
    return SymmetryBreaking(layers=tuple(layers), symmetry=common, group=title)


def relaxed_weights(
    model: nn.Module | LoadedModel | GeoCalc | str | os.PathLike[str],
) -> list[tuple[str, Theta]]:
    """Return the relaxed weights of a model with their names in its network.

    Raises:
        InputError: the model has no relaxed weights.
    """
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model, device="cpu")
    loaded = model.model if isinstance(model, GeoCalc) else model
    network = loaded.potential.model.network if isinstance(loaded, LoadedModel) else loaded
    if not isinstance(network, nn.Module):
        raise InputError(
            f"a model is a name, a folder, a calculator or a network, got {type(network).__name__}"
        )
    found = [(name or "theta", theta) for name, theta in thetas(network)]
    if not found:
        whose = loaded.card.name if isinstance(loaded, LoadedModel) else type(network).__name__
        raise InputError(
            f"{whose} has no relaxed weights, so it cannot have given up any symmetry by them; take"
            " a relaxed network"
        )
    return found


def parts_of(theta: Theta) -> list[Part]:
    """Return the components of every copy of every irrep, in the order of the weights, float64."""
    return [
        Part(degree=block.degree, parity=block.parity, values=row)
        for block, rows in zip(theta.blocks, theta.parts(), strict=True)
        for row in rows.detach().cpu().double().numpy()
    ]


def _components(
    name: str, theta: Theta, group: np.ndarray | None, zero: float
) -> tuple[Component, ...]:
    parts = parts_of(theta)
    total = float(np.sqrt(sum(part.length**2 for part in parts)))
    if not np.isfinite(total):
        raise InputError(
            f"the relaxed weights of {name} are not all finite numbers; the training of this"
            " network has failed"
        )
    scalars = [part.length**2 for part in parts if part.is_scalar]
    unit = float(np.sqrt(np.mean(scalars))) if scalars else 0.0
    seen: dict[tuple[int, int], int] = {}
    components = []
    for part in parts:
        kind = (part.degree, part.parity)
        copy = seen[kind] = seen.get(kind, -1) + 1
        is_zero = part.length <= zero * total
        space = None if group is None else invariant_projector(group, *kind)
        share = (
            None
            if space is None or is_zero
            else float(np.sum((space @ part.values) ** 2)) / part.length**2
        )
        component = Component(
            layer=name,
            degree=part.degree,
            parity=part.parity,
            copy=copy,
            values=part.values,
            relative=part.length / unit if unit > 0 else None,
            share=share,
            dimension=None if space is None else round(float(np.trace(space))),
            is_zero=is_zero,
            direction=part.values / part.length if part.degree == 1 and not is_zero else None,
            axes=_principal(part.values) if part.degree == 2 and not is_zero else None,
        )
        components.append(component)
    return tuple(components)


def _counted(components: tuple[Component, ...]) -> list[Part]:
    """Drop the zero components."""
    return [one for one in components if not one.is_zero]


def _principal(values: np.ndarray) -> Axes:
    sizes, vectors = np.linalg.eigh(quadrupole_matrix(values))
    order = np.argsort(-np.abs(sizes), kind="stable")
    rows = vectors[:, order].T
    upright = np.sign(rows[np.arange(3), np.abs(rows).argmax(axis=1)])
    return Axes(values=sizes[order], vectors=rows * upright[:, None])


NOTHING = "-"
VECTOR = {1: "axial vector", -1: "polar vector"}  # by parity


def breaking_text(breaking: SymmetryBreaking) -> str:
    """Format symmetry breaking as a table.

    Each component has a row, and each layer a line with its remaining symmetry.
    """
    judged = breaking.group is not None
    heads = [
        "layer",
        "irrep",
        "length",
        "/ 0e",
        *(["kept", "space"] if judged else []),
        "direction",
    ]
    table = _aligned(
        [
            heads,
            *(_row(layer, one, judged) for layer in breaking.layers for one in layer.components),
        ]
    )
    lines, left = (
        [_title(breaking), "", table[0]],
        " " * (2 + max(len(name) for name in ["layer", *_names(breaking)])),
    )
    rows = iter(table[1:])
    for layer in breaking.layers:
        shown = [row for one, row in zip(layer.components, rows, strict=False) if not one.is_zero]
        name = f"{layer.name:<{len(left)}}"
        lines += [
            name + row[len(left) :] if k == 0 else left + row[len(left) :]
            for k, row in enumerate(shown)
        ]
        zero = [_irrep(layer, one) for one in layer.components if one.is_zero]
        lines += [f"{left}zero: {', '.join(zero)}"] if zero else []
        lines += [f"{left}{_left(layer)}"]
    if judged:
        lines += [
            "",
            (
                f"kept: share of the squared length that {breaking.group} leaves as it is; space:"
                " dimension of all it leaves"
            ),
        ]
    return "\n".join(line.rstrip() for line in lines)


def _names(breaking: SymmetryBreaking) -> list[str]:
    return [layer.name for layer in breaking.layers]


def _row(layer: LayerBreaking, one: Component, judged: bool) -> list[str]:
    relative = NOTHING if one.relative is None else f"{one.relative:.4f}"
    group = [_share(one), f"{one.dimension} of {len(one.values)}"] if judged else []
    return [layer.name, _irrep(layer, one), f"{one.length:.4f}", relative, *group, _direction(one)]


def _irrep(layer: LayerBreaking, one: Component) -> str:
    """Name the irrep, with the number of the copy if there are several."""
    alone = all(other.copy == 0 for other in layer.components if other.irrep == one.irrep)
    return one.irrep if alone else f"{one.irrep} {one.copy + 1}"


def _title(breaking: SymmetryBreaking) -> str:
    number = len(breaking.layers)
    layers = "1 layer" if number == 1 else f"{number} layers"
    if breaking.symmetry.schoenflies == "O(3)":
        return (
            f"relaxed weights of {layers}: nothing is broken, the network is equivariant under O(3)"
        )
    return f"relaxed weights of {layers}: the symmetry left is {breaking.symmetry}"


def _left(layer: LayerBreaking) -> str:
    if layer.symmetry.schoenflies == "O(3)":
        return "nothing is broken: O(3)"
    return f"left: {layer.symmetry}"


def _share(one: Component) -> str:
    return NOTHING if one.share is None else f"{one.share:.2%}"


def _direction(one: Component) -> str:
    if one.direction is not None:
        return f"{VECTOR[one.parity]} {direction_text(one.direction)}"
    return "" if one.axes is None else _axes(one.axes)


def _axes(axes: Axes) -> str:
    """Format the first axis and the values along all three, scaled so that the largest is 2."""
    sizes = " : ".join(f"{2 * value / axes.values[0]:+.2f}" for value in axes.values)
    return f"axis {direction_text(axes.vectors[0])}, axes {sizes}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Align cells in columns: text to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            f"{cell:<{width}}" if k in (0, 1, last) else f"{cell:>{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
