"""Robustness of the test part: columns, notes on what undoes it, and the performance drop."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation.made import MadeFeatures, context
from evaluation.tasks.blind import assert_blind_to_test_labels

from g2l.errors import CohortError, ConfigError, G2LError
from g2l.evaluation.measures.robustness import robustness
from g2l.evaluation.statistics.bootstrap import interval
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.robustness import PerformanceDrop, Robustness, _balance, origins


def made(seed: int = 0, n: int = 240, biology_gap: float = 1.0, centre_gap: float = 1.0, part: str = "test"):
    """Two classes in two centres, as many of each, 6 slides a centre; every patient has one slide."""
    rng = np.random.default_rng(seed)
    number = np.arange(n)
    biology, centre, slide = number % 2, number // 2 % 2, number // 4 % 6
    x = rng.normal(size=(n, 6))
    x[:, 0] += biology_gap * (2 * biology - 1)
    x[:, 1] += centre_gap * (2 * centre - 1)
    names = np.char.add(np.char.mod("s%d-", slide), np.char.mod("%d", centre))
    table = Table.build(
        "made", [Path(f"/data/{row}.png") for row in range(n)], Path("/data"), labels=np.char.mod("class %d", biology),
        centres=np.char.mod("centre %d", centre), slides=names, patients=np.char.add("p", names),
        splits=np.full(n, part),
    )  # fmt: skip
    return table, x.astype(np.float32)


def test_index_support_and_ratio_are_those_of_the_measure():
    table, x = made()
    said: list[str] = []
    task = Robustness(Source(), k=11, clustering=False)
    task.check(table)
    outcome = task.run(context(table, MadeFeatures(x), report=said.append))["neighbours"]
    expected = robustness(x, table.labels, table.centres, table.slides, 11)
    found = outcome.measure(outcome.predictions)
    assert found == {"robustness index": expected.index, "support": expected.support, "ratio": expected.ratio}
    assert outcome.primary == "robustness index"
    assert outcome.chosen["k"] == 11
    assert outcome.facts["cross table"]["counts"] == [[60, 60], [60, 60]]
    assert outcome.facts["Cramer's V"] == 0
    assert outcome.facts["published"]["Virchow2"]["TCGA"] == 0.822
    assert outcome.notes == []
    assert said[-1] == "robustness: 240 of 240 rows compared with 240"


def test_embeddings_of_tissue_score_above_those_of_hospitals():
    scores = []
    for gaps in ((2.0, 0.0), (0.0, 2.0)):
        table, x = made(1, biology_gap=gaps[0], centre_gap=gaps[1])
        outcomes = Robustness(Source(), repeats=3).run(context(table, MadeFeatures(x)))
        scores.append({name: outcome.measure(outcome.predictions) for name, outcome in outcomes.items()})
    assert scores[0]["neighbours"]["robustness index"] > 0.85 > 0.15 > scores[1]["neighbours"]["robustness index"]
    assert scores[0]["clusters"]["clustering score"] > 0.3 > -0.3 > scores[1]["clusters"]["clustering score"]


def test_a_cohort_whose_centres_send_different_tissues_is_noted():
    table, x = made(2)
    labels = np.where((table.centres == "centre 0") & (np.arange(240) % 8 > 1), "class 0", table.labels)
    for outcome in Robustness(Source()).run(context(replace(table, labels=labels), MadeFeatures(x))).values():
        assert any("biology and centre go together" in note for note in outcome.notes)
        assert outcome.facts["Cramer's V"] > 0.1


def test_an_undefined_index_is_nan_and_noted():
    table, x = made(3, biology_gap=1000.0, centre_gap=0.0)
    labels = np.where(table.centres == "centre 0", "class 0", "class 1")
    order = labels == "class 1"
    x[:, 0] = np.where(order, 1000, -1000)
    outcome = Robustness(Source(), k=3, clustering=False).run(context(replace(table, labels=labels), MadeFeatures(x)))[
        "neighbours"
    ]
    metrics = outcome.measure(outcome.predictions)
    assert math.isnan(metrics["robustness index"]) and metrics["support"] == 0
    assert any("undefined" in note for note in outcome.notes)


def test_fewer_neighbours_than_asked_for_are_noted():
    table, x = made(4)
    outcome = Robustness(Source(), k=1000, clustering=False).run(context(table, MadeFeatures(x)))["neighbours"]
    assert outcome.chosen["k"] == 240 - 20
    assert any("only 220 of the 1000" in note for note in outcome.notes)


def test_the_columns_can_be_written_and_measured_on_drawn_patients():
    table, x = made(4)
    outcome = Robustness(Source(), k=5, clustering=False).run(context(table, MadeFeatures(x)))["neighbours"]
    assert all(column.shape == (240,) for column in outcome.predictions.values())
    found = interval(outcome.measure, outcome.predictions, 100)
    index = found["robustness index"]
    assert index.low < index.value < index.high and index.undefined == 0
    assert found["support"].value > 0 and math.isnan(found["support"].low)


def test_the_two_indices_behind_the_clustering_score_are_facts():
    table, x = made(12)
    outcome = Robustness(Source(), repeats=2).run(context(table, MadeFeatures(x)))["clusters"]
    metrics = outcome.measure(outcome.predictions)
    assert set(metrics) == {"clustering score"}
    assert metrics["clustering score"] == outcome.facts["ARI biology"] - outcome.facts["ARI centre"]
    assert any("have no interval" in note for note in outcome.notes)


def test_luck_with_few_slides_is_no_warning_and_slides_that_say_the_class_are():
    table, _ = made(13, n=2000)
    slide = np.repeat(np.arange(100), 20)
    warned = {"luck": 0, "real": 0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        centre = rng.integers(0, 4, 100)
        for name, biology in (("luck", rng.integers(0, 4, 100)), ("real", (centre + (rng.random(100) < 0.5)) % 4)):
            columns = {"labels": biology, "centres": centre, "slides": np.arange(100)}
            drawn = replace(table, **{key: np.char.mod("%d", values[slide]) for key, values in columns.items()})
            warned[name] += bool(_balance(drawn, np.arange(2000))[1])
    assert warned["luck"] <= 7 and warned["real"] == 20
    half = np.char.mod("%d", slide // 50)
    assert "too few to tell" in _balance(replace(table, labels=half, centres=half, slides=half), np.arange(2000))[1]


def test_a_part_of_many_images_is_clustered_and_noted():
    table, x = made(5)
    outcome = Robustness(Source(), repeats=2, most=50).run(context(table, MadeFeatures(x)))["clusters"]
    assert len(outcome.predictions["id"]) == 50
    assert any("clusters of 50 of 240 images" in note for note in outcome.notes)


def test_slides_of_the_same_name_in_two_centres_are_two_and_patients_stand_in_for_slides():
    table, _ = made(6)
    same = replace(table, slides=np.char.mod("s%d", np.arange(240) // 4 % 6))
    assert len(set(origins(same))) == 12
    without = replace(table, slides=np.full(240, ""))
    assert len(set(origins(without))) == 12
    neither = replace(without, patients=np.full(240, ""))
    with pytest.raises(CohortError, match="240 rows have neither slide nor patient"):
        origins(neither)
    assert len(set(origins(replace(neither, independent=True)))) == 240


def scanned_again(seed: int, centre_gap: float = 1.0, centres: int = 3, tissues: int = 10, each: int = 4):
    """Two classes; every tissue in every centre, `each` images of it, which lie close together. Rows are shuffled."""
    rng = np.random.default_rng(seed)
    centre, tissue, _ = (axis.ravel() for axis in np.indices((centres, tissues, each)))
    x = rng.normal(size=(tissues, 8))[tissue] + 0.3 * rng.normal(size=(len(tissue), 8))
    x[:, 0] += tissue % 2
    x[:, 1] += centre_gap * centre
    order = rng.permutation(len(x))
    table = Table.build(
        "again", [Path(f"/data/{row}.png") for row in range(len(x))], Path("/data"),
        labels=np.char.mod("class %d", tissue % 2)[order], centres=np.char.mod("centre %d", centre)[order],
        slides=np.char.mod("t%d", tissue)[order], splits=np.full(len(x), "test"),
    )  # fmt: skip
    return table, x[order].astype(np.float32)


def spelt_out(x, table: Table, k: int):
    """Per query how many of the k nearest rows of other tissue are SS, SO, OS, OO; and the same per neighbour."""
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    k = min(k, *(int((table.slides != slide).sum()) for slide in table.slides))
    queries, neighbours = np.zeros((len(x), 4), int), np.zeros((len(x), 4), int)
    for i in range(len(x)):
        others = [j for j in range(len(x)) if table.slides[j] != table.slides[i]]
        for j in sorted(others, key=lambda j, i=i: float(np.linalg.norm(unit[i] - unit[j])))[:k]:
            kind = 2 * int(table.labels[i] != table.labels[j]) + int(table.centres[i] != table.centres[j])
            queries[i, kind] += 1
            neighbours[j, kind] += 1
    return queries, neighbours


@pytest.mark.parametrize("k", [1, 7, 20, 500])
def test_no_neighbour_is_the_same_tissue_scanned_again(k):
    table, x = scanned_again(1)
    task = Robustness(Source(), k=k, clustering=False, rescanned=True)
    task.check(table)
    outcome = task.run(context(table, MadeFeatures(x)))["neighbours"]
    queries, neighbours = spelt_out(x, table, k)
    for number, kind in enumerate(("ss", "so", "os", "oo")):
        np.testing.assert_array_equal(outcome.predictions[kind], queries[:, number])
        np.testing.assert_array_equal(outcome.predictions[f"of_{kind}"], neighbours[:, number])
        assert set(outcome.predictions[f"all_{kind}"]) == {queries[:, number].sum()}
    assert outcome.chosen["k"] == min(k, 120 - 12)
    said = "only 108 of the 500 neighbours asked for lie outside the largest slide and its other scans"
    assert [said in note for note in outcome.notes] == [True] * (k > 108)


def test_tissue_in_one_centre_each_is_counted_as_it_is_without_the_setting():
    table, x = made(14)
    measured = [
        Robustness(Source(), k=9, clustering=False, rescanned=rescanned)
        .run(context(table, MadeFeatures(x)))["neighbours"].predictions
        for rescanned in (False, True)
    ]  # fmt: skip
    assert measured[0].keys() == measured[1].keys()
    for name, column in measured[0].items():
        np.testing.assert_array_equal(column, measured[1][name])


def test_copies_in_other_centres_feign_robustness_unless_they_are_named():
    """Embeddings that know nothing but which tissue it is: every copy of the query counts as SO."""
    index = []
    for seed in range(20):
        table, x = scanned_again(seed, centre_gap=0.0, tissues=20)
        x[:, 0] -= (table.labels == "class 1").astype(np.float32)
        for rescanned in (False, True):
            task = Robustness(Source(), k=8, clustering=False, rescanned=rescanned)
            outcome = task.run(context(table, MadeFeatures(x)))["neighbours"]
            index.append(outcome.measure(outcome.predictions)["robustness index"])
            assert len(set(outcome.predictions["patient"])) == 20  # a draw takes a tissue with all its scans
    feigned, honest = np.reshape(index, (20, 2)).mean(axis=0)
    assert feigned > 0.95
    # of 19 other tissues 9 are of the query's class, each in two other centres, and 10 are not, each in its own
    assert honest == pytest.approx(18 / 28, abs=0.1)


def test_tissue_in_all_centres_is_balanced_and_tissue_that_some_centres_lack_is_noted():
    table, x = scanned_again(3, tissues=24)
    facts, said = _balance(table, np.arange(len(table)))
    assert facts["Cramer's V"] == 0 and said == ""
    assert facts["cross table"]["counts"] == [[48, 48, 48], [48, 48, 48]]
    lacking = (table.centres == "centre 0") & (table.labels == "class 1")
    lacking |= (table.centres == "centre 1") & (table.labels == "class 0")
    gone = replace(table, splits=np.where(lacking, "", table.splits))
    outcome = Robustness(Source(), clustering=False, rescanned=True).run(context(gone, MadeFeatures(x)))["neighbours"]
    assert outcome.facts["Cramer's V"] > 0.5
    assert any("biology and centre go together" in note for note in outcome.notes)


def test_luck_in_which_centres_scan_a_tissue_is_seldom_a_warning():
    table, _ = scanned_again(4, centres=4, tissues=24, each=2)
    tissue, place = np.char.strip(table.slides, "t").astype(int), np.char.strip(table.centres, "centre ").astype(int)
    warned = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scanned = np.argsort(rng.random((24, 4)), axis=1) < 2
        warned += bool(_balance(table, np.flatnonzero(scanned[tissue, place]))[1])
    assert warned <= 7


def test_rescanned_is_refused_where_no_name_is_in_two_centres():
    table, _ = scanned_again(5)
    apart = replace(table, slides=np.char.add(table.slides, table.centres))
    with pytest.raises(CohortError, match="no slide or patient is in two centres") as raised:
        Robustness(Source(), rescanned=True).check(apart)
    assert "\n" not in str(raised.value)
    Robustness(Source(), rescanned=True).check(replace(apart, patients=table.slides, slides=np.full(len(table), "")))
    alone = replace(table, slides=np.full(len(table), ""), independent=True)
    with pytest.raises(CohortError, match="no slide or patient is in two centres"):
        Robustness(Source(), rescanned=True).check(alone)


def test_clusters_are_made_without_labels():
    table, x = made(7)
    judged = ("biology", "ss", "so", "os", "oo", "of_", "all_")
    assert_blind_to_test_labels(Robustness(Source(), repeats=2), context(table, MadeFeatures(x)), judged=judged)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("labels", "", "have no label"),
        ("labels", "a", "every row has the label 'a'"),
        ("centres", "", "have no centre"),
        ("centres", "x", "every row has the centre 'x'"),
    ],
)
def test_tables_that_cannot_serve_are_refused(column, value, message):
    table, _ = made(8)
    for task in (Robustness(Source()), PerformanceDrop(Source())):
        with pytest.raises(CohortError, match=message) as raised:
            task.check(replace(table, **{column: np.full(240, value)}))
        assert "\n" not in str(raised.value)


def test_other_bad_input_is_refused():
    table, x = made(9)
    x[3] = np.nan
    with pytest.raises(G2LError, match=r"1 of 240 embeddings hold nan or inf \(3.png\)"):
        Robustness(Source()).run(context(table, MadeFeatures(x)))
    with pytest.raises(ConfigError, match="k is 0"):
        Robustness(Source(), k=0)
    with pytest.raises(ConfigError, match="levels are 0"):
        PerformanceDrop(Source(), levels=0)


def three_parts(seed: int, centre_gap: float):
    made_parts = [made(seed + i, 480, 1.0, centre_gap, part) for i, part in enumerate(("train", "val", "test"))]
    tables, rows = zip(*made_parts, strict=True)
    columns = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("labels", "centres", "slides", "splits")
    }
    paths = [Path(f"/data/{row}.png") for row in range(1440)]
    table = replace(Table.build("made", paths, Path("/data")), **columns)
    return replace(table, patients=np.char.add(table.splits, table.slides)), np.concatenate(rows)


def test_the_drop_is_large_where_the_embedding_shows_the_centre():
    found = []
    for gap in (0.0, 4.0):
        table, x = three_parts(10, gap)
        outcome = PerformanceDrop(Source(), levels=2, repeats=2).run(context(table, MadeFeatures(x)))["drop"]
        metrics = outcome.measure(outcome.predictions)
        found.append(metrics["APD"])
        assert metrics["balanced accuracy"] > 0.7
        assert set(outcome.chosen["C"]) == {"0_0", "0_1", "0_2", "1_0", "1_1", "1_2"}
    assert found[0] == pytest.approx(0, abs=0.05)
    assert found[1] < -0.1


def test_a_test_part_of_other_proportions_is_noted_and_pairs_weigh_the_same():
    """Confounded as the training that is fully biased: the drop is still a drop, stands for no rank, and is noted."""
    table, x = three_parts(30, 4.0)
    same = table.labels == np.char.replace(table.centres, "centre", "class")
    rare = (table.splits == "test") & ~same & (np.arange(1440) % 16 > 3)
    split = replace(table, splits=np.where(rare, "", table.splits))
    outcome = PerformanceDrop(Source(), levels=1, repeats=1).run(context(split, MadeFeatures(x)))["drop"]
    assert outcome.primary is None and outcome.measure(outcome.predictions)["APD"] < -0.1
    assert any(
        "biology and centre go together" in note and "the rarest has 30 images" in note for note in outcome.notes
    )
    assert any("cannot tell the classes" in note for note in outcome.notes)
    whole = PerformanceDrop(Source(), levels=1, repeats=1).run(context(table, MadeFeatures(x)))["drop"]
    assert len(whole.notes) == 1


def test_test_rows_of_centres_no_training_used_are_left_out_and_empty_pairs_refused():
    table, x = three_parts(40, 1.0)
    test = table.splits == "test"
    other = test & (np.arange(1440) % 24 < 4)
    moved = replace(table, centres=np.where(other, "centre 9", table.centres))
    outcome = PerformanceDrop(Source(), levels=1, repeats=1).run(context(moved, MadeFeatures(x)))["drop"]
    assert set(outcome.predictions["centre"]) == {"centre 0", "centre 1"}
    assert any("80 test images of centres that no training used (centre 9) are left out" in n for n in outcome.notes)
    lone = test & (table.centres == "centre 1") & (table.labels == "class 1")
    gone = replace(table, splits=np.where(lone, "", table.splits))
    with pytest.raises(CohortError, match="test has no class 1 of centre 1"):
        PerformanceDrop(Source()).run(context(gone, MadeFeatures(x)))


def test_the_drop_is_fitted_without_labels_of_the_test_part():
    table, x = three_parts(20, 1.0)
    assert_blind_to_test_labels(PerformanceDrop(Source(), levels=1, repeats=1), context(table, MadeFeatures(x)))


def test_random_embeddings_have_an_index_at_chance():
    """Balanced classes and centres and no signal: SO and OS are as common."""
    found = []
    for seed in range(20):
        table, _ = made(seed)
        x = np.random.default_rng(200 + seed).normal(size=(240, 6)).astype(np.float32)
        outcome = Robustness(Source(), clustering=False).run(context(table, MadeFeatures(x)))["neighbours"]
        found.append(outcome.measure(outcome.predictions)["robustness index"])
    # the query's own slide is left out, which holds both classes and one centre: SO is a little commoner than OS
    own = 20
    chance = (120 / 2) / (120 / 2 + (120 - own) / 2)
    assert abs(np.mean(found) - chance) < 3 * np.std(found) / np.sqrt(20) + 1e-3
