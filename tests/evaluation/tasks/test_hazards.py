"""Discrete hazards against the likelihood written out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from g2l.errors import CohortError
from g2l.evaluation.tasks.hazards import cuts_of, hazard_loss, hazard_risk, interval_of


def by_hand(logits: np.ndarray, y: np.ndarray, censored: np.ndarray) -> float:
    """-(1 - c) [log S(y - 1) + log h(y)] - c log S(y), S(y) the product of 1 - h up to y, S(-1) = 1."""
    losses = []
    for row, at, c in zip(logits.tolist(), y.tolist(), censored.tolist(), strict=True):
        hazard = [1 / (1 + math.exp(-value)) for value in row]
        survival = [math.prod(1 - h for h in hazard[: k + 1]) for k in range(len(hazard))]
        before = survival[at - 1] if at else 1.0
        losses.append(-math.log(survival[at]) if c else -math.log(before) - math.log(hazard[at]))
    return sum(losses) / len(losses)


def batch(seed: int, count: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=draw, dtype=torch.float64)
    return logits, torch.arange(count) % 4, torch.randint(0, 2, (count,), generator=draw)


@pytest.mark.parametrize("seed", range(4))
def test_loss_is_the_likelihood_written_out(seed: int) -> None:
    logits, y, censored = batch(seed)
    assert float(hazard_loss(logits, y, censored)) == pytest.approx(
        by_hand(logits.numpy(), y.numpy(), censored.numpy()), rel=1e-12
    )


def test_probabilities_of_all_endings_sum_to_one() -> None:
    """Dying in one of the intervals, or living through the last: exp(-loss) of each."""
    logits = batch(1, 1)[0].expand(5, 4)
    y, censored = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([0, 0, 0, 0, 1])
    endings = [math.exp(-float(hazard_loss(logits[k : k + 1], y[k : k + 1], censored[k : k + 1]))) for k in range(5)]
    assert sum(endings) == pytest.approx(1, rel=1e-12)


def test_gradient_by_finite_differences() -> None:
    logits, y, censored = batch(2)
    assert torch.autograd.gradcheck(lambda x: hazard_loss(x, y, censored), logits.requires_grad_())


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_loss_and_gradient_stay_finite_where_hazards_round_to_0_and_1(size: float) -> None:
    for sign in (-size, size):
        logits = torch.full((8, 4), sign, requires_grad=True)
        loss = hazard_loss(logits, torch.arange(8) % 4, torch.arange(8) // 4)
        loss.backward()
        assert math.isfinite(loss.item()) and logits.grad is not None and bool(logits.grad.isfinite().all())


def test_risk_is_minus_the_sum_of_survival() -> None:
    logits = batch(3)[0]
    survival = torch.cumprod(1 - torch.sigmoid(logits), dim=1)
    torch.testing.assert_close(hazard_risk(logits), -survival.sum(dim=1))
    sooner = logits + 0.5
    assert bool((hazard_risk(sooner) > hazard_risk(logits)).all())


def test_intervals_hold_a_quarter_of_the_deaths_each_and_no_censored_time_moves_them() -> None:
    rng = np.random.default_rng(0)
    time, event = rng.exponential(3, 400), rng.random(400) < 0.5
    cuts = cuts_of(time, event)
    counts = np.bincount(interval_of(time[event], cuts), minlength=4)
    assert counts.sum() == event.sum() and counts.max() - counts.min() <= 1
    moved = np.where(event, time, 100 * time)
    np.testing.assert_array_equal(cuts_of(moved, event), cuts)


def test_a_time_on_a_cut_belongs_to_the_later_interval_and_the_ends_are_open() -> None:
    assert interval_of(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 99.0]), np.array([1.0, 2.0, 3.0])).tolist() == [
        0, 1, 1, 2, 3, 3,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [([1, 2, 3, 4, 5], [1, 1, 1, 0, 0], "3 observed events among 5"), ([1, 1, 1, 1, 5], [1] * 5, "too few values")],
)
def test_deaths_that_give_no_intervals_are_refused(time: list[int], event: list[int], message: str) -> None:
    with pytest.raises(CohortError, match=message):
        cuts_of(np.array(time, float), np.array(event, bool))
