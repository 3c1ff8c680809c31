"""Muon steps as torch's own does, but in float32."""

import pytest
import torch
from torch import nn

from xaikit.models.muon import Muon, orthogonalised
from xaikit.storage.seeding import generator

SHAPES = ((8, 24), (24, 8), (8, 24), (8, 8))


def test_its_steps_are_those_of_torch_to_the_precision_of_bfloat16() -> None:
    draw = generator(0, "muon")
    ours = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    optimiser = Muon(ours, 0.02, momentum=0.9, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, 0.02, momentum=0.9, weight_decay=0.1)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=draw)
            q.grad = p.grad.clone()
        optimiser.step()
        reference.step()
    for p, q, old in zip(ours, theirs, before, strict=True):
        assert (p - q).norm() < 0.02 * (q - old).norm()


def test_matrices_of_one_shape_do_not_touch_each_other() -> None:
    stack = torch.randn(3, 6, 10, generator=generator(0, "stack"), dtype=torch.float64)
    for alone, together in zip(stack, orthogonalised(stack), strict=True):
        torch.testing.assert_close(orthogonalised(alone[None])[0], together, rtol=0, atol=1e-12)


def test_singular_vectors_stay_and_singular_values_come_close_to_one() -> None:
    matrix = torch.randn(1, 12, 7, generator=generator(0, "matrix"), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    core = left.T @ orthogonalised(matrix)[0] @ right.T
    assert ((core.diagonal() > 0.6) & (core.diagonal() < 1.3)).all()
    torch.testing.assert_close(core, core.diagonal().diag(), rtol=0, atol=1e-9)


def test_what_has_no_gradient_stays_and_a_zero_gradient_is_no_nan() -> None:
    still, zero = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    zero.grad = torch.zeros(3, 2)
    Muon([still, zero], 0.1).step()
    assert torch.equal(still, torch.ones(3, 2)) and torch.equal(zero, torch.ones(3, 2))


def test_only_matrices_are_taken() -> None:
    with pytest.raises(ValueError, match="matrices only"):
        Muon([nn.Parameter(torch.ones(3))], 0.1)
