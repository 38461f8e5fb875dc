"""Waves of a batch: functions of positions and cells for Ewald message passing.

They are computed once for all layers and frames. Structures that are periodic along two or three
lattice vectors have plane waves exp(i k.x). Along an open direction k lies on a grid of spacing
`delta_k`, and the wave of an atom is averaged over a voxel of that grid. In a molecule waves are
averaged over all directions of k, which gives sin(k r) / (k r) for two atoms at distance r. Phases
and distances are invariant under rotation, so waves are independent of frames.

Source: Kosmala et al., Ewald-based long-range message passing for molecular graphs (ICML 2023);
docstrings mention deviations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from geocalc.core.matrices import determinant, inverse
from geocalc.core.settings import Settings
from geocalc.errors import InputError
from geocalc.nn.ewald.indices import indices_in_box, indices_within
from geocalc.nn.ewald.padding import Layout, make_layout

SERIES_TERMS = 10  # terms of the series of sin(x) / x below x = 1; the next is 1/21!
AXES = "abc"

Index = Annotated[int, Field(ge=0, le=20)]


class Filter(StrEnum):
    """Variable of the filter: |k|, or, as published for periodic cells, the indices of k."""

    RADIAL = "radial"
    INDEX = "index"


class EwaldSettings(Settings):
    """Settings of Ewald message passing; wave numbers in 1/Angstrom.

    With `radial` the energy depends on the crystal only, not on the choice of the cell. `index` is
    the published filter: its weights belong to indices with respect to the lattice vectors, so the
    energy changes if the vectors are permuted or the cell is repeated.

    In slabs the window is centered at the mean height of the atoms and damps the contribution of
    distant atoms: at the default `delta_k` by 1 % at 5 Angstrom and 4 % at 10 Angstrom.
    """

    filter: Filter = Filter.RADIAL
    k_cutoff: float = Field(1.2, gt=0, description="radial: largest wave number |k|, in 1/Angstrom")
    delta_k: float = Field(
        0.1, gt=0, description="radial: spacing of k along open directions, in 1/Angstrom"
    )
    num_radial: int = Field(16, ge=2, description="radial: number of Gaussians of |k|")
    grid: tuple[Index, Index, Index] = Field(
        (1, 1, 3), description="index: largest index of k along each lattice vector"
    )
    down_size: int = Field(8, ge=1, description="rank of the filter")
    num_hidden: int = Field(3, ge=0, description="number of residual layers after the message")

    @field_validator("grid")
    @classmethod
    def _not_empty(cls, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        if not any(grid):
            raise ValueError("grid must have at least one index above 0, such as (1, 1, 3)")
        return grid


@dataclass(frozen=True, kw_only=True)
class PlaneWaves:
    """Plane waves of structures that are periodic along two or three lattice vectors.

    Attributes:
        layout: layout of their atoms in padded arrays of (n_rows, n_max).
        lengths: (n_rows, n_waves) 1/Angstrom, |k|.
        weights: (n_rows, n_waves) 1/Angstrom^3, such that the sum over waves of both signs of k is
            the sum over the reciprocal lattice divided by the volume (an integral over k / (2 pi)^3
            along open directions); 0 for padding. For an indexed filter all weights are one.
        cosines: (n_rows, n_max, n_waves) cos(k.x) times the window of the atom.
        sines: (n_rows, n_max, n_waves) sin(k.x) times the window of the atom.
    """

    layout: Layout
    lengths: Tensor
    weights: Tensor
    cosines: Tensor
    sines: Tensor


@dataclass(frozen=True, kw_only=True)
class PairWaves:
    """Waves of molecules, averaged over the directions of k.

    Attributes:
        layout: layout of their atoms in padded arrays of (n_rows, n_max).
        lengths: (1, n_waves) 1/Angstrom, |k|.
        weights: (1, n_waves) 1/Angstrom^3, weights of the integral over k / (2 pi)^3.
        waves: (n_rows, n_max, n_max, n_waves), sin(k r) / (k r) times the window of the pair.
    """

    layout: Layout
    lengths: Tensor
    weights: Tensor
    waves: Tensor


@dataclass(frozen=True, kw_only=True)
class Waves:
    """Waves of a batch, or of its copies for frames.

    Attributes:
        plane: waves of periodic structures, or None.
        pairs: waves of molecules, or None.
    """

    plane: PlaneWaves | None
    pairs: PairWaves | None

    def copies(self, owner: Tensor, system_idx: Tensor, dtype: torch.dtype) -> Waves:
        """Return a copy of the waves of each structure for every frame.

        Args:
            owner: (n_frames,) int64, structure of each frame, ascending.
            system_idx: (n_copied_atoms,) int64, frame of each atom.
            dtype: floating type of the copies.
        """
        plane, pairs = self.plane, self.pairs
        if plane is not None:
            rows, layout = plane.layout.copies(owner, system_idx)
            plane = PlaneWaves(
                layout=layout,
                lengths=_rows(plane.lengths, rows).to(dtype),
                weights=_rows(plane.weights, rows).to(dtype),
                cosines=_rows(plane.cosines, rows).to(dtype),
                sines=_rows(plane.sines, rows).to(dtype),
            )
        if pairs is not None:
            rows, layout = pairs.layout.copies(owner, system_idx)
            pairs = replace(
                pairs,
                layout=layout,
                lengths=pairs.lengths.to(dtype),
                weights=pairs.weights.to(dtype),
                waves=_rows(pairs.waves, rows).to(dtype),
            )
        return Waves(plane=plane, pairs=pairs)


def make_waves(
    positions: Tensor, cell: Tensor, system_idx: Tensor, pbc: Tensor, settings: EwaldSettings
) -> Waves:
    """Compute the waves of a batch; differentiable with respect to positions and cell.

    Args:
        positions: (n_atoms, 3) Angstrom.
        cell: (n_systems, 3, 3) Angstrom, rows are lattice vectors; those of open directions are
            ignored and may be zero.
        system_idx: (n_atoms,) int64, ascending.
        pbc: (n_systems, 3) bool.
        settings: filter and range of waves.
    Raises:
        InputError: a structure is periodic along one vector only, or the filter is indexed and a
            structure is not periodic along three; periodic vectors have zero volume; or there are
            too many waves.
    """
    periodic = pbc.tolist()
    _check(periodic, settings)
    n_systems = len(periodic)
    lattices = [k for k, along in enumerate(periodic) if any(along)]
    molecules = [k for k, along in enumerate(periodic) if not any(along)]
    plane, pairs = None, None
    if lattices:
        layout = make_layout(system_idx, n_systems, lattices)
        rows = torch.tensor(lattices, device=cell.device)
        plane = _plane_waves(
            positions, cell.index_select(0, rows), [periodic[k] for k in lattices], layout, settings
        )
    if molecules:
        pairs = _pair_waves(positions, make_layout(system_idx, n_systems, molecules), settings)
    return Waves(plane=plane, pairs=pairs)


def _check(periodic: Sequence[Sequence[bool]], settings: EwaldSettings) -> None:
    """Check that the waves are defined for the periodicity of all structures."""
    for k, along in enumerate(periodic):
        if sum(along) == 1:
            raise InputError(
                f"structure {k} is periodic along {AXES[list(along).index(True)]} only, which Ewald"
                " message passing does not support; make it periodic along two or three vectors,"
                " or use a model without Ewald"
            )
        if settings.filter is Filter.INDEX and not all(along):
            named = (
                ", ".join(axis for axis, on in zip(AXES, along, strict=True) if on) or "no vector"
            )
            raise InputError(
                f"structure {k} is periodic along {named}; the indexed Ewald filter needs three"
                " periodic vectors: set pbc, or use a model with filter: radial"
            )


def sinc(squared: Tensor) -> Tensor:
    """Return sin(x) / x for x^2 = `squared`, with exact derivatives at zero."""
    small = squared < 1
    inner = torch.where(small, squared, 0.0)
    series = torch.ones_like(inner)
    for n in range(SERIES_TERMS - 1, 0, -1):
        series = 1 - series * inner / (2 * n * (2 * n + 1))
    x = torch.where(small, 1.0, squared).sqrt()
    return torch.where(small, series, torch.sin(x) / x)


def voxel_window(distance: Tensor, delta_k: float) -> Tensor:
    """Return the mean of exp(i q x) over |q| < delta_k / 2: sin(y) / y with y = delta_k x / 2.

    The published code calls `torch.sinc(y)`, which is sin(pi y) / (pi y); it decays pi times faster
    than the mean.

    Args:
        distance: x in Angstrom, any shape.
        delta_k: 1/Angstrom.
    """
    return sinc((0.5 * delta_k * distance) ** 2)


def _plane_waves(
    positions: Tensor,
    cell: Tensor,
    periodic: Sequence[Sequence[bool]],
    layout: Layout,
    settings: EwaldSettings,
) -> PlaneWaves:
    """Compute the plane waves of the structures of a layout."""
    cell = _complete_cells(cell, periodic)
    volume = determinant(cell).abs()
    edges = cell.detach().norm(dim=2).prod(1)
    if not bool((volume > 1e-6 * edges).all()):
        raise InputError(
            "the periodic vectors of a cell are linearly dependent, so it has no reciprocal"
            " lattice; check the cell"
        )
    spacing = settings.delta_k / (2 * math.pi)
    along_each = [
        (1.0 if a else spacing, 1.0 if b else spacing, 1.0 if c else spacing)
        for a, b, c in periodic
    ]
    indices, counts = _indices(cell, along_each, settings)
    steps = torch.tensor(along_each, dtype=cell.dtype, device=cell.device)
    vectors = 2 * math.pi * (indices * steps[:, None]) @ inverse(cell).transpose(1, 2)
    lengths = (vectors * vectors).sum(2).clamp(min=1e-24).sqrt()
    weights = (
        counts if settings.filter is Filter.INDEX else counts * (steps.prod(1) / volume)[:, None]
    )
    padded = layout.pad(positions)
    phases = padded @ vectors.transpose(1, 2)
    cosines, sines = torch.cos(phases), torch.sin(phases)
    if not all(map(all, periodic)):
        window = _window(padded, cell, periodic, layout, settings.delta_k)[:, :, None]
        cosines, sines = cosines * window, sines * window
    return PlaneWaves(layout=layout, lengths=lengths, weights=weights, cosines=cosines, sines=sines)


def _complete_cells(cell: Tensor, periodic: Sequence[Sequence[bool]]) -> Tensor:
    """Replace the open lattice vector of cells (n_rows, 3, 3) by the unit normal of the others."""
    if all(map(all, periodic)):
        return cell
    completed = []
    for matrix, along in zip(cell, periodic, strict=True):
        rows = list(matrix)
        if not all(along):
            axis = list(along).index(False)
            normal = torch.linalg.cross(rows[axis - 2], rows[axis - 1])
            rows[axis] = normal / (normal * normal).sum().clamp(min=1e-24).sqrt()
        completed.append(torch.stack(rows))
    return torch.stack(completed)


def _indices(
    cell: Tensor, steps: Sequence[tuple[float, float, float]], settings: EwaldSettings
) -> tuple[Tensor, Tensor]:
    """Return the padded indices of the waves and their multiplicities.

    A wave represents k and -k, so it counts twice. k = 0 counts once if one direction is open, as a
    point of an integral, and not at all on a lattice. The published sum is over one half; the
    indexed filter follows it.

    Returns:
        Indices (n_rows, n_waves, 3) and multiplicities (n_rows, n_waves).
    """
    if settings.filter is Filter.INDEX:
        found = [indices_in_box(settings.grid)] * len(steps)
    else:
        lattices = [matrix.tobytes() for matrix in cell.detach().double().cpu().numpy()]
        found = [
            indices_within(lattice, step, settings.k_cutoff)
            for lattice, step in zip(lattices, steps, strict=True)
        ]
    padded = np.zeros((len(found), 1 + max(map(len, found)), 3))
    counts = np.zeros(padded.shape[:2])
    for row, (indices, step) in enumerate(zip(found, steps, strict=True)):
        counts[row, 0] = 0.0 if step == (1.0, 1.0, 1.0) else 1.0
        counts[row, 1 : 1 + len(indices)] = 1.0 if settings.filter is Filter.INDEX else 2.0
        padded[row, 1 : 1 + len(indices)] = indices
    start = 0 if counts[:, 0].any() else 1
    return torch.from_numpy(padded[:, start:]).to(cell), torch.from_numpy(counts[:, start:]).to(
        cell
    )


def _window(
    padded: Tensor, cell: Tensor, periodic: Sequence[Sequence[bool]], layout: Layout, delta_k: float
) -> Tensor:
    """Return the window of each atom along the normal of its slab, (n_rows, n_max); 1 in crystals.

    Heights are relative to the mean height of the atoms.
    """
    axes = [0 if all(along) else list(along).index(False) for along in periodic]
    open_ = torch.tensor([not all(along) for along in periodic], device=cell.device)
    normal = cell[
        torch.arange(len(axes), device=cell.device), torch.tensor(axes, device=cell.device)
    ]
    height = (padded @ normal[:, :, None])[:, :, 0]  # 0 for padding
    mean = height.sum(1) / layout.counts
    return torch.where(open_[:, None], voxel_window(height - mean[:, None], delta_k), 1.0)


def _pair_waves(positions: Tensor, layout: Layout, settings: EwaldSettings) -> PairWaves:
    """Compute the waves of the molecules of a layout."""
    n_waves = max(1, math.ceil(settings.k_cutoff / settings.delta_k) - 1)
    spacing = settings.k_cutoff / (n_waves + 1)
    lengths = spacing * torch.arange(1, n_waves + 1, dtype=positions.dtype, device=positions.device)
    padded = layout.pad(positions)
    vectors = padded[:, :, None] - padded[:, None]
    squared = (vectors * vectors).sum(3, keepdim=True)
    return PairWaves(
        layout=layout,
        lengths=lengths[None],
        weights=(lengths**2 * spacing / (2 * math.pi**2))[None],
        waves=sinc(squared * lengths**2) * sinc(squared * (spacing / 2) ** 2),
    )


def _rows(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, rows)
