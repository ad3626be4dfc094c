"""Patch retrieval: database and queries, examples, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation.made import MadeFeatures, context
from evaluation.tasks.blind import assert_blind_to_test_labels

from g2l.errors import CohortError, G2LError
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.retrieval import Retrieval


def made(seed: int = 0, n: int = 240, gap: float = 1.0):
    from pathlib import Path

    rng = np.random.default_rng(seed)
    patient, y = np.arange(n) % 12, rng.integers(0, 4, n)
    x = (rng.normal(size=(n, 5)) + gap * rng.normal(size=(4, 5))[y]).astype(np.float32)
    table = Table.build(
        "made", [Path(f"/data/{row}.png") for row in range(n)], Path("/data"), labels=np.char.mod("class %d", y),
        patients=np.char.mod("p%d", patient), splits=np.where(patient < 8, "train", "test"),
    )  # fmt: skip
    return table, x


def test_database_is_train_and_queries_are_test():
    table, x = made()
    features = MadeFeatures(x)
    said: list[str] = []
    outcome = Retrieval(Source()).run(context(table, features, report=said.append))["cosine"]
    assert [set(table.splits[rows]) for _, rows in features.asked] == [{"train"}, {"test"}]
    metrics = outcome.measure(outcome.predictions)
    assert metrics["Acc@5"] > metrics["Acc@3"] > metrics["Acc@1"] > 0.5
    assert outcome.primary in metrics
    assert said[-1].startswith("retrieval: 80 of 80")


def test_hits_are_those_of_the_nearest_written_out():
    table, x = made(1)
    outcome = Retrieval(Source()).run(context(table, MadeFeatures(x)))["cosine"]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    train, test = (np.flatnonzero(table.splits == part) for part in ("train", "test"))
    order = train[np.argsort(-unit[test] @ unit[train].T, axis=1)]
    right = table.labels[order] == table.labels[test][:, None]
    for k in (1, 3, 5):
        assert outcome.predictions[f"hit_{k}"].tolist() == right[:, :k].any(axis=1).astype(int).tolist()


def test_examples_are_hits_and_misses_with_their_neighbours():
    table, x = made(2)
    outcome = Retrieval(Source(), examples=6).run(context(table, MadeFeatures(x)))["cosine"]
    examples = outcome.facts["examples"]
    assert len(examples) == len({one["id"] for one in examples}) == 6
    label = dict(zip(table.ids.tolist(), table.labels.tolist(), strict=True))
    for one in examples:
        assert len(one["neighbours"]) == 5
        assert all(label[other["id"]] == other["label"] for other in [one, *one["neighbours"]])
    met = [one["neighbours"][0]["label"] == one["label"] for one in examples]
    assert met.count(True) == met.count(False) == 3
    first = dict(zip(outcome.predictions["id"].tolist(), outcome.predictions["hit_1"].tolist(), strict=True))
    assert [bool(first[one["id"]]) for one in examples] == met


def test_examples_are_all_hits_where_nothing_is_missed():
    table, x = made(3, gap=60.0)
    outcome = Retrieval(Source(), examples=4).run(context(table, MadeFeatures(x)))["cosine"]
    assert outcome.predictions["hit_1"].all()
    assert len(outcome.facts["examples"]) == 4


def test_gpfms_score_stands_apart_and_takes_no_part_in_ranks():
    table, x = made(4)
    outcomes = Retrieval(Source(), faithful=True).run(context(table, MadeFeatures(x)))
    assert list(outcomes) == ["cosine", "gpfm"]
    assert outcomes["gpfm"].primary is None
    assert "not comparable" in outcomes["gpfm"].notes[0]
    metrics = outcomes["gpfm"].measure(outcomes["gpfm"].predictions)
    assert metrics["top-5 class"] == 1  # of four classes: by chance
    assert metrics["top-1 class"] < 1


def test_nothing_that_is_found_depends_on_labels_of_the_test_part():
    table, x = made(5)
    task = Retrieval(Source(), faithful=True, examples=0)
    assert_blind_to_test_labels(task, context(table, MadeFeatures(x)))


def test_random_labels_score_chance():
    firsts, precisions, chances = [], [], []
    for seed in range(20):
        table, x = made(100 + seed, gap=0.0)
        outcome = Retrieval(Source()).run(context(table, MadeFeatures(x)))["cosine"]
        metrics = outcome.measure(outcome.predictions)
        train, test = (table.labels[table.splits == part] for part in ("train", "test"))
        chances.append(np.mean([(train == label).mean() for label in test]))
        firsts.append(metrics["Acc@1"])
        precisions.append(metrics["mAP"])
    assert abs(np.mean(firsts) - np.mean(chances)) < 3 * np.std(firsts) / np.sqrt(20)
    # a random ranking's average precision lies a little above the share of relevant rows
    assert np.mean(chances) < np.mean(precisions) < np.mean(chances) + 0.03


def test_bad_input_is_refused_in_one_line():
    table, x = made(6)
    broken = x.copy()
    broken[table.splits == "test"] = np.inf
    with pytest.raises(G2LError, match="80 of 80 embeddings hold nan or inf"):
        Retrieval(Source()).run(context(table, MadeFeatures(broken)))
    alone = replace(table, labels=np.full(len(table), "a"))
    with pytest.raises(CohortError, match="every row has the label"):
        Retrieval(Source()).check(alone)
    strange = replace(table, labels=np.where(table.splits == "test", "new", table.labels))
    with pytest.raises(CohortError, match="test holds new"):
        Retrieval(Source()).run(context(strange, MadeFeatures(x)))
    few = np.where((table.splits == "train") & (np.arange(len(table)) > 3), "", table.splits)
    with pytest.raises(CohortError, match="k is 5 but there are 4 images in the database"):
        Retrieval(Source()).run(
            context(replace(table, splits=few, labels=np.where(np.arange(240) % 2, "a", "b")), MadeFeatures(x))
        )
