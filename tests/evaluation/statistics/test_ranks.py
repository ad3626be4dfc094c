"""Ranks and tests across tasks: against published values, scikit-posthocs, exact counts, and simulation."""

from itertools import combinations

import numpy as np
import pytest

from g2l.errors import G2LError
from g2l.evaluation.statistics.ranks import (
    average_ranks,
    cliques,
    compare,
    complete,
    critical_difference,
    friedman,
    nemenyi,
    wilcoxon,
)


def made(tasks: int, gains: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """(tasks, encoders) scores: a task's difficulty, an encoder's gain, noise of .02."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.6, 0.95, (tasks, 1)) + np.array(gains) + 0.02 * rng.normal(size=(tasks, len(gains)))


@pytest.mark.parametrize(("k", "n", "published"), [(9, 72, 1.416), (7, 39, 1.443), (4, 14, 1.25), (5, 30, 1.114)])
def test_critical_difference_as_published(k: int, n: int, published: float) -> None:
    # GPFM twice; Demsar's example of 4 classifiers on 14 data sets; q rounded to three decimals in the tables
    assert critical_difference(k, n) == pytest.approx(published, abs=4e-3)


def test_critical_difference_is_where_the_p_value_of_a_pair_is_alpha() -> None:
    scores = made(20, (0.0, 0.0, 0.0, 0.05))
    ranks, p = average_ranks(scores), nemenyi(scores)
    for alpha in (0.05, 0.01):
        critical = critical_difference(4, 20, alpha)
        for i, j in combinations(range(4), 2):
            assert (p[i, j] < alpha) == (abs(ranks[i] - ranks[j]) > critical)


def test_ranks_share_ties_and_leave_incomplete_tasks_out() -> None:
    nan = np.nan
    scores = [[0.9, 0.8, 0.8, 0.1], [0.5, 0.5, 0.5, 0.5], [0.9, nan, 0.1, 0.2]]
    assert complete(scores).tolist() == [True, True, False]
    assert average_ranks(scores).tolist() == [(1 + 2.5) / 2, 2.5, 2.5, (4 + 2.5) / 2]
    # 0.1 + 0.2 and 0.3 are one score
    assert average_ranks([[0.1 + 0.2, 0.3]]).tolist() == [1.5, 1.5]
    assert average_ranks(made(7, (0.0, 0.1, 0.2))).sum() == pytest.approx(6)


def test_nemenyi_and_friedman_agree_with_other_implementations() -> None:
    import scikit_posthocs

    scores = made(15, (0.0, 0.01, 0.02, 0.05, 0.0), seed=3)
    scores[4] = np.round(scores[4], 1)  # ties
    assert nemenyi(scores) == pytest.approx(scikit_posthocs.posthoc_nemenyi_friedman(scores).to_numpy(), abs=1e-6)
    n, k = scores.shape
    ranks = np.array([[(row >= value).sum() - ((row == value).sum() - 1) / 2 for value in row] for row in scores])
    # with ties: (k - 1) sum of squared deviations of rank sums over the variance within rows
    statistic = (k - 1) * ((ranks.sum(0) - n * (k + 1) / 2) ** 2).sum() / ((ranks - (k + 1) / 2) ** 2).sum()
    from scipy.stats import chi2

    assert friedman(scores) == pytest.approx(chi2.sf(statistic, k - 1), rel=1e-9)


def test_wilcoxon_is_the_exact_count_of_signs() -> None:
    apart = np.array([0.01, -0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08])
    ranks = np.arange(1, 9)
    observed = ranks[apart > 0].sum()
    sums = np.array([ranks[[bool(code >> bit & 1) for bit in range(8)]].sum() for code in range(256)])
    exact = (np.abs(sums - 18) >= abs(observed - 18)).mean()
    assert wilcoxon(0.5 + apart, np.full(8, 0.5)) == pytest.approx(exact)
    assert wilcoxon(np.full(6, 0.5), np.full(6, 0.5)) == 1


def test_alike_encoders_are_called_different_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(8)
    found = [friedman(rng.random((12, 4))) < 0.05 for _ in range(300)]
    assert np.mean(found) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean(found) > 0.01


def test_a_clear_winner_is_found_and_ties_are_not() -> None:
    result = compare(made(20, (0.1, 0.0, 0.0)))
    assert result.ranks.argmin() == 0 and result.friedman < 1e-3 and result.pairs[0, 1] < 0.01 and result.tasks == 20
    flat = compare(np.full((10, 3), 0.7))
    assert flat.friedman == 1 and flat.ranks.tolist() == [2, 2, 2] and (flat.pairs == 1).all()


def test_too_little_is_refused_with_the_number() -> None:
    scores = made(8, (0.0, 0.1, 0.2))
    scores[:3, 1] = np.nan
    for test in (compare, friedman, nemenyi):
        with pytest.raises(G2LError, match="too few tasks: 5 with a score of every encoder; a test needs 6"):
            test(scores)
    with pytest.raises(G2LError, match="too few tasks: 5"):
        wilcoxon(scores[:, 0], scores[:, 1])
    with pytest.raises(G2LError, match="too few encoders: 2; this test needs 3"):
        friedman(made(10, (0.0, 0.1)))
    with pytest.raises(G2LError, match="too few tasks: 0"):
        average_ranks([[np.nan, 1.0]])


def test_cliques_are_the_longest_runs_within_the_critical_difference() -> None:
    assert cliques([1.0, 1.5, 2.4, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert cliques([3.0, 1.0, 2.0], 2.0) == [(0, 2)]
    assert cliques([1.0, 3.0], 1.0) == []


def test_no_function_of_the_package_tests_over_resamples() -> None:
    import inspect

    from g2l.evaluation.statistics import bootstrap, ranks

    assert "scipy" not in inspect.getsource(bootstrap)
    assert "bootstrap import" not in inspect.getsource(ranks)
