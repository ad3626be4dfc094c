"""Neighbours at float32's speed are those of float64, in order, with ties by position."""

import numpy as np
import pytest

from g2l.errors import G2LError
from g2l.evaluation.measures import neighbours
from g2l.evaluation.measures.neighbours import Directions, as_features, nearest


def exactly(query, base, k, apart=None):
    """All pairs in float64, sorted."""
    unit_q, unit_b = (
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] for x in (query, base)
    )
    cosine = np.round(unit_q @ unit_b.T, 12)
    if apart is not None:
        cosine[apart[0][:, None] == apart[1]] = -np.inf
    return np.argsort(-cosine, axis=1, kind="stable")[:, :k], cosine


def found(query, base, k, apart=None):
    blocks = list(nearest(Directions.of(query), Directions.of(base), k, apart))
    return np.concatenate([block.neighbours for block in blocks]), np.concatenate([b.similarity for b in blocks])


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5])
def test_agrees_with_float64_even_where_float32_cannot_tell_the_rows_apart(spread):
    """Rows that point almost the same way: their cosines differ by the spread squared, far below float32's error."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=64) + spread * rng.normal(size=(700, 64))).astype(np.float32)
    expected, cosine = exactly(x[:50], x, 10)
    places, similarity = found(x[:50], x, 10)
    np.testing.assert_allclose(similarity, np.take_along_axis(cosine, expected, axis=1), atol=2e-12)
    if spread > 1e-5:  # below, rounding to 12 decimals may break a tie either way
        np.testing.assert_array_equal(places, expected)


def test_the_crowded_and_the_quick_way_agree(monkeypatch):
    rng = np.random.default_rng(1)
    x = (rng.normal(size=32) + 0.02 * rng.normal(size=(600, 32))).astype(np.float32)
    quick = found(x, x, 7)
    monkeypatch.setattr(neighbours, "_CROWD", 0)
    crowded = found(x, x, 7)
    np.testing.assert_array_equal(quick[0], crowded[0])
    np.testing.assert_array_equal(quick[1], crowded[1])


@pytest.mark.parametrize("crowd", [2, 512])
def test_ties_go_to_the_earlier_row(monkeypatch, crowd):
    monkeypatch.setattr(neighbours, "_CROWD", crowd)
    base = np.tile(np.eye(3, dtype=np.float32), (4, 1)) * np.arange(1, 13, dtype=np.float32)[:, None]
    places, similarity = found(np.array([[0, 2, 0]], np.float32), base, 5)
    assert places.tolist() == [[1, 4, 7, 10, 0]]
    assert similarity.tolist() == [[1, 1, 1, 1, 0]]


@pytest.mark.parametrize("crowd", [0, 512])
def test_what_is_kept_apart_is_never_a_neighbour(monkeypatch, crowd):
    monkeypatch.setattr(neighbours, "_CROWD", crowd)
    rng = np.random.default_rng(2)
    x, group = rng.normal(size=(90, 5)), rng.integers(0, 6, 90)
    k = 90 - np.bincount(group).max()
    places, _ = found(x, x, k, (group, group))
    assert (group[places] != group[:, None]).all()
    np.testing.assert_array_equal(places, exactly(x, x, k, (group, group))[0])
    assert all(len(set(row)) == k for row in places.tolist())


def test_blocks_and_a_report_of_each(monkeypatch):
    x = np.random.default_rng(3).normal(size=(40, 4)).astype(np.float32)
    whole = found(x, x, 3)[0]
    monkeypatch.setattr(neighbours, "_BLOCK_VALUES", 40 * 15)
    said: list[str] = []
    blocks = list(nearest(Directions.of(x), Directions.of(x), 3, report=said.append))
    assert [block.queries for block in blocks] == [slice(0, 15), slice(15, 30), slice(30, 40)]
    np.testing.assert_array_equal(np.concatenate([block.neighbours for block in blocks]), whole)
    assert said[-1] == "40 of 40 rows compared with 40"


def test_a_row_of_zeros_is_like_nothing():
    places, similarity = found(np.zeros((1, 2)), np.array([[1.0, 0], [0, 1], [0, 0]]), 3)
    assert places.tolist() == [[0, 1, 2]]
    assert similarity.tolist() == [[0, 0, 0]]


def test_float32_is_not_copied_and_half_precision_is_widened():
    x = np.ones((3, 2), np.float32)
    assert as_features(x) is x
    assert as_features(x.astype(np.float16)).dtype == np.float32
    assert as_features([[1, 2]]).dtype == np.float64


def test_rows_that_are_not_finite_are_counted():
    x = np.ones((9, 2))
    x[[3, 5], 1] = np.nan, np.inf
    with pytest.raises(G2LError, match=r"2 of 9 rows hold nan or inf \(the first is row 3\)"):
        as_features(x)
