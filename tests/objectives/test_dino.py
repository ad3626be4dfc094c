"""DINO's cross-entropy against a reference, and what must hold for any logits."""

import numpy as np
import pytest
import torch
from torch import Tensor

from g2l.objectives.dino import dino


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(student: np.ndarray, targets: np.ndarray, temperature: float) -> tuple[float, int]:
    """Written from the paper: the mean of H(p_t, p_v) over all pairs of different crops; and how many they are."""
    losses = []
    for t, p in enumerate(targets):
        for v, s in enumerate(student):
            if t != v:
                losses.append(-(p * np.log(softmax(s / temperature))).sum(-1).mean())
    return float(np.mean(losses)), len(losses)


def crops(v: int = 10, t: int = 2, b: int = 3, k: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    student, targets = rng.uniform(-1, 1, (v, b, k)), softmax(rng.normal(size=(t, b, k)) / 0.3)
    return torch.tensor(student).float(), torch.tensor(targets).float()


@pytest.mark.parametrize(("v", "t", "pairs"), [(10, 2, 18), (2, 2, 2), (5, 3, 12), (4, 1, 3)])
def test_is_the_mean_over_all_pairs_of_different_crops(v: int, t: int, pairs: int) -> None:
    student, targets = crops(v, t)
    expected, count = reference(student.double().numpy(), targets.double().numpy(), 0.1)
    assert count == pairs
    assert dino(student, targets).item() == pytest.approx(expected, rel=1e-5)


def test_a_sum_over_ten_and_two_crops_is_divided_by_eighteen() -> None:
    """Equal logits cost log K in every pair, whatever the targets."""
    _, targets = crops()
    assert dino(torch.zeros(10, 3, 7), targets).item() == pytest.approx(np.log(7), rel=1e-6)
    one = torch.zeros(10, 3, 7, requires_grad=True)
    # Only crop 5 leaves the uniform distribution: its two pairs of eighteen.
    ahead = dino(one, targets)
    ahead.backward()
    assert one.grad is not None
    wanted = (2 / 7 - targets.sum(0)) / 0.1 / 18 / 3
    assert torch.allclose(one.grad[5], wanted, atol=1e-6)
    assert torch.allclose(one.grad[0], (1 / 7 - targets[1]) / 0.1 / 18 / 3, atol=1e-6)


def test_gradient_agrees_with_finite_differences() -> None:
    student, targets = crops(v=3, b=2, k=4)
    # float32 inside: steps and tolerance to match.
    student = (student * 0.2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: dino(s, targets), (student,), eps=1e-2, atol=2e-2, rtol=2e-2)


def test_bfloat16_logits_give_the_value_within_one_per_cent() -> None:
    student, targets = crops()
    coarse = student.bfloat16()
    assert dino(coarse, targets).item() == pytest.approx(dino(student, targets).item(), rel=1e-2)
    assert torch.equal(dino(coarse, targets), dino(coarse.float(), targets))  # raised before anything else


def test_large_logits_one_image_and_identical_rows_stay_finite() -> None:
    student, targets = crops(b=1)
    large = (student * 1e4).requires_grad_()
    value = dino(large, targets)
    value.backward()
    assert value.isfinite() and large.grad is not None and large.grad.isfinite().all()
    same = torch.ones(10, 4, 7)
    assert dino(same, torch.full((2, 4, 7), 1 / 7)).item() == pytest.approx(np.log(7), rel=1e-6)


def test_without_a_pair_of_different_crops_it_is_refused() -> None:
    student, targets = crops(v=1, t=1)
    with pytest.raises(ValueError, match="pair of different crops"):
        dino(student, targets)
    with pytest.raises(ValueError, match="pair of different crops"):
        dino(student, torch.cat([targets, targets]))
