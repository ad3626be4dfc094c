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
