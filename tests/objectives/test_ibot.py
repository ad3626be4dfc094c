"""iBOT's masked cross-entropy against a reference, and crops without a mask."""

import numpy as np
import pytest
import torch
from test_dino import softmax

from g2l.objectives.ibot import ibot


def reference(student: np.ndarray, targets: np.ndarray, masks: np.ndarray, temperature: float) -> float:
    """Written from the paper, crop by crop: (C, N, K) logits and targets, (C, N) masks."""
    total = 0.0
    for s, p, mask in zip(student, targets, masks, strict=True):
        hidden = np.flatnonzero(mask)
        for i in hidden:
            total += -(p[i] * np.log(softmax(s[i] / temperature))).sum() / len(hidden)
    return total / len(student)


def crops(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, targets and masks of six crops of nine tokens, three of them masked, with 1, 2 and 7 tokens."""
    rng = np.random.default_rng(seed)
    student, targets = rng.uniform(-1, 1, (6, 9, 5)), softmax(rng.normal(size=(6, 9, 5)) / 0.3)
    masks = np.zeros((6, 9), bool)
    for crop, tokens in ((0, 1), (3, 2), (5, 7)):
        masks[crop, rng.permutation(9)[:tokens]] = True
    return torch.tensor(student).float(), torch.tensor(targets).float(), torch.tensor(masks)


def weights(masks: torch.Tensor) -> torch.Tensor:
    return (1 / masks.sum(1, keepdim=True).clamp(min=1)).expand(masks.shape)[masks]


def test_equals_the_reference_with_unequal_masks() -> None:
    student, targets, masks = crops()
    expected = reference(student.double().numpy(), targets.double().numpy(), masks.numpy(), 0.1)
    value = ibot(student[masks], targets[masks], weights(masks), crops=6)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_bfloat16_logits_are_raised_and_stay_within_a_hundredth() -> None:
    student, targets, masks = crops()
    expected = reference(student.double().numpy(), targets.double().numpy(), masks.numpy(), 0.1)
    rows = student[masks].bfloat16().requires_grad_()
    coarse = ibot(rows, targets[masks], weights(masks), crops=6)
    assert coarse.dtype == torch.float32 and coarse.item() == pytest.approx(expected, rel=1e-2)
    fine = student[masks].requires_grad_()
    assert torch.equal(coarse, ibot(rows.float(), targets[masks], weights(masks), crops=6))
    (of_rows,) = torch.autograd.grad(coarse, rows)
    (of_fine,) = torch.autograd.grad(ibot(fine, targets[masks], weights(masks), crops=6), fine)
    assert (of_rows.float() - of_fine).norm() < 0.02 * of_fine.norm()


def test_no_masked_token_gives_zero_with_a_graph() -> None:
    student = torch.zeros(0, 5, requires_grad=True)
    value = ibot(student, torch.zeros(0, 5), torch.zeros(0), crops=4)
    value.backward()
    assert value.item() == 0
    assert student.grad is not None and student.grad.shape == (0, 5)


def test_gradient_agrees_with_finite_differences() -> None:
    student, targets, masks = crops()
    rows = (student[masks] * 0.2).double().requires_grad_()
    chosen, share = targets[masks], weights(masks)
    # float32 inside: steps and tolerance to match.
    assert torch.autograd.gradcheck(lambda s: ibot(s, chosen, share, 6), (rows,), eps=1e-2, atol=2e-2, rtol=2e-2)


def test_large_logits_and_a_single_token_stay_finite() -> None:
    student, targets, masks = crops()
    large = (student[masks][:1] * 1e4).requires_grad_()
    value = ibot(large, targets[masks][:1], torch.ones(1), crops=2)
    value.backward()
    assert value.isfinite() and large.grad is not None and large.grad.isfinite().all()
