"""Survival as discrete hazards. Letters: B patients, T intervals, h hazard, S survival, c 1 where censored.

Interval y holds the times from its lower cut on to below the next; h(y) is the probability to die in it for who lives
at its beginning, S(y) that of living through it, S(-1) = 1.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from g2l.errors import CohortError


def cuts_of(time: NDArray[np.float64], event: NDArray[np.bool_], intervals: int = 4) -> NDArray[np.float64]:
    """The inner cuts of the intervals: quantiles of the uncensored training times, so that each holds as many deaths.

    Args:
        time, event: (B,) of the training part alone.
    Returns:
        (intervals - 1,) ascending.
    Raises:
        CohortError: too few deaths, or so many at one time that cuts coincide.
    """
    died = time[event]
    if len(died) < intervals:
        raise CohortError(
            f"survival: {len(died)} observed events among {len(time)} training patients for {intervals} intervals; use "
            "more patients"
        )
    cuts = np.quantile(died, np.arange(1, intervals) / intervals)
    if (np.diff(np.r_[died.min(), cuts]) <= 0).any():
        raise CohortError(
            f"survival: the {len(died)} training event times fall on too few values for {intervals} intervals; give "
            "times on a finer scale"
        )
    return cuts


def interval_of(time: NDArray[np.float64], cuts: NDArray[np.float64]) -> NDArray[np.int64]:
    """(B,) the interval of each time; the first and the last are open."""
    return np.searchsorted(cuts, time, side="right")


def hazard_loss(logits: Tensor, y: Tensor, censored: Tensor) -> Tensor:
    """Mean of -(1 - c) [log S(y - 1) + log h(y)] - c log S(y).

    Args:
        logits: (B, T), h = sigmoid(logits). y: (B,) intervals. censored: (B,) 1 where censored.
    Returns:
        Scalar, finite for finite logits: log h and log (1 - h) are log-sigmoids, no logarithm of a rounded 0.
    Source: Zadeh and Schmid 2020 (negative log-likelihood of discrete survival), as in MCAT and GPFM. Those clamp h to
        1e-7 instead, which cuts the gradient off.
    """
    log_alive = logsigmoid(-logits).cumsum(dim=-1)  # [B, T] log S(0..T-1)
    log_before = pad(log_alive[:, :-1], (1, 0))  # [B, T] log S(-1..T-2)
    at = y[:, None]
    log_through = log_alive.gather(1, at)[:, 0]
    log_died = (log_before + logsigmoid(logits)).gather(1, at)[:, 0]
    c = censored.to(logits.dtype)
    return (-(1 - c) * log_died - c * log_through).mean()


def hazard_risk(logits: Tensor) -> Tensor:
    """(B,) minus the sum of S over the intervals: larger for who dies sooner. logits: (B, T)."""
    return -logsigmoid(-logits).cumsum(dim=-1).exp().sum(dim=-1)
