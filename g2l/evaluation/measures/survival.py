"""How well risks order survival times when some are censored. Letters: U patients, H horizons.

`event` is True where the death (or relapse, ...) was observed and False where the follow-up ended before it: censored.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.tasks.task import Predictions

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TIED = 1e-8  # risks this close are tied, as in scikit-survival
HORIZON = "horizon_"
_BLOCK_VALUES = 4_000_000  # comparisons at a time


def measure_survival(predictions: Predictions) -> dict[str, float]:
    """C-index and time-dependent AUC.

    Args:
        predictions: (U,) each: `risk` (larger: sooner dead), `time`, `event` (1 observed, 0 censored). For the AUC
            also `weight` (`censoring_weights`) and `horizon_1`, ...: a time each, the same in every row, since a
            measure sees nothing but rows.
    Returns:
        "C-index" and "AUC over time"; nan where there is no pair to compare.
    """
    risk, time = (np.asarray(predictions[name], np.float64) for name in ("risk", "time"))
    event = np.asarray(predictions["event"]) > 0
    # by value: by name 10 comes before 2, and deaths "since the one before" would be negative
    horizons = np.sort([float(predictions[name][0]) for name in predictions if name.startswith(HORIZON)])
    value = math.nan
    if len(horizons):
        value = mean_auc(risk, time, event, np.asarray(predictions["weight"], np.float64), horizons)
    return {"C-index": concordance(risk, time, event), "AUC over time": value}


def concordance(risk: Floats, time: Floats, event: Bools) -> float:
    """Harrell's C: the share of comparable pairs in which who died first had the larger risk; tied risks count half.

    A pair is comparable when the earlier time is a death, and at equal times when one died and the other was censored.

    Args:
        risk, time, event: (U,).
    Returns:
        In [0, 1]; .5 is chance; nan without a comparable pair.
    Source: Harrell et al. 1996. The same value as scikit-survival's concordance_index_censored, without its loop over
        the deaths: a bootstrap asks for it a thousand times.
    """
    died = np.flatnonzero(event)
    pairs, won = 0, 0.0
    step = max(1, _BLOCK_VALUES // max(1, len(time)))
    for start in range(0, len(died), step):
        first = died[start : start + step, None]
        later = (time > time[first]) | ((time == time[first]) & ~event)
        ahead = risk[first] - risk
        pairs += int(np.count_nonzero(later))
        won += np.count_nonzero(later & (ahead > TIED)) + 0.5 * np.count_nonzero(later & (np.abs(ahead) <= TIED))
    return float(won / pairs) if pairs else math.nan


def auc_at(risk: Floats, time: Floats, event: Bools, weight: Floats, horizons: Floats) -> Floats:
    """Cumulative/dynamic AUC: at each horizon, those dead by then against those who lived longer.

    Args:
        risk, time, event: (U,). horizons: (H,).
        weight: (U,) of `censoring_weights`: who is censored before a horizon is in neither group, the dead stand for
            them.
    Returns:
        (H,), nan where one of the two groups is empty.
    Source: Uno et al. 2007; the same values as scikit-survival's cumulative_dynamic_auc.
    """
    values = np.full(len(horizons), np.nan)
    for number, horizon in enumerate(horizons):
        case, control = event & (time <= horizon), np.sort(risk[time > horizon])
        total = weight[case].sum() * len(control)
        if total > 0:
            below = np.searchsorted(control, risk[case] - TIED, "left")
            level = np.searchsorted(control, risk[case] + TIED, "right") - below
            values[number] = (weight[case] * (below + 0.5 * level)).sum() / total
    return values


def mean_auc(risk: Floats, time: Floats, event: Bools, weight: Floats, horizons: Floats) -> float:
    """Mean of `auc_at` over the horizons, each weighted by the deaths (Kaplan-Meier) since the one before.

    Args: as `auc_at`; horizons ascend.
    Source: Lambert and Chevret 2014. Horizons at which it is undefined are left out.
    """
    values = auc_at(risk, time, event, weight, horizons)
    deaths = -np.diff(np.r_[1.0, survival_at(time, event, horizons)])
    known = ~np.isnan(values)
    total = deaths[known].sum()
    return float((values[known] * deaths[known]).sum() / total) if total > 0 else math.nan


def survival_at(time: Floats, event: Bools, at: Floats) -> Floats:
    """The Kaplan-Meier estimate at given times.

    Args:
        time, event: (U,). at: (H,).
    Returns:
        (H,) share that lives longer than `at`.
    """
    times, died = np.unique(time[event], return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), times, "left")
    steps = np.r_[1.0, np.cumprod(1 - died / at_risk)]
    return steps[np.searchsorted(times, at, "right")]


def censoring_weights(time: Floats, event: Bools, train_time: Floats, train_event: Bools) -> Floats:
    """1 / G(time) for the dead and 0 for the censored; G: Kaplan-Meier estimate of not being censored, from train.

    Where G is 0 (later than anything in train) the weight is 0: horizons must lie before.

    Args:
        time, event: (U,) of the test part. train_time, train_event: of the training part.
    """
    # who dies at the very time another is censored left the risk set before
    left = np.where(train_event, np.nextafter(train_time, -np.inf), train_time)
    free = survival_at(left, ~train_event, time)
    return np.where(event & (free > 0), 1 / np.where(free > 0, free, 1.0), 0.0)


def kaplan_meier(risk: Floats, time: Floats, event: Bools, cut: float) -> Mapping[str, Any]:
    """Kaplan-Meier curves of the patients above and below a risk, and the log-rank test between them.

    Args:
        risk, time, event: (U,). cut: risks above it are "high"; take it from the training part.
    Returns:
        plain JSON: `cut`, `groups` (each `name`, `patients`, `events`, and from time 0 on `times`, `survival`,
        `at_risk`: patients before each time), `logrank_p` (two-sided; None when a group is empty or nobody died).
    """
    from scipy.stats import CensoredData, logrank

    groups = []
    for name, inside in (("low risk", risk <= cut), ("high risk", risk > cut)):
        times = np.unique(np.r_[0.0, time[inside]])
        groups.append(
            {
                "name": name,
                "patients": int(inside.sum()),
                "events": int(event[inside].sum()),
                "times": times.tolist(),
                "survival": survival_at(time[inside], event[inside], times).tolist() if inside.any() else [1.0],
                "at_risk": (inside.sum() - np.searchsorted(np.sort(time[inside]), times, "left")).tolist(),
            }
        )
    p = None
    if all(group["patients"] for group in groups) and event.any():
        low, high = (CensoredData(time[of & event], right=time[of & ~event]) for of in (risk <= cut, risk > cut))
        p = float(logrank(low, high).pvalue)
        p = None if math.isnan(p) else p
    return {"cut": float(cut), "groups": groups, "logrank_p": p}
