"""C-index, time-dependent AUC and Kaplan-Meier against scikit-survival and a count by hand."""

import math
import time as clock

import numpy as np
import pytest
from sksurv.compare import compare_survival
from sksurv.metrics import concordance_index_censored, cumulative_dynamic_auc
from sksurv.nonparametric import CensoringDistributionEstimator, kaplan_meier_estimator
from sksurv.util import Surv

from g2l.evaluation.measures.survival import (
    auc_at,
    censoring_weights,
    concordance,
    kaplan_meier,
    mean_auc,
    measure_survival,
    survival_at,
)


def cohort(seed: int, n: int = 150, tied: bool = True):
    """Risks, times and events; `tied`: many equal times and risks."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    died, left = rng.exponential(np.exp(-0.7 * risk)), rng.exponential(1.5, n)
    time, event = np.minimum(died, left), died <= left
    if tied:
        risk, time = np.round(risk, 1), np.ceil(8 * time) / 8
    return risk, time, event


def counted(risk, time, event) -> float:
    """Harrell's C, pair by pair as its definition reads."""
    pairs, won = 0, 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                won += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return won / pairs


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_c_index_is_that_of_scikit_survival_and_of_a_count_by_hand(seed, tied):
    risk, time, event = cohort(seed, 80, tied)
    value = concordance(risk, time, event)
    assert value == pytest.approx(concordance_index_censored(event, time, risk)[0], abs=1e-12)
    assert value == pytest.approx(counted(risk, time, event), abs=1e-12)
    assert value > 0.6


def test_c_index_of_drawn_patients_is_that_of_scikit_survival():
    """Resamples hold a patient several times: pairs of equal time and equal risk."""
    risk, time, event = cohort(7)
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(len(risk), size=len(risk))
        expected = concordance_index_censored(event[rows], time[rows], risk[rows])[0]
        assert concordance(risk[rows], time[rows], event[rows]) == pytest.approx(expected, abs=1e-12)


def test_c_index_does_not_depend_on_blocks(monkeypatch):
    risk, time, event = cohort(1)
    whole = concordance(risk, time, event)
    monkeypatch.setattr("g2l.evaluation.measures.survival._BLOCK_VALUES", 400)
    assert concordance(risk, time, event) == whole


def test_c_index_properties():
    risk, time, event = cohort(2, tied=False)
    value = concordance(risk, time, event)
    order = np.random.default_rng(0).permutation(len(risk))
    assert concordance(risk[order], time[order], event[order]) == pytest.approx(value, abs=1e-12)
    assert concordance(5 * risk**3 + risk, 10 * time, event) == pytest.approx(value, abs=1e-12)
    assert concordance(-risk, time, event) == pytest.approx(1 - value, abs=1e-12)
    assert concordance(-time, time, event) == 1.0
    assert concordance(np.zeros_like(risk), time, event) == 0.5
    assert math.isnan(concordance(risk, time, np.zeros_like(event)))
    assert math.isnan(concordance(risk[:1], time[:1], event[:1]))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_auc_is_that_of_scikit_survival(seed, tied):
    train, test = cohort(seed, 300, tied), cohort(seed + 100, 200, tied)
    horizons = np.quantile(train[1][train[2]], [0.25, 0.5, 0.75]) + 1e-6
    weight = censoring_weights(test[1], test[2], train[1], train[2])
    inside = test[1] < train[1].max()  # scikit-survival refuses test times that train does not cover
    risk, time, event, weight = test[0][inside], test[1][inside], test[2][inside], weight[inside]
    values, mean = cumulative_dynamic_auc(
        Surv.from_arrays(train[2], train[1]), Surv.from_arrays(event, time), risk, horizons
    )
    np.testing.assert_allclose(auc_at(risk, time, event, weight, horizons), values, rtol=1e-10)
    assert mean_auc(risk, time, event, weight, horizons) == pytest.approx(mean, rel=1e-10)
    assert mean > 0.6


@pytest.mark.parametrize("seed", range(3))
def test_weights_and_curves_are_those_of_scikit_survival(seed):
    (_, train_time, train_event), (_, time, event) = cohort(seed, 200), cohort(seed + 50, 100)
    inside = time < train_time.max()
    model = CensoringDistributionEstimator().fit(Surv.from_arrays(train_event, train_time))
    expected = model.predict_ipcw(Surv.from_arrays(event[inside], time[inside]))
    np.testing.assert_allclose(censoring_weights(time, event, train_time, train_event)[inside], expected, rtol=1e-12)
    times, survival = kaplan_meier_estimator(event, time)[:2]
    np.testing.assert_allclose(survival_at(time, event, times), survival, rtol=1e-12)
    assert survival_at(time, event, np.array([0.0]))[0] == 1.0


def test_risk_groups_and_the_log_rank_test():
    risk, time, event = cohort(3, 120)
    fact = kaplan_meier(risk, time, event, cut=0.0)
    low, high = fact["groups"]
    assert low["patients"] + high["patients"] == 120
    assert low["events"] + high["events"] == event.sum()
    statistic, p = compare_survival(Surv.from_arrays(event, time), risk > 0)[:2]
    assert fact["logrank_p"] == pytest.approx(p, rel=1e-6)
    assert statistic > 0 and p < 0.05
    for group, inside in ((low, risk <= 0), (high, risk > 0)):
        assert group["times"][0] == 0 and group["survival"][0] == 1 and group["at_risk"][0] == inside.sum()
        assert group["at_risk"] == [int((time[inside] >= at).sum()) for at in group["times"]]
        assert np.all(np.diff(group["survival"]) <= 0)
    assert low["survival"][-1] > high["survival"][-1]


def test_an_empty_group_has_no_p_value():
    risk, time, event = cohort(3, 20)
    assert kaplan_meier(risk, time, event, cut=99.0)["logrank_p"] is None
    assert kaplan_meier(risk, time, np.zeros_like(event), cut=0.0)["logrank_p"] is None


def test_measure_reads_columns_and_is_nan_where_undefined():
    risk, time, event = cohort(4)
    weight = censoring_weights(time, event, time, event)
    columns = {"risk": risk, "time": time, "event": event.astype(int), "weight": weight}
    plain = measure_survival(columns)
    assert plain["C-index"] == concordance(risk, time, event) and math.isnan(plain["AUC over time"])
    cuts = np.quantile(time[event], [0.25, 0.5])
    more = {f"horizon_{k + 1}": np.full(len(risk), at) for k, at in enumerate(cuts)}
    assert measure_survival({**columns, **more})["AUC over time"] == mean_auc(risk, time, event, weight, cuts)
    late = {"horizon_1": np.full(len(risk), 1e9)}
    assert math.isnan(measure_survival({**columns, **late})["AUC over time"])
    assert all(math.isnan(value) for value in measure_survival({**columns, "event": 0 * weight, **more}).values())


@pytest.mark.parametrize("intervals", [4, 12, 16])
def test_horizons_are_taken_in_time_and_not_by_name(intervals):
    """horizon_10 comes before horizon_2 by name."""
    train, (risk, time, event) = cohort(6, 400, tied=False), cohort(7, 400, tied=False)
    inside = time < train[1].max()
    risk, time, event = risk[inside], time[inside], event[inside]
    cuts = np.quantile(train[1][train[2]], np.arange(1, intervals) / intervals)
    weight = censoring_weights(time, event, train[1], train[2])
    made = {f"horizon_{k + 1}": np.full(len(risk), at) for k, at in enumerate(cuts)}
    found = measure_survival({"risk": risk, "time": time, "event": event, "weight": weight, **made})
    structured = Surv.from_arrays(train[2], train[1]), Surv.from_arrays(event, time)
    assert found["AUC over time"] == pytest.approx(cumulative_dynamic_auc(*structured, risk, cuts)[1], rel=1e-10)


def test_a_thousand_resamples_of_five_hundred_patients_take_seconds():
    risk, time, event = cohort(5, 500)
    weight = censoring_weights(time, event, time, event)
    cuts = {f"horizon_{k}": np.full(500, at) for k, at in enumerate(np.quantile(time[event], [0.25, 0.5, 0.75]))}
    columns = {"risk": risk, "time": time, "event": event, "weight": weight, **cuts}
    start = clock.perf_counter()
    for _ in range(20):
        measure_survival(columns)
    assert (clock.perf_counter() - start) / 20 < 0.05
