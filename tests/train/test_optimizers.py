"""Muon: orthogonal updates of matrices, Adam for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from geocalc.train.optimizers import Muon, orthogonalized, split_matrices


@pytest.mark.parametrize("shape", [(20, 9), (9, 20), (16, 16)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = left @ torch.diag(torch.logspace(-1.5, 1, len(right))) @ right
    found = orthogonalized(matrix)
    values = torch.linalg.svdvals(found)
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.3
    assert float((found * matrix).sum()) > 0


def test_orthogonalized_zeros_are_zero() -> None:
    assert torch.equal(orthogonalized(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_only_matrices_that_mix_features_are_orthogonalized() -> None:
    network = nn.Sequential(nn.Embedding(30, 12), nn.Linear(12, 9), nn.Linear(9, 1))
    matrices, others = split_matrices(network, network.parameters())
    assert [tuple(one.shape) for one in matrices] == [(9, 12)]
    assert len(others) == 4


def test_other_weights_move_as_with_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    muon = Muon([ours], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    adam = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(5):
        ours.grad = torch.randn(4, 3)
        theirs.grad = ours.grad.clone()
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-7)


def test_it_solves_a_badly_scaled_problem_sooner_than_adamw() -> None:
    def loss_after(optimizer: str, rate: float) -> float:
        torch.manual_seed(0)
        inputs = torch.randn(200, 24) @ torch.diag(torch.logspace(-2, 0, 24)) @ torch.randn(24, 24)
        wanted = inputs @ torch.randn(24, 16)
        layer = nn.Linear(24, 16, bias=False)
        if optimizer == "muon":
            chosen: torch.optim.Optimizer = Muon(
                [{"params": [layer.weight], "matrices": True}], lr=rate, weight_decay=0.0
            )
        else:
            chosen = torch.optim.AdamW([layer.weight], lr=rate, weight_decay=0.0)
        for step in range(300):
            for group in chosen.param_groups:
                group["lr"] = rate * (1 - step / 300)
            loss = (layer(inputs) - wanted).square().mean()
            chosen.zero_grad()
            loss.backward()
            chosen.step()
        return float(loss.detach())

    best = {
        name: min(loss_after(name, rate) for rate in (0.02, 0.06, 0.2))
        for name in ("muon", "adamw")
    }
    assert best["muon"] < 0.5 * best["adamw"]


def test_a_step_calls_its_closure() -> None:
    weight = nn.Parameter(torch.ones(3))

    def closure() -> float:
        weight.grad = torch.ones(3)
        return 7.0

    assert Muon([weight], lr=0.1).step(closure) == 7.0
    assert float(weight.detach().max()) < 1
