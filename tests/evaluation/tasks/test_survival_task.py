"""Survival: patients from all their slides, risk by ABMIL and Cox, and a chance level where slides say nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation.bags_made import followed
from evaluation.made import context, parts
from evaluation.tasks.blind import JUDGED, assert_blind_to_test_labels
from sksurv.metrics import concordance_index_censored

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.results import Result, read_result, write_result
from g2l.evaluation.statistics.bootstrap import interval
from g2l.evaluation.tables.splits import Split, make_split
from g2l.evaluation.tables.table import Source
from g2l.evaluation.tasks.censorship import exchanged
from g2l.evaluation.tasks.cox import fit_cox
from g2l.evaluation.tasks.survival import Survival
from g2l.evaluation.tasks.task import Outcome


def task(**settings: object) -> Survival:
    return Survival(Source(), **settings)  # pyright: ignore[reportArgumentType]


def value(outcome: Outcome, name: str = "C-index") -> float:
    return outcome.measure(outcome.predictions)[name]


@pytest.mark.slow
def test_risk_that_some_patches_carry_is_found() -> None:
    table, features = followed(0, patients=180)
    made = task(epochs=20, patience=5)
    made.check(table)
    outcomes = made.run(context(table, features))
    assert set(outcomes) == {"abmil", "cox"}
    test = np.unique(table.patients[parts(table).test])
    for method, outcome in outcomes.items():
        columns = outcome.predictions
        assert outcome.unit == "patient" and columns["id"].tolist() == test.tolist(), method
        assert outcome.primary == "C-index" and value(outcome) > 0.65 and value(outcome, "AUC over time") > 0.65, method
        expected = concordance_index_censored(columns["event"] == 1, columns["time"], columns["risk"])[0]
        assert value(outcome) == pytest.approx(expected, abs=1e-12)
        assert "have an observed event" in outcome.notes[0]
        groups = outcome.facts["kaplan_meier"]["groups"]
        assert sum(group["patients"] for group in groups) == len(test)
        assert outcome.facts["kaplan_meier"]["logrank_p"] < 0.05, method
        assert len(outcome.facts["AUC at"]) == 3 and min(outcome.facts["AUC at"].values()) > 0.6
        assert {part: each["patients"] for part, each in outcome.facts["events"].items()} == {
            "train": 90, "val": 30, "test": 60,
        }  # fmt: skip
    assert outcomes["abmil"].facts["attention"][0][0]["slide"].endswith(".svs")
    assert len(outcomes["abmil"].facts["cuts"]) == 3 and outcomes["cox"].chosen["penalty"] > 0


@pytest.mark.slow
def test_noise_is_at_chance() -> None:
    found = {"abmil": [], "cox": []}
    for seed in range(6):
        table, features = followed(seed, strength=0, each=1)
        for name, outcome in task(epochs=3, patience=2).run(context(table, features, seed=seed)).items():
            found[name].append(value(outcome))
    for name, values in found.items():
        assert 0.4 < np.mean(values) < 0.6, name


def test_labels_of_the_test_part_change_no_risk() -> None:
    table, features = followed(1, each=1)
    judged = (*JUDGED, "weight")  # of the censoring at the patient's own time
    assert_blind_to_test_labels(task(epochs=2), context(table, features), ("time", "event"), judged)


def test_a_censorship_column_gives_what_the_event_column_gives() -> None:
    table, features = followed(2, each=1)
    turned = replace(table, extra={"time": table.extra["time"], "censorship": 1 - table.extra["event"]})
    one = task(methods=["cox"]).run(context(table, features))["cox"]
    other = task(methods=["cox"], censorship="censorship").run(context(turned, features))["cox"]
    np.testing.assert_array_equal(one.predictions["risk"], other.predictions["risk"])
    assert value(one) == value(other)


def test_a_result_is_written_read_and_measured_again(tmp_path: Path) -> None:
    table, features = followed(6, each=1)
    for method, outcome in task(epochs=2).run(context(table, features)).items():
        metrics = outcome.measure(outcome.predictions)
        write_result(Result("made", "survival", method, "made", outcome, metrics, {}, tmp_path / method))
        again = read_result(tmp_path / method).outcome
        assert again.measure(again.predictions) == pytest.approx(metrics) and again.chosen == outcome.chosen
        assert again.facts == outcome.facts
        found = interval(again.measure, again.predictions, resamples=200)
        for name, each in found.items():
            assert each.low < metrics[name] < each.high and each.undefined < 0.01, (method, name)


def test_exchanged_labels_are_doubted_in_words_or_refused_by_name() -> None:
    table, _ = followed(3, patients=600, each=1, hazard=0.3)
    wrong = replace(table, extra={"time": table.extra["time"], "event": 1 - table.extra["event"]})
    task(methods=["abmil"]).check(table)
    time, event = wrong.extra["time"], wrong.extra["event"] > 0
    assert "as if the two were exchanged" in exchanged(time, event).text
    named = replace(table, extra={"time": table.extra["time"], "censorship": 1 - table.extra["event"]})
    with pytest.raises(CohortError, match="its name says the opposite"):
        task(event="censorship").check(named)


def test_too_few_patients_are_said() -> None:
    table, features = followed(4, each=1)
    died = np.flatnonzero(table.extra["event"] == 1)
    with pytest.raises(CohortError, match="2 observed events among 2 training patients for 4 intervals"):
        task().run(context(table, features, split=Split(died[:2], died[2:4], died[4:])))
    with pytest.raises(CohortError, match="no patient in val"):
        task().run(context(table, features, split=Split(died[:6], died[:0], died[6:])))
    with pytest.raises(ConfigError, match="intervals is 1"):
        task(intervals=1).check(table)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_without_an_event_is_refused(part: str) -> None:
    table, features = followed(4, each=1)
    split = parts(table)
    alive = getattr(split, part)[table.extra["event"][getattr(split, part)] == 0]
    with pytest.raises(CohortError, match=f"none of the {len(alive)} patients in {part} has an observed event"):
        task().run(context(table, features, split=replace(split, **{part: alive})))


def test_a_drawn_split_serves_a_cohort_of_few_events() -> None:
    table, features = followed(5, patients=60, each=1)
    event = np.zeros(60)
    event[np.random.default_rng(0).permutation(60)[:9]] = 1
    drawn = replace(table, splits=np.full(60, ""), extra={"time": table.extra["time"], "event": event})
    for seed in range(5):
        split = make_split(drawn, seed=seed)
        outcome = task(methods=["cox"]).run(context(drawn, features, split=split))["cox"]
        assert min(found["events"] for found in outcome.facts["events"].values()) >= 1


def test_without_scikit_survival_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    table, features = followed(5, each=1)
    monkeypatch.setitem(sys.modules, "sksurv", None)
    with pytest.raises(ConfigError, match=r"pip install 'g2l\[survival\]', or give methods: \[abmil\]"):
        task().check(table)
    made = task(methods=["abmil"], epochs=1)
    made.check(table)
    assert list(made.run(context(table, features))) == ["abmil"]


def test_cox_ignores_test_patients_and_the_scale_of_embeddings() -> None:
    rng = np.random.default_rng(0)
    risk = rng.normal(size=150)
    means = np.c_[risk + 0.3 * rng.normal(size=150), rng.normal(size=(150, 5))]
    died, left = rng.exponential(np.exp(-risk)), rng.uniform(0.2, 3, 150)
    time, event = np.minimum(died, left), died <= left
    train, val = np.arange(80), np.arange(80, 110)
    guess, chosen, notes = fit_cox(means, time, event, train, val)
    assert np.corrcoef(guess[110:], risk[110:])[0, 1] > 0.8 and not notes
    other = fit_cox(1000 * means + 7, np.r_[time[:110], time[110:] * 0 + 1], event, train, val)[0]
    np.testing.assert_allclose(other, guess, atol=1e-6)
    assert chosen["components"] == 6
    alone = fit_cox(means, time, event, train, np.array([80]))
    assert "no comparable pair" in alone[2][0] and alone[1]["penalty"] == 1e4 and alone[1]["C-index"] is None
