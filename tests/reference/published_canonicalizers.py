"""The published canonicalizers in our words, their defects included: a reference for counts, and
for what ours do otherwise.

Layers after Deng et al., Vector neurons (2021), as they were used with FAENet in the branch
`learn-cano-func` of RolnickLab/ocp: a cloud (n, 3) gives a (3, 3) matrix whose rows are the vectors
of the frame. Features are (n, 3, channels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

N_NEIGHBOURS = 5


class Layer(nn.Module):
    """Linear, batch norm of lengths, and a leaky ReLU along learned directions."""

    def __init__(self, n_in: int, n_out: int, leak: float, shared: bool = False) -> None:
        super().__init__()
        self.feature = nn.Linear(n_in, n_out, bias=False)
        self.norm = nn.BatchNorm1d(n_out)
        self.direction = nn.Linear(n_in, 1 if shared else n_out, bias=False)
        self.leak = leak

    def forward(self, values: Tensor) -> Tensor:
        features, direction = normed(self.feature(values), self.norm), self.direction(values)
        along = (features * direction).sum(-2, keepdim=True)
        inside = features - along.clamp(max=0) * direction / (
            (direction**2).sum(-2, keepdim=True) + 1e-6
        )
        return self.leak * features + (1 - self.leak) * inside


def normed(values: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    length = values.norm(dim=-2) + 1e-6
    flat = norm(length.reshape(-1, length.shape[-1])).reshape(length.shape)
    return values / length[..., None, :] * flat[..., None, :]


def neighbors(cloud: Tensor, k: int = N_NEIGHBOURS) -> Tensor:
    """Indices (n, k) of the smallest negated squared distances: meant are the nearest, found are
    the farthest.
    """
    return (-(torch.cdist(cloud, cloud) ** 2)).topk(k, dim=1, largest=False).indices


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.edges, self.atoms, self.norm, self.last = (
            Layer(3, 21, 0.0),
            Layer(21, 21, 0.0),
            nn.BatchNorm1d(21),
            Layer(21, 4, 0.0),
        )
        self.dropout = nn.Dropout(0.5)

    def forward(self, cloud: Tensor) -> Tensor:
        centered = cloud - cloud.mean(0)
        near = centered[neighbors(centered)]
        own = centered[:, None].expand_as(near)
        edges = torch.stack([near - own, own, torch.linalg.cross(near, own)], dim=-1)
        atoms = self.last(normed(self.atoms(self.edges(edges).mean(1)), self.norm))
        return orthonormal(self.dropout(atoms).mean(0).T[:3])


class DGCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shapes = ((2, 21), (42, 21), (42, 42), (84, 85))
        self.convolutions = nn.ModuleList(Layer(n_in, n_out, 0.2) for n_in, n_out in shapes)
        self.fusion = Layer(169, 341, 0.2, shared=True)
        self.head = nn.Sequential(
            Layer(682, 341, 0.2), Layer(341, 170, 0.2), nn.Linear(170, 3, bias=False)
        )
        self.last = Layer(682, 3, 0.2, shared=True)

    def forward(self, cloud: Tensor) -> Tensor:
        values, found = (cloud - cloud.mean(0))[:, :, None], []
        for convolution in self.convolutions:
            near = values[neighbors(values.flatten(1))]
            own = values[:, None].expand_as(near)
            values = convolution(torch.cat([near - own, own], dim=-1)).mean(1)
            found.append(values)
        atoms = self.fusion(torch.cat(found, dim=-1))
        atoms = torch.cat([atoms, atoms.mean(0, keepdim=True).expand_as(atoms)], dim=-1)
        # scalar products: no rotation changes them
        invariant = torch.einsum("nxc,nxk->nkc", atoms, self.head(atoms))
        return orthonormal(self.last(invariant).mean(0).T)


class SignNetMLP(nn.Module):
    """mu(kappa(V) + kappa(-V)) on the rows of V, each of which mixes the three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.kappa, self.mu = (
            nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 3)) for _ in range(2)
        )

    def forward(self, axes: Tensor) -> Tensor:
        return orthonormal(self.mu(self.kappa(axes) + self.kappa(-axes)))


class SignNetVN(nn.Module):
    """The same with vector-neuron PointNets; only first and last layer are used."""

    def __init__(self) -> None:
        super().__init__()
        self.kappa, self.mu = PointNet(), PointNet()


def orthonormal(vectors: Tensor) -> Tensor:
    """Gram-Schmidt on rows (3, 3)."""
    rows: list[Tensor] = []
    for vector in vectors:
        for row in rows:
            vector = vector - (vector @ row) * row
        rows.append(vector / vector.norm())
    return torch.stack(rows)
