"""Cosine and smooth L1 against references."""

import numpy as np
import pytest
import torch

from g2l.objectives.cosine import CosineLoss, cosine_smooth_l1


def reference(student: np.ndarray, teacher: np.ndarray, smooth: float, beta: float) -> float:
    cosines = (student * teacher).sum(1) / np.linalg.norm(student, axis=1) / np.linalg.norm(teacher, axis=1)
    d = np.abs(student - teacher)
    huber = np.where(d < beta, 0.5 * d**2 / beta, d - 0.5 * beta)
    return (1 - smooth) * (1 - cosines.mean()) + smooth * huber.mean()


@pytest.mark.parametrize(("smooth", "beta"), [(0.0, 1.0), (0.1, 1.0), (1.0, 0.5)])
def test_equals_the_reference(smooth: float, beta: float) -> None:
    rng = np.random.default_rng(0)
    zs, zt = rng.normal(size=(2, 12, 7))
    value = cosine_smooth_l1(torch.tensor(zs), torch.tensor(zt), smooth, beta)
    assert value.item() == pytest.approx(reference(zs, zt, smooth, beta), rel=1e-5)


def test_identical_is_zero_and_opposite_is_two() -> None:
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert cosine_smooth_l1(z, z).item() == pytest.approx(0, abs=1e-6)
    assert cosine_smooth_l1(z, -z, smooth=0).item() == pytest.approx(2, abs=1e-6)


def test_standardised_targets_need_moments_and_use_them() -> None:
    zt = torch.randn(64, 4, generator=torch.Generator().manual_seed(2)) * 9 + 50
    loss = CosineLoss(4)
    with pytest.raises(RuntimeError, match="before any feature"):
        loss(zt, zt)
    assert loss.target is not None
    loss.target.update(zt)
    standard = (zt - zt.mean(0)) / (zt.var(0, unbiased=False) + 1e-4).sqrt()
    assert loss(standard, zt).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="smooth"):
        CosineLoss(4, smooth=2)


def pairs(rows: int = 6, width: int = 5) -> torch.Tensor:
    """Student and teacher (2, R, D), float64."""
    return torch.randn(2, rows, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("smooth", [0.0, 0.1, 1.0])
def test_gradient_agrees_with_finite_differences(smooth: float) -> None:
    zs, zt = pairs()
    # float32 inside: steps and tolerance to match. Smooth L1 has no kink, only one in its slope.
    assert torch.autograd.gradcheck(
        lambda z: cosine_smooth_l1(z, zt, smooth), (zs.requires_grad_(),), eps=1e-2, atol=5e-4, rtol=1e-2
    )


def test_a_single_row_equals_the_reference() -> None:
    zs, zt = pairs(rows=1)
    expected = reference(zs.numpy(), zt.numpy(), 0.1, 1.0)
    assert cosine_smooth_l1(zs, zt).item() == pytest.approx(expected, rel=1e-5)


def test_large_values_stay_finite_and_keep_the_angle() -> None:
    zs, zt = pairs()
    value = cosine_smooth_l1(zs * 1e6, zt * 1e6)
    assert value.item() == pytest.approx(reference(zs.numpy() * 1e6, zt.numpy() * 1e6, 0.1, 1.0), rel=1e-5)
    large = (zs * 1e15).float().requires_grad_()
    angle = cosine_smooth_l1(large, zt, smooth=0)
    angle.backward()
    assert angle.item() == pytest.approx(reference(zs.numpy(), zt.numpy(), 0.0, 1.0), rel=1e-5)
    assert large.grad is not None and large.grad.isfinite().all()


def test_identical_rows_count_once_each_and_get_the_same_gradient() -> None:
    zs, zt = pairs(rows=1)
    many = zs.repeat(4, 1).requires_grad_()
    value = cosine_smooth_l1(many, zt.repeat(4, 1))
    value.backward()
    assert value.item() == pytest.approx(reference(zs.numpy(), zt.numpy(), 0.1, 1.0), rel=1e-5)
    assert many.grad is not None and torch.equal(many.grad, many.grad[:1].expand(4, -1))
    same = zt.repeat(4, 1).requires_grad_()
    cosine_smooth_l1(same, same.detach()).backward()
    assert same.grad is not None and same.grad.abs().max() < 1e-6


def test_a_row_of_zeros_has_a_cosine_of_zero_and_a_finite_gradient() -> None:
    _, zt = pairs()
    still = torch.zeros_like(zt).requires_grad_()
    value = cosine_smooth_l1(still, zt, smooth=0)
    value.backward()
    assert value.item() == 1 and still.grad is not None and still.grad.isfinite().all()


def test_bfloat16_is_raised_and_stays_within_a_hundredth() -> None:
    zs, zt = pairs(rows=32, width=16)
    expected = reference(zs.numpy(), zt.numpy(), 0.1, 1.0)
    coarse = cosine_smooth_l1(zs.bfloat16(), zt.bfloat16())
    assert coarse.dtype == torch.float32 and coarse.item() == pytest.approx(expected, rel=1e-2)
    assert torch.equal(coarse, cosine_smooth_l1(zs.bfloat16().float(), zt.bfloat16().float()))
