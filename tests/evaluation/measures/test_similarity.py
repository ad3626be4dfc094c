"""CKA and neighbour overlap against their definitions, and their invariances."""

import math

import numpy as np
import pytest

from g2l.errors import G2LError
from g2l.evaluation.measures.similarity import linear_cka, measure_similarity, neighbour_overlap, overlaps, unbiased_cka


def pair(seed: int, n: int, p: int, q: int):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    return x, x[:, : min(p, q)] @ rng.normal(size=(min(p, q), q)) + rng.normal(size=(n, q))


def hsic_form(x, y):
    """Kornblith et al. 2019: HSIC of linear kernels, the centring matrix written out."""
    h = np.eye(len(x)) - 1 / len(x)
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    return np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m))


@pytest.mark.parametrize(("n", "p", "q"), [(40, 7, 5), (10, 30, 20), (25, 60, 3), (30, 30, 30)])
def test_cka_is_the_ratio_of_hsics_in_both_forms(n, p, q):
    x, y = pair(0, n, p, q)
    assert linear_cka(x + 3, y - 100) == pytest.approx(hsic_form(x, y), abs=1e-10)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), abs=1e-12)


@pytest.mark.parametrize("n", [50, 12])
def test_cka_is_one_for_rotated_scaled_shifted_features_and_less_for_stretched_ones(n):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 20))
    rotation = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    assert linear_cka(x, 7 * x @ rotation + 5) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, x * np.linspace(0.01, 5, 20)) < 0.97
    assert linear_cka(x, x) <= 1


def test_cka_of_unrelated_features_falls_as_images_are_added():
    rng = np.random.default_rng(2)
    few, many = (linear_cka(rng.normal(size=(n, 20)), rng.normal(size=(n, 20))) for n in (30, 3000))
    assert few > 0.2
    assert many < 0.02


def test_cka_survives_float32_features_with_a_large_offset():
    x, y = pair(3, 400, 16, 16)
    expected = linear_cka(x, y)
    assert linear_cka((x + 300).astype(np.float32), y.astype(np.float32)) == pytest.approx(expected, abs=1e-4)


def test_undefined_similarity_is_nan():
    x = np.random.default_rng(4).normal(size=(30, 6))
    constant = np.full((30, 6), 0.1)
    assert math.isnan(linear_cka(x, constant))
    assert math.isnan(linear_cka(x[:1], x[:1]))
    assert math.isnan(neighbour_overlap(constant, x, k=3))


def test_overlap_is_the_mean_share_of_common_neighbours():
    x, y = pair(5, 60, 10, 10)

    def neighbours(z, i):
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        return set(sorted((j for j in range(60) if j != i), key=lambda j: -z[i] @ z[j])[:5])

    expected = np.mean([len(neighbours(x, i) & neighbours(y, i)) / 5 for i in range(60)])
    assert neighbour_overlap(x, y, k=5) == pytest.approx(expected)
    assert neighbour_overlap(x, 3 * x, k=5) == 1


def test_overlap_of_unrelated_embeddings_is_at_chance():
    rng = np.random.default_rng(6)
    overlap = neighbour_overlap(rng.normal(size=(500, 8)), rng.normal(size=(500, 8)), k=20)
    assert overlap == pytest.approx(20 / 499, abs=0.015)


def test_bad_input_is_refused():
    with pytest.raises(G2LError, match="of 3 and of 4 images"):
        linear_cka(np.eye(3), np.eye(4))
    with pytest.raises(G2LError, match="from 1 to 3"):
        neighbour_overlap(np.eye(4), np.eye(4), k=4)


def song(x, y):
    """Song et al. 2012, eq. 5: the Grams without their diagonals, and sums written out."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    ends = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + ends - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.mark.parametrize(("n", "p", "q"), [(40, 7, 5), (10, 30, 20), (4, 3, 3)])
def test_unbiased_cka_is_the_ratio_of_song_s_estimates(n, p, q):
    x, y = pair(7, n, p, q)
    expected = song(x, y) / math.sqrt(song(x, x) * song(y, y))
    assert unbiased_cka(x + 3, y - 5) == pytest.approx(expected, abs=1e-9)
    assert unbiased_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert unbiased_cka(x, 3 * y) == pytest.approx(unbiased_cka(y, x), abs=1e-12)


def test_the_unbiased_estimate_is_near_nothing_where_the_biased_one_is_large():
    rng = np.random.default_rng(8)
    pairs = [(rng.normal(size=(40, 60)), rng.normal(size=(40, 60))) for _ in range(50)]
    assert np.mean([linear_cka(x, y) for x, y in pairs]) > 0.5
    assert np.mean([unbiased_cka(x, y) for x, y in pairs]) == pytest.approx(0, abs=0.02)


def test_the_unbiased_estimate_is_undefined_for_three_rows_or_constant_features():
    x = np.random.default_rng(9).normal(size=(30, 6))
    assert math.isnan(unbiased_cka(x[:3], x[:3]))
    assert math.isnan(unbiased_cka(x, np.full((30, 6), 0.1)))


def test_overlap_has_a_value_for_every_image_and_their_mean_is_measured():
    x, y = pair(10, 60, 10, 10)
    shares = overlaps(x, y, k=5)
    assert shares.shape == (60,)
    assert measure_similarity({"overlap": shares}) == {"neighbour overlap": neighbour_overlap(x, y, k=5)}
