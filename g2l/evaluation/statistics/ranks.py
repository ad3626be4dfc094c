"""Comparing encoders across tasks. Letters: N tasks, k encoders; larger scores are better.

One row per task and one value per encoder and row: tasks are the sample. Resamples of one task's patients are not, and
no function here takes them.
Source: Demsar 2006, "Statistical comparisons of classifiers over multiple data sets".
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import G2LError

Floats = NDArray[np.float64]

# With five tasks even five wins of five have p = 2/32 > .05 in the signed-rank test: nothing could be found.
FEWEST_TASKS = 6
# Scores are told apart to this many decimals; below it they are one score computed in two orders.
DECIMALS = 10


class Comparison(NamedTuple):
    """Of k encoders over N tasks.

    ranks: (k,) average ranks, 1 is best. friedman: p-value of "all encoders are alike". critical: difference of average
    ranks that Nemenyi's test calls significant. pairs: (k, k) Nemenyi p-values, 1 on the diagonal. tasks: N.
    """

    ranks: Floats
    friedman: float
    critical: float
    pairs: Floats
    tasks: int


def complete(scores: ArrayLike) -> NDArray[np.bool_]:
    """(N,) which rows of (N, k) scores have a value for every encoder; ranks over others would compare unlike tasks."""
    return np.asarray(~np.isnan(np.asarray(scores, dtype=np.float64)).any(axis=1))


def average_ranks(scores: ArrayLike) -> Floats:
    """(k,) mean over the complete tasks of each encoder's rank in (N, k) scores; equal scores share the mean of their
    ranks.

    Raises:
        G2LError: no task has a value for every encoder.
    """
    from scipy.stats import rankdata

    table = _table(scores)
    if not len(table):
        raise G2LError("too few tasks: 0 have a score of every encoder; evaluate all encoders on one task at least")
    return rankdata(-table, method="average", axis=1).mean(axis=0)


def critical_difference(k: int, n: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of average ranks, q sqrt(k (k + 1) / (6 n)).

    q is the upper alpha point of the studentised range of k groups with infinite degrees of freedom, over sqrt(2).
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - alpha, k, math.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def nemenyi(scores: ArrayLike) -> Floats:
    """(k, k) p-values of Nemenyi's test for every pair, by their difference in average rank."""
    from scipy.stats import studentized_range

    table = _enough(scores, 2)
    n, k = table.shape
    ranks = average_ranks(table)
    apart = np.abs(ranks[:, None] - ranks) / math.sqrt(k * (k + 1) / (6 * n))
    p = np.asarray(studentized_range.sf(apart * math.sqrt(2), k, math.inf)).clip(0, 1)
    np.fill_diagonal(p, 1.0)
    return p


def friedman(scores: ArrayLike) -> float:
    """p-value of Friedman's test on (N, k) scores, k at least 3; 1 where all encoders tie on every task.

    The chi-squared approximation is rough (conservative) for few tasks and encoders.

    Raises:
        G2LError: fewer than FEWEST_TASKS complete tasks, or fewer than 3 encoders.
    """
    from scipy.stats import friedmanchisquare

    table = _enough(scores, 3)
    if (table == table[:, :1]).all():
        return 1.0
    return float(friedmanchisquare(*table.T).pvalue)


def wilcoxon(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p-value of the signed-rank test over the tasks that both (N,) have; ties are dropped, 1 if all tie.

    Raises:
        G2LError: fewer than FEWEST_TASKS such tasks.
    """
    from scipy.stats import wilcoxon as signed_rank

    table = _enough(np.stack([np.asarray(a, np.float64), np.asarray(b, np.float64)], axis=1), 2)
    apart = np.round(table[:, 0] - table[:, 1], DECIMALS)
    return float(np.asarray(signed_rank(apart))[1]) if apart.any() else 1.0


def compare(scores: ArrayLike, alpha: float = 0.05) -> Comparison:
    """Everything above for (N, k) scores, k at least 3. Tasks without a value for every encoder are left out.

    Raises:
        G2LError: fewer than FEWEST_TASKS complete tasks, or fewer than 3 encoders.
    """
    table = _enough(scores, 3)
    n, k = table.shape
    critical = critical_difference(k, n, alpha)
    return Comparison(average_ranks(table), friedman(table), critical, nemenyi(table), n)


def cliques(ranks: ArrayLike, critical: float) -> list[tuple[int, int]]:
    """Bars of the critical-difference diagram: runs of encoders whose ranks lie within `critical`.

    Returns:
        (first, last) positions in ascending order of ranks, last included; only runs of two or more that are part of no
        longer one.
    """
    ordered = np.sort(np.asarray(ranks, dtype=np.float64))
    bars: list[tuple[int, int]] = []
    for first, rank in enumerate(ordered):
        last = int(np.searchsorted(ordered, rank + critical, side="right")) - 1
        if last > first and (not bars or last > bars[-1][1]):
            bars.append((first, last))
    return bars


def _table(scores: ArrayLike) -> Floats:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2:
        raise TypeError(f"scores have shape {table.shape}, not (tasks, encoders)")
    return np.round(table[complete(table)], DECIMALS)


def _enough(scores: ArrayLike, encoders: int) -> Floats:
    table = _table(scores)
    if table.shape[1] < encoders:
        raise G2LError(f"too few encoders: {table.shape[1]}; this test needs {encoders}")
    if len(table) < FEWEST_TASKS:
        raise G2LError(f"too few tasks: {len(table)} with a score of every encoder; a test needs {FEWEST_TASKS}")
    return table
