"""Similarity to a teacher: the test part alone, no labels, and values without an interval in the facts."""

from pathlib import Path

import numpy as np
import pytest
from evaluation.made import MadeFeatures, context

from g2l.errors import CohortError, ConfigError, G2LError
from g2l.evaluation.measures.similarity import linear_cka, neighbour_overlap, unbiased_cka
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.similarity import Similarity


def made(seed: int = 0, n: int = 120):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    y = (x @ rng.normal(size=(8, 5)) + 0.3 * rng.normal(size=(n, 5))).astype(np.float32)
    table = Table.build(
        "made", [Path(f"/{row}.png") for row in range(n)], Path("/"), patients=np.char.mod("p%d", np.arange(n) % 10),
        splits=np.where(np.arange(n) % 10 < 4, "train", "test"),
    )  # fmt: skip
    return table, x, y


def test_values_are_those_of_the_test_part():
    table, x, y = made()
    task = Similarity(Source(), "teacher", k=5)
    task.check(table)
    assert task.teachers() == ["teacher"]
    mine, theirs = MadeFeatures(x), MadeFeatures(y)
    outcome = task.run(context(table, mine, {"teacher": theirs}))["to teacher"]
    test = table.splits == "test"
    assert mine.asked == theirs.asked == [("cls", np.flatnonzero(test).tolist())]
    assert outcome.facts["linear CKA"] == linear_cka(x[test], y[test])
    assert outcome.facts["linear CKA, unbiased"] == unbiased_cka(x[test], y[test])
    expected = neighbour_overlap(x[test], y[test], 5)
    assert outcome.measure(outcome.predictions) == {"neighbour overlap": expected}
    assert outcome.facts["overlap by chance"] == 5 / 71
    assert outcome.primary is None
    assert any("no interval" in note for note in outcome.notes)
    assert outcome.predictions["patient"].tolist() == table.patients[test].tolist()


def test_an_encoder_is_like_itself_and_the_note_says_that_it_is_itself():
    table, x, _ = made(1)
    outcome = Similarity(Source(), "made", k=5).run(context(table, MadeFeatures(x)))["to made"]
    assert outcome.measure(outcome.predictions) == {"neighbour overlap": 1}
    assert outcome.facts["linear CKA"] == pytest.approx(1)
    assert any("itself" in note for note in outcome.notes)


def test_unrelated_encoders_overlap_by_chance():
    table, x, _ = made(2)
    y = np.random.default_rng(9).normal(size=(120, 5)).astype(np.float32)
    outcome = Similarity(Source(), "teacher").run(context(table, MadeFeatures(x), {"teacher": MadeFeatures(y)}))[
        "to teacher"
    ]
    found = outcome.measure(outcome.predictions)["neighbour overlap"]
    assert found == pytest.approx(outcome.facts["overlap by chance"], abs=0.03)


def test_bad_input_is_refused():
    table, x, y = made(3)
    y[5] = np.nan
    others = {"teacher": MadeFeatures(y)}
    with pytest.raises(G2LError, match=r"teacher on made: 1 of 72 embeddings hold nan or inf \(5.png\)"):
        Similarity(Source(), "teacher").run(context(table, MadeFeatures(x), others))
    with pytest.raises(CohortError, match="k is 81 but there are 72 images"):
        Similarity(Source(), "teacher", k=80).run(context(table, MadeFeatures(x), {"teacher": MadeFeatures(x)}))
    with pytest.raises(ConfigError, match="k is 0"):
        Similarity(Source(), "teacher", k=0)
