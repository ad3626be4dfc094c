"""kNN voting against scikit-learn, ties by hand."""

import numpy as np
import pytest

from g2l.errors import G2LError
from g2l.evaluation.measures import neighbours
from g2l.evaluation.measures.knn import knn_accuracy, knn_predict, knn_votes


def blobs(seed: int, n: int = 300, classes: int = 3, width: int = 8):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.normal(size=(n, width)) + 0.8 * rng.normal(size=(classes, width))[y], y


@pytest.mark.parametrize("k", [1, 5, 21])
def test_two_classes_and_odd_k_agree_with_scikit_learn(k):
    from sklearn.neighbors import KNeighborsClassifier

    x, y = blobs(0, classes=2)
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x[:200], y[:200])
    np.testing.assert_array_equal(knn_predict(x[:200], y[:200], x[200:], k), reference.predict(x[200:]))


def test_accuracy_and_balanced_accuracy_agree_with_scikit_learn():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    x, y = blobs(1)
    names = np.array(["stroma", "gland", "fat"])[y]
    predicted = knn_predict(x[:200], names[:200], x[200:])
    result = knn_accuracy(x[:200], names[:200], x[200:], names[200:])
    assert result.accuracy == pytest.approx(accuracy_score(names[200:], predicted))
    assert result.balanced == pytest.approx(balanced_accuracy_score(names[200:], predicted))
    assert result.accuracy > 0.5


def test_a_tied_vote_goes_to_the_nearer_class_then_to_the_first_name():
    angle = np.radians([10, 30, -15, -20])
    train = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert knn_predict(train, list("aabb"), [[1, 0]], k=4) == ["b"]  # 15 + 20 degrees are nearer than 10 + 30
    assert knn_predict([[1, 1], [1, -1]], list("ba"), [[1, 0]], k=2) == ["a"]


def test_ignores_order_and_length_of_the_rows():
    x, y = blobs(2)
    rng = np.random.default_rng(0)
    order = rng.permutation(200)
    scaled = x[:200] * rng.uniform(0.1, 10, (200, 1))
    np.testing.assert_array_equal(
        knn_predict(scaled[order], y[:200][order], x[200:]), knn_predict(x[:200], y[:200], x[200:])
    )


def test_blocks_give_what_one_piece_gives(monkeypatch):
    x, y = blobs(3)
    whole = knn_predict(x[:200], y[:200], x[200:])
    monkeypatch.setattr(neighbours, "_BLOCK_VALUES", 1400)
    np.testing.assert_array_equal(knn_predict(x[:200], y[:200], x[200:]), whole)


def test_duplicates_do_not_add_neighbours():
    same = neighbours.Directions.of(np.ones((9, 3)))
    for block in neighbours.nearest(same, same, 4):
        np.testing.assert_array_equal(block.neighbours, np.tile(np.arange(4), (9, 1)))


def test_shares_are_the_votes_written_out():
    x, y = blobs(4)
    votes = knn_votes(x[:200], y[:200], x[200:], k=7)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    order = np.argsort(-unit[200:] @ unit[:200].T, axis=1)[:, :7]
    for row, shares in enumerate(votes.shares):
        assert shares.tolist() == [np.mean(y[order[row]] == name) for name in votes.classes]
    np.testing.assert_array_equal(votes.predicted, knn_predict(x[:200], y[:200], x[200:], k=7))


def test_all_rows_vote_when_there_are_fewer_than_k():
    assert knn_predict(np.eye(3), list("aab"), [[0, 0, 1]], k=20) == ["a"]


def test_classes_absent_from_the_test_rows_do_not_enter_the_balance():
    result = knn_accuracy(np.eye(3), list("abc"), np.eye(3)[[0, 0, 1]], list("abb"), k=1)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.balanced == pytest.approx((1 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(3), list("ab"), np.eye(3)), "one per embedding"),
        ((np.eye(3), list("abc"), np.eye(4)), "width 3, test embeddings 4"),
        ((np.eye(3), list("abc"), np.eye(3), 0), "at least one neighbour"),
        ((np.zeros((0, 3)), [], np.eye(3)), "at least one row"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message):
    with pytest.raises(G2LError, match=message) as raised:
        knn_predict(*arguments)
    assert "\n" not in str(raised.value)
