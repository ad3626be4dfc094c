"""Slide classification: finds what is there, nothing where nothing is, and never looks at labels of test."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation.bags_made import classed
from evaluation.made import context, parts
from evaluation.tasks.blind import assert_blind_to_test_labels
from sklearn.metrics import roc_auc_score

from g2l.errors import CohortError
from g2l.evaluation.tables.splits import Split
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.slides import SlideClassification, fit_means
from g2l.evaluation.tasks.task import Outcome


def task(**settings: object) -> SlideClassification:
    return SlideClassification(Source(), **settings)  # pyright: ignore[reportArgumentType]


def value(outcome: Outcome, name: str = "AUC") -> float:
    return outcome.measure(outcome.predictions)[name]


@pytest.mark.slow
def test_a_class_that_a_few_patches_carry_is_found() -> None:
    said: list[str] = []
    table, features = classed(0)
    outcomes = task(epochs=25, patience=5).run(context(table, features, report=said.append))
    assert set(outcomes) == {"abmil", "mean"}
    abmil = outcomes["abmil"]
    assert value(abmil) > 0.95 and value(abmil, "balanced accuracy") > 0.85 and abmil.primary == "AUC"
    test = parts(table).test
    columns = abmil.predictions
    assert abmil.unit == "slide" and columns["id"].tolist() == table.ids[test].tolist()
    assert columns["patient"].tolist() == table.patients[test].tolist()
    np.testing.assert_allclose(columns["p_normal"] + columns["p_tumor"], 1)
    expected = roc_auc_score(columns["truth"] == "tumor", columns["p_tumor"])
    assert value(abmil) == pytest.approx(expected)
    assert abmil.chosen["epoch"] >= 1 and len(abmil.facts["attention"]) == 20
    assert any("ABMIL: epoch 1 of at most 25" in text for text in said)


@pytest.mark.slow
def test_attention_beats_the_mean_where_few_patches_matter() -> None:
    table, features = classed(1, strength=2.0)
    outcomes = task(epochs=25, patience=5).run(context(table, features))
    assert value(outcomes["abmil"]) > value(outcomes["mean"]) > 0.5


@pytest.mark.slow
def test_noise_is_at_chance() -> None:
    """Mean of six cohorts of 30 test slides: the standard error of one AUC is about .1, of the mean .04."""
    found = {"abmil": [], "mean": []}
    for seed in range(6):
        table, features = classed(seed, strength=0)
        outcomes = task(epochs=4, patience=2).run(context(table, features, seed=seed))
        for name, outcome in outcomes.items():
            found[name].append(value(outcome))
    for name, values in found.items():
        assert 0.37 < np.mean(values) < 0.63, name


def test_labels_of_the_test_part_change_nothing() -> None:
    table, features = classed(2)
    assert_blind_to_test_labels(task(epochs=2), context(table, features))


def test_blanked_labels_of_the_test_part_change_no_probability() -> None:
    table, features = classed(2)
    labels = table.labels.copy()
    labels[parts(table).test] = "normal"
    one = task(epochs=2).run(context(table, features))
    other = task(epochs=2).run(context(replace(table, labels=labels), features))
    for method in one:
        np.testing.assert_array_equal(one[method].predictions["p_tumor"], other[method].predictions["p_tumor"])


def test_only_the_asked_methods_run() -> None:
    table, features = classed(2)
    assert list(task(methods=["mean"]).run(context(table, features))) == ["mean"]


def test_the_mean_is_a_balanced_logistic_regression_at_the_chosen_strength() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    y = rng.permutation(np.r_[np.zeros(90, int), np.ones(30, int)])
    x = rng.normal(size=(120, 6)) + y[:, None] * 0.8
    probabilities, chosen = fit_means(x[:60], y[:60], x[60:90], y[60:90], x[90:])
    model = LogisticRegression(C=chosen["C"], class_weight="balanced", max_iter=5000)
    expected = make_pipeline(StandardScaler(), model).fit(x[:60], y[:60]).predict_proba(x[90:])
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_tables_that_cannot_serve_are_refused() -> None:
    table, features = classed(3, count=12)
    labels = table.labels.copy()
    labels[3:5] = ""
    with pytest.raises(CohortError, match=r"2 of 12 slides have no label \(s003.svs, s004.svs\)"):
        task().check(replace(table, labels=labels))
    with pytest.raises(CohortError, match="all 12 slides are 'x'"):
        task().check(replace(table, labels=np.full(12, "x")))
    normal, tumor = np.flatnonzero(table.labels == "normal"), np.flatnonzero(table.labels == "tumor")
    with pytest.raises(CohortError, match=r"train has one class only \(normal\)"):
        task().run(context(table, features, split=Split(normal[:4], tumor[:2], tumor[2:])))
    three: Table = replace(table, labels=np.where(np.arange(12) == 5, "rare", table.labels))
    rest = np.setdiff1d(np.arange(12), [5])
    with pytest.raises(CohortError, match="val holds rare, which train has not"):
        task().run(context(three, features, split=Split(rest[:6], np.array([5]), rest[6:])))
    with pytest.raises(CohortError, match="test holds rare, which train has not"):
        task().run(context(three, features, split=Split(rest[:6], rest[6:], np.array([5]))))
    with pytest.raises(CohortError, match=r"val holds no tumor, .* move patients of it to val, or add some \(three of"):
        task().run(context(table, features, split=Split(np.r_[normal[:3], tumor], normal[3:4], normal[4:])))


def test_a_class_that_test_lacks_is_noted() -> None:
    table, features = classed(2)
    split = parts(table)
    some = split.test[table.labels[split.test] == "tumor"]
    outcome = task(methods=["mean"]).run(context(table, features, split=replace(split, test=some)))["mean"]
    assert outcome.notes == ["test holds no normal: left out of AUC and balanced accuracy"]
    assert task(methods=["mean"]).run(context(table, features))["mean"].notes == []
