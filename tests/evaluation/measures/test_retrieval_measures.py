"""Retrieval against lists written out one query after the other, and scikit-learn's average precision."""

import numpy as np
import pytest

from g2l.errors import G2LError
from g2l.evaluation.measures.retrieval import (
    gpfm_ranks,
    hits,
    measure_gpfm_retrieval,
    measure_retrieval,
    retrieve,
)


def blobs(seed: int, n: int = 260, classes: int = 4, width: int = 6):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.normal(size=(n, width)) + 0.8 * rng.normal(size=(classes, width))[y]
    names = np.array(["fat", "gland", "muscle", "stroma", "tumour"])[:classes]
    return x[:200], names[y[:200]], x[200:], names[y[200:]]


def ranked(base_x, query):
    """All database rows from the most to the least similar."""
    return sorted(range(len(base_x)), key=lambda row: -query @ base_x[row] / np.linalg.norm(base_x[row]))


def test_agrees_with_ranked_lists_and_scikit_learn():
    from sklearn.metrics import average_precision_score

    base_x, base_y, query_x, query_y = blobs(0)
    found = retrieve(base_x, base_y, query_x, query_y)
    for row, query in enumerate(query_x):
        order = ranked(base_x, query)
        assert found.neighbours[row].tolist() == order[:5]
        cosine = base_x @ query / np.linalg.norm(base_x, axis=1) / np.linalg.norm(query)
        expected = average_precision_score(base_y == query_y[row], cosine)
        assert found.average_precision[row] == pytest.approx(expected, abs=1e-6)
        labels = base_y[order[:5]].tolist()
        assert labels.count(found.predicted[row]) == max(map(labels.count, labels))
    right = base_y[found.neighbours] == query_y[:, None]
    columns = hits(right) | {"vote_5": found.predicted == query_y, "average_precision": found.average_precision}
    metrics = measure_retrieval(columns)
    assert metrics["Acc@1"] == np.mean(
        [base_y[ranked(base_x, q)[0]] == y for q, y in zip(query_x, query_y, strict=True)]
    )
    assert metrics["Acc@1"] < metrics["Acc@3"] < metrics["Acc@5"] < 1
    assert metrics["mAP"] == pytest.approx(found.average_precision.mean())


def test_a_query_whose_neighbours_are_all_wrong_scores_nothing_at_any_depth():
    angle = np.radians([0, 1, 2, 3, 4, 90])
    base = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = retrieve(base, list("aaaaab"), [[1, 0.01]], ["b"])
    right = np.array(list("aaaaab"))[found.neighbours] == "b"
    assert {name: column.tolist() for name, column in hits(right).items()} == {"hit_1": [0], "hit_3": [0], "hit_5": [0]}
    assert found.predicted == ["a"]
    assert found.average_precision == pytest.approx([1 / 6])  # in the sixth place of six


def test_a_tied_majority_goes_to_the_class_that_comes_first_in_the_list():
    angle = np.radians([1, 2, 3, 4, 5])
    base = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert retrieve(base, list("zaazb"), [[1, 0]], ["a"]).predicted == ["z"]


def test_equally_similar_rows_are_found_together():
    base = np.tile([[1.0, 0.0]], (8, 1))
    found = retrieve(base, list("aabbbbbb"), [[1, 0]], ["a"])
    assert found.average_precision == pytest.approx([2 / 8])


def test_a_class_that_the_database_lacks_has_precision_zero():
    base_x, base_y, query_x, _ = blobs(1)
    found = retrieve(base_x, base_y, query_x[:3], ["unheard of"] * 3)
    assert found.average_precision.tolist() == [0, 0, 0]


def test_length_of_the_rows_does_not_matter():
    base_x, base_y, query_x, query_y = blobs(2)
    scale = np.random.default_rng(0).uniform(0.1, 9, (200, 1))
    plain, scaled = (retrieve(x, base_y, query_x, query_y) for x in (base_x, base_x * scale))
    np.testing.assert_array_equal(plain.neighbours, scaled.neighbours)
    np.testing.assert_allclose(plain.average_precision, scaled.average_precision, atol=1e-6)


def test_gpfm_ranks_are_those_of_the_vote_written_out():
    base_x, base_y, query_x, query_y = blobs(3)
    ranks, first = gpfm_ranks(base_x, base_y, query_x, query_y)
    mean, deviation = base_x.mean(axis=0), base_x.std(axis=0, ddof=1)
    base_z, query_z = (base_x - mean) / deviation, (query_x - mean) / deviation
    for row, query in enumerate(query_z):
        order = np.argsort(np.linalg.norm(base_z - query, axis=1))[:9]
        votes = dict.fromkeys(sorted(set(base_y)), 0.0)
        for place, other in enumerate(order):
            votes[base_y[other]] += 1 - 0.1 * place
        classes = sorted(votes, key=lambda name: (-round(votes[name], 9), name))
        assert ranks[row] == classes.index(query_y[row])
        assert first[row] == classes[0]


def test_ties_raise_gpfms_top_5_where_no_neighbour_has_the_class():
    """What is wrong with it: five classes, a query whose nine neighbours all have another class, and yet a hit."""
    base = np.concatenate([np.random.default_rng(0).normal(0, 0.1, (20, 3)), 5 + np.eye(3)[[0, 1, 2, 0]]])
    labels = list("a" * 20) + list("bcde")
    ranks, _ = gpfm_ranks(base, labels, [[0.0, 0.0, 0.0]], ["e"])
    found = retrieve(base, labels, [[0.01, -0.01, 0.0]], ["e"])
    assert measure_gpfm_retrieval({f"hit_{k}": ranks < k for k in (1, 3, 5)})["top-5 class"] == 1
    assert "e" not in np.array(labels)[found.neighbours]


def test_bad_input_is_refused():
    with pytest.raises(G2LError, match="width 3, test embeddings 4"):
        retrieve(np.eye(3), list("abc"), np.eye(4), list("abcd"))
    with pytest.raises(G2LError, match="query labels"):
        retrieve(np.eye(3), list("abc"), np.eye(3), list("ab"))
