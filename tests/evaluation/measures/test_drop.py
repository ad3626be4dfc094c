"""The average performance drop: its formula against croma, what its training sets hold, what it finds."""

import math

import numpy as np
import pytest

from g2l.errors import CohortError
from g2l.evaluation.measures.drop import (
    average_drop,
    biased_predictions,
    centres_for,
    check_cells,
    columns,
    draw,
    measure_drop,
)
from g2l.evaluation.statistics.bootstrap import interval


def cohort(seed: int, n: int, centre_gap: float, classes: int = 2, centres: int = 2):
    rng = np.random.default_rng(seed)
    y, place = rng.integers(0, classes, n), rng.integers(0, centres, n)
    x = rng.normal(size=(n, 8))
    x[:, 0] += 1.5 * y
    x[:, 1] += centre_gap * place
    return x.astype(np.float32), np.char.mod("class %d", y), np.char.mod("centre %d", place)


def test_agrees_with_croma():
    from croma import apd

    accuracies = np.random.default_rng(0).uniform(0.3, 1, (6, 5))  # repetitions, levels
    assert average_drop(accuracies) == pytest.approx(apd(accuracies.T), abs=1e-12)
    assert average_drop(np.full((3, 4), 0.8)) == 0
    assert math.isnan(average_drop(np.array([[0.0, 0.5]])))


@pytest.mark.parametrize(("classes", "centres"), [(2, 2), (4, 2), (3, 3)])
def test_training_sets_differ_in_the_association_of_class_and_centre_alone(classes, centres):
    _, labels, places = cohort(1, 1200, 0.0, classes, centres)
    names = np.unique(labels)
    used = centres_for(labels, places, names)
    assert len(used) == centres
    association = []
    for level in (0, 0.5, 1):
        rows = draw(labels, places, names, used, level, np.random.default_rng(0))
        assert len(set(rows.tolist())) == len(rows)
        table = np.array([[((labels[rows] == a) & (places[rows] == b)).sum() for b in used] for a in names])
        assert len(set(table.sum(axis=1).tolist())) == 1  # every class equally common
        sizes = table.sum()
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / sizes
        association.append((sizes, math.sqrt(((table - expected) ** 2 / expected).sum() / sizes / (centres - 1))))
    assert len({size for size, _ in association}) == 1
    values = [value for _, value in association]
    assert values[0] < 0.02 and 0.45 < values[1] < 0.55 and values[2] == pytest.approx(1)


def test_an_embedding_that_shows_the_hospital_loses_and_one_that_does_not_loses_nothing():
    found = {}
    for name, gap in (("blind", 0.0), ("shows", 6.0)):
        train, val, test = (cohort(seed, n, gap) for seed, n in ((2, 400), (3, 200), (4, 400)))
        answers, strengths = biased_predictions(train, val, test[0], levels=2, repeats=2)
        assert sorted(strengths) == ["0_0", "0_1", "0_2", "1_0", "1_1", "1_2"]
        found[name] = measure_drop(columns(test[1], test[2], answers))
    assert found["blind"]["APD"] == pytest.approx(0, abs=0.03)
    assert found["shows"]["APD"] < -0.1
    assert found["shows"]["balanced accuracy"] > 0.7
    assert found["shows"]["fully biased"] < 0.6


def test_centres_that_lack_a_class_are_not_used_and_two_are_needed():
    labels, places = np.array(list("abababaa")), np.array(list("xxyyzzww"))
    assert set(centres_for(labels, places, np.array(["a", "b"]))) <= set("xyz")
    with pytest.raises(CohortError, match="1 centres send every class"):
        centres_for(np.array(list("abaa")), np.array(list("xxyy")), np.array(["a", "b"]))


def test_a_validation_part_without_a_class_in_a_centre_is_refused():
    train, val = cohort(5, 200, 0.0), cohort(6, 60, 0.0)
    keep = (val[1] == "class 0") | (val[2] == "centre 0")
    with pytest.raises(CohortError, match="val lacks a class"):
        biased_predictions(train, (val[0][keep], val[1][keep], val[2][keep]), val[0], 1, 1)


def test_balanced_accuracy_is_the_mean_over_pairs_of_class_and_centre():
    truth, centre = np.array(list("aaaaabbb")), np.array(list("xxxxyxyy"))
    right = np.array([1, 1, 1, 0, 0, 1, 1, 0], bool)
    answer = np.where(right, truth, np.where(truth == "a", "b", "a"))
    made = columns(truth, centre, {"predicted_0_0": answer, "predicted_0_1": truth})
    found = measure_drop(made)
    assert found["balanced accuracy"] == pytest.approx((3 / 4 + 0 + 1 + 1 / 2) / 4)
    assert found["fully biased"] == 1
    assert found["APD"] == pytest.approx(1 / found["balanced accuracy"] - 1)
    lost = measure_drop({name: column[:4] for name, column in made.items()})
    assert all(math.isnan(value) for value in lost.values()) and len(lost) == 3


def test_an_encoder_that_sees_the_centre_alone_gains_nothing_where_test_is_confounded_as_training():
    """95 % of the test rows are of the class that training gave their centre."""
    rng = np.random.default_rng(0)
    train, val, test = (cohort(seed, n, 4.0) for seed, n in ((2, 400), (3, 200), (4, 2000)))
    for part in (train, val, test):
        part[0][:, 0] = rng.normal(size=len(part[0]))  # no class in it
    same = np.char.replace(test[1], "class", "") == np.char.replace(test[2], "centre", "")
    kept = rng.random(2000) < np.where(same, 0.95, 0.05)
    x, truth, centre = test[0][kept], test[1][kept], test[2][kept]
    answers, _ = biased_predictions(train, val, x, levels=2, repeats=2)
    assert np.mean(truth == answers["predicted_0_2"]) > 0.9
    found = measure_drop(columns(truth, centre, answers))
    # about 25 rows in each of the rare pairs
    assert found["fully biased"] == pytest.approx(0.5, abs=0.06) and abs(found["APD"]) < 0.15


def test_draws_that_lost_a_pair_have_no_value():
    truth, centre = np.array(list("ab") * 20), np.array(list("xxyy") * 10)
    centre[:] = np.where(np.arange(40) % 2, centre, "x")
    centre[0] = "y"  # the only a of y
    ids = np.char.mod("%02d", np.arange(40))
    made = columns(truth, centre, {"predicted_0_0": truth, "predicted_0_1": truth})
    found = interval(measure_drop, {"id": ids, "patient": ids} | made, 400)["APD"]
    assert found.value == 0 and found.undefined == pytest.approx(math.exp(-1), abs=0.06) and math.isnan(found.low)


def test_a_test_part_that_lacks_a_class_in_a_centre_is_refused_by_name():
    labels, places = np.array(list("abab")), np.array(list("xxyy"))
    check_cells(labels, places, np.array(["a", "b"]), np.array(["x", "y"]))
    with pytest.raises(CohortError, match=r"test has no b of y; give it") as raised:
        check_cells(labels[:3], places[:3], np.array(["a", "b"]), np.array(["x", "y"]))
    assert "\n" not in str(raised.value)
