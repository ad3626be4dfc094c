"""Log-Sum: pinned values, an independent reference, and two processes that equal one."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gloo import on_two_processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from g2l.objectives.cosine import CosineLoss
from g2l.objectives.logsum import LogSumLoss, log_sum


def reference(student: np.ndarray, teacher: np.ndarray, alpha: float, eps: float) -> float:
    """Written from the paper: batch statistics on both sides, log of the summed power, in float64."""

    def normalised(z: np.ndarray) -> np.ndarray:
        return (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-4)

    difference = normalised(student.astype(np.float64)) - normalised(teacher.astype(np.float64))
    return math.log((np.abs(difference) ** alpha).sum() + eps) - math.log(difference.size)


def test_six_ones_sum_to_log_six() -> None:
    value = log_sum(torch.ones(2, 3), torch.zeros(2, 3), eps=0.0) + math.log(6)
    assert value.item() == pytest.approx(1.791759, abs=1e-6)


def test_one_and_two_to_the_fourth_with_their_gradient() -> None:
    difference = torch.tensor([[1.0, 2.0]], requires_grad=True)
    value = log_sum(difference, torch.zeros(1, 2), alpha=4, eps=0.0)
    value.backward()
    assert value.item() + math.log(2) == pytest.approx(2.833213, abs=1e-6)
    assert difference.grad is not None
    assert torch.allclose(difference.grad, torch.tensor([[4 / 17, 32 / 17]]))


def test_identical_features_are_finite_with_a_gradient_of_zero() -> None:
    z = torch.randn(4, 8, requires_grad=True)
    value = log_sum(z, z.detach(), eps=1e-5)
    value.backward()
    assert value.item() + math.log(32) == pytest.approx(-11.512925, abs=1e-5)
    assert z.grad is not None and torch.equal(z.grad, torch.zeros_like(z))


def test_independent_unit_features_sum_to_about_twelve_per_element() -> None:
    generator = torch.Generator().manual_seed(0)
    zs, zt = torch.randn(2, 32, 1536, generator=generator)
    total = (log_sum(zs, zt) + math.log(32 * 1536)).exp()
    assert total.item() == pytest.approx(12 * 32 * 1536, rel=0.05)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0, 6.0])
def test_faithful_loss_equals_the_reference(alpha: float) -> None:
    rng = np.random.default_rng(1)
    zs, zt = rng.normal(3, 2, (16, 10)), rng.normal(-1, 0.5, (16, 10))
    loss = LogSumLoss(10, alpha, faithful=True)(torch.tensor(zs), torch.tensor(zt))
    assert loss.item() == pytest.approx(reference(zs, zt, alpha, 1e-5), rel=1e-5)


def test_faithful_normalisation_equals_torchs_batch_norm() -> None:
    generator = torch.Generator().manual_seed(2)
    zs, zt = torch.randn(2, 16, 5, generator=generator) * 4 + 1
    bn = nn.BatchNorm1d(5, eps=1e-4, affine=False)
    assert torch.allclose(LogSumLoss(5, faithful=True)(zs, zt), log_sum(bn(zs), bn(zt)), atol=1e-6)


def test_default_equals_the_reference_when_the_cohort_is_the_batch() -> None:
    rng = np.random.default_rng(3)
    zs, zt = rng.normal(size=(32, 6)), rng.normal(size=(32, 6))
    loss = LogSumLoss(6)
    assert loss.target is not None
    loss.target.update(torch.tensor(zt))
    assert loss(torch.tensor(zs), torch.tensor(zt)).item() == pytest.approx(reference(zs, zt, 4, 1e-5), rel=1e-5)


def test_default_target_does_not_depend_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(4)
    zt = torch.randn(64, 6, generator=generator)
    loss = LogSumLoss(6)
    assert loss.target is not None
    for chunk in zt.split(7):
        loss.target.update(chunk)
    moments = loss.target.moments()
    assert torch.allclose(moments.mean, zt.mean(0), atol=1e-6)
    assert torch.allclose(moments.var, zt.var(0, unbiased=False), atol=1e-6)


def test_bfloat16_features_are_raised_before_normalisation() -> None:
    """Offset 30, spread .05: normalised in bfloat16 the correlation would be .83."""
    generator = torch.Generator().manual_seed(5)
    zt = torch.randn(64, 16, generator=generator)
    zs = (30 + 0.05 * torch.randn(64, 16, generator=generator)).bfloat16()
    loss = LogSumLoss(16, faithful=True)
    assert torch.allclose(loss(zs, zt), loss(zs.float(), zt), atol=1e-6)
    fine = torch.randn(64, 16, generator=generator)
    assert torch.allclose(loss(fine.bfloat16(), zt.bfloat16()), loss(fine, zt), rtol=0.02)


def test_gradient_agrees_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(6)
    zs = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    zt = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    # log_sum works in float32: steps and tolerance to match.
    assert torch.autograd.gradcheck(lambda z: log_sum(z, zt), (zs,), eps=1e-2, atol=5e-2, rtol=5e-2)


def test_permutation_of_the_batch_changes_nothing_and_alpha_below_one_is_refused() -> None:
    generator = torch.Generator().manual_seed(7)
    zs, zt = torch.randn(2, 8, 5, generator=generator)
    order = torch.randperm(8, generator=generator)
    loss = LogSumLoss(5, faithful=True)
    assert torch.allclose(loss(zs, zt), loss(zs[order], zt[order]), atol=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        LogSumLoss(5, alpha=0.5)


def test_a_single_row_is_summed_and_standardised_by_the_cohort() -> None:
    rng = np.random.default_rng(9)
    cohort, zs, zt = rng.normal(2, 3, (32, 6)), rng.normal(size=(1, 6)), rng.normal(size=(1, 6))
    assert log_sum(torch.tensor(zs), torch.tensor(zt)).item() == pytest.approx(
        math.log((np.abs(zs - zt) ** 4).sum() + 1e-5) - math.log(6), rel=1e-5
    )
    loss = LogSumLoss(6)
    assert loss.target is not None
    loss.target.update(torch.tensor(cohort))
    student = torch.tensor(zs, requires_grad=True)
    value = loss(student, torch.tensor(zt))
    value.backward()
    # The student's side is standardised by the batch: of one row nothing is left but zeros, and nothing to learn.
    standard = (zt - cohort.mean(0)) / np.sqrt(cohort.var(0) + 1e-4)
    assert value.item() == pytest.approx(math.log((standard**4).sum() + 1e-5) - math.log(6), rel=1e-4)
    assert student.grad is not None and torch.equal(student.grad, torch.zeros_like(student))
    faithful = LogSumLoss(6, faithful=True)(torch.tensor(zs), torch.tensor(zt))
    assert faithful.item() == pytest.approx(math.log(1e-5) - math.log(6), rel=1e-6)


# --- two processes ------------------------------------------------------------------------------------------------

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "logsum": lambda: LogSumLoss(6),
    "cosine": lambda: CosineLoss(6),
    "cosine_raw": lambda: CosineLoss(6, standardised=False),
    "logsum_faithful": lambda: LogSumLoss(6, faithful=True),
}


def step(name: str, features: Tensor, targets: Tensor, distributed: bool) -> tuple[float, Tensor]:
    """One loss and the gradient of a linear student, optionally under DDP."""
    torch.manual_seed(0)
    student: nn.Module = nn.Linear(4, 6)
    if distributed:
        student = DistributedDataParallel(student)
    loss = LOSSES[name]()
    if getattr(loss, "target", None) is not None:
        loss.target.update(targets)  # type: ignore[union-attr,operator]
    value = loss(student(features), targets)
    value.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in student.parameters() if parameter.grad is not None])
    return value.item(), gradient


def half_step(rank: int, name: str, features: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    return step(name, features[rank::2], targets[rank::2], distributed=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_with_half_the_batch_equal_one(name: str) -> None:
    generator = torch.Generator().manual_seed(8)
    features = torch.randn(16, 4, generator=generator) * 3 + 20
    targets = torch.randn(16, 6, generator=generator)
    one, gradient = step(name, features, targets, distributed=False)
    values, gradients = zip(*on_two_processes(half_step, name, features, targets), strict=True)
    assert torch.equal(gradients[0], gradients[1])
    agrees = torch.allclose(gradients[0], gradient, rtol=1e-4, atol=1e-5)
    if name == "logsum_faithful":  # the published loss depends on the number of processes: that is the trap
        assert not agrees
    else:
        assert agrees
        assert np.mean(values) == pytest.approx(one, abs=1e-5)
