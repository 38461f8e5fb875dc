"""Frame policies, their names, and the frames they give.

Frames are orthogonal matrices that turn a structure into a canonical pose. Rows are vectors, so a
pose is `vectors @ rotation`, and a vector predicted in the pose returns as `vector @ rotation.T`.
A policy says where frames come from and how many are used:

* `averaged`: every frame that puts one of the shortest in-plane lattice vectors along x, with both
  mirror images (12 for a hexagonal, 8 for a square or rhombic, else 4), averaged. Independent of
  positions, so energies are continuous and gradient forces are exact; unchanged by rotation,
  re-wrapping and another choice of in-plane basis.
* `single`: one of them, the first lattice vector along x: several times cheaper, depends on the
  choice of basis.
* `stochastic`: one of the `averaged` set at random; for training.
* `pca-...`: axes of the covariance of positions or edges (`pca-2d`, `pca-3d`, `pca-edges-2d`,
  `pca-edges-3d`, each with an optional `-se` for proper rotations only and `-one` or `-stochastic`
  for one frame; `-one` keeps all frames that the symmetry of the structure makes alike). Frames
  from positions change when an atom of a periodic structure is stored in another image; frames
  from edges do not.
* `rotations-2d`, `rotations-3d`: a uniformly random rotation or reflection, with `-se` a rotation;
  for training.
* `none`: the pose as given.
* `learned`: given by the canonicalizer of the network, see `geocalc.frames.learned`.

Under the lattice policies (`averaged`, `single`, `stochastic`) molecules use `pca-3d` frames and
structures periodic along one vector `pca-edges-3d` frames.

Source: Puny et al., Frame averaging (2022); Duval et al., FAENet (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from geocalc.core.nearest import nearest
from geocalc.errors import InputError


class FrameSource(StrEnum):
    """Quantity that the frames are computed from."""

    NONE = "none"
    LATTICE = "lattice"
    POSITIONS = "positions"
    EDGES = "edges"
    ROTATIONS = "rotations"
    LEARNED = "learned"


class FramePick(StrEnum):
    """Selection of frames from the set."""

    ALL = "all"
    ONE = "one"
    STOCHASTIC = "stochastic"


@dataclass(frozen=True)
class FramePolicy:
    """Source, number, dimensions and handedness of frames.

    Attributes:
        source: lattice, positions, edges, random rotations, none, or learned. With learned, the
            settings of the network's canonicalizer replace those below.
        pick: all, one or stochastic.
        dimensions: 2 for rotations about z only, 3 for all rotations; ignored by the lattice.
        proper: rotations only, without mirror images; ignored by the lattice.
        reach: Angstrom, length at which the weight of an edge in the edge covariance vanishes. It
            must not exceed the cutoff of the network, otherwise the frames are discontinuous where
            an edge crosses the cutoff.
    """

    source: FrameSource
    pick: FramePick = FramePick.ALL
    dimensions: int = 2
    proper: bool = False
    reach: float = 4.0

    def __post_init__(self) -> None:
        """Check dimensions and reach."""
        if self.dimensions not in (2, 3):
            raise InputError(f"dimensions of a frame policy must be 2 or 3, got {self.dimensions}")
        if not self.reach > 0:
            raise InputError(f"reach must be a positive length in Angstrom, got {self.reach}")


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of a batch.

    Attributes:
        rotations: (n_frames, 3, 3) orthogonal, in the floating type of the structures; columns are
            the axes of the frame.
        system_idx: (n_frames,) int64, ascending; the structure of each frame.
        degenerate: (n_systems,) bool, True if edges have components along tied axes: the frames
            then depend on a secondary rule, and the energy may be discontinuous where the tie
            opens.
    """

    rotations: Tensor
    system_idx: Tensor
    degenerate: Tensor


def _named_policies() -> dict[str, FramePolicy]:
    """Return all policies by name."""
    named = {
        "none": FramePolicy(FrameSource.NONE, FramePick.ONE),
        "averaged": FramePolicy(FrameSource.LATTICE),
        "single": FramePolicy(FrameSource.LATTICE, FramePick.ONE),
        "stochastic": FramePolicy(FrameSource.LATTICE, FramePick.STOCHASTIC),
        "learned": FramePolicy(FrameSource.LEARNED, FramePick.ONE),
    }
    for dimensions in (2, 3):
        for proper, group in ((False, ""), (True, "-se")):
            name = f"rotations-{dimensions}d{group}"
            named[name] = FramePolicy(
                FrameSource.ROTATIONS, FramePick.STOCHASTIC, dimensions, proper
            )
            for source, kind in ((FrameSource.POSITIONS, "pca"), (FrameSource.EDGES, "pca-edges")):
                for pick in FramePick:
                    suffix = "" if pick is FramePick.ALL else f"-{pick}"
                    named[f"{kind}-{dimensions}d{group}{suffix}"] = FramePolicy(
                        source, pick, dimensions, proper
                    )
    return named


POLICIES = _named_policies()


def frame_policy(name: str) -> FramePolicy:
    """Return the policy with the given name.

    Raises:
        InputError: the name is unknown; the message lists similar names.
    """
    policy = POLICIES.get(name)
    if policy is None:
        advice = nearest(name, POLICIES)
        raise InputError(f"no frame policy is called {name!r}; {advice}")
    return policy
