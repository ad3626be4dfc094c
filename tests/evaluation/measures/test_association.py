"""Cramer's V of class and centre: against Bergsma's formula, and by what luck with few slides must not show."""

import math

import numpy as np
import pytest

from g2l.evaluation.measures.association import cramers_v, cross_table


def cohort(seed: int, slides: int, each: int, kinds: int = 4, together: float = 0.0):
    """Slides of one class each, which is that of their centre with the probability `together`, else any."""
    rng = np.random.default_rng(seed)
    centre = rng.integers(0, kinds, slides)
    biology = np.where(rng.random(slides) < together, centre, rng.integers(0, kinds, slides))
    return np.repeat(biology, each), np.repeat(centre, each), np.repeat(np.arange(slides), each)


@pytest.mark.parametrize(("kinds", "together"), [(2, 0.3), (3, 0.5), (4, 0.2), (4, 0.9)])
def test_agrees_with_bergsma_where_every_slide_has_one_row(kinds, together):
    from scipy.stats.contingency import association

    biology, centre, slide = cohort(0, 150, 1, kinds, together)
    table = cross_table(biology, centre)[2]
    phi = association(table, method="cramer") ** 2 * (kinds - 1)
    luck = (kinds - 1) ** 2 / 149
    bergsma = math.sqrt(max(0.0, phi - luck) / (kinds - 1 - luck))
    # the mean over 200 shuffles stands for the expected value
    assert cramers_v(biology, centre, slide) == pytest.approx(bergsma, abs=0.01)


def test_rows_of_a_slide_are_one_draw():
    """Patches of 100 slides, by luck in other centres, are not 2,000 rows that know nothing of each other."""
    from scipy.stats.contingency import association

    luck = [cohort(seed, 100, 20) for seed in range(30)]
    plain = [association(cross_table(*made[:2])[2], method="cramer") for made in luck]
    found = [cramers_v(*made) for made in luck]
    assert np.mean(np.array(plain) > 0.1) > 0.9
    assert np.mean(np.array(found) > 0.1) < 0.35 and np.mean(found) < 0.07
    real = [cramers_v(*cohort(seed, 100, 20, together=0.4)) for seed in range(10)]
    assert min(real) > 0.1 and np.mean(real) == pytest.approx(0.4, abs=0.07)


def test_classes_that_are_mixed_within_slides_lose_nothing_to_luck():
    rng = np.random.default_rng(1)
    slide = np.repeat(np.arange(10), 400)
    centre = slide % 2
    biology = (rng.random(4000) < np.where(centre == 0, 0.35, 0.65)).astype(int)
    assert cramers_v(biology, centre, slide) == pytest.approx(0.3, abs=0.04)


def test_edges():
    one = np.array(list("aabb"))
    other = np.array(list("xxyy"))
    assert cramers_v(one, other, np.arange(4)) == pytest.approx(1)
    assert math.isnan(cramers_v(one, other, other))  # a slide of each centre: slide, class or centre
    assert math.isnan(cramers_v(one, np.full(4, "x"), np.arange(4)))
    assert math.isnan(cramers_v(np.full(4, "a"), other, np.arange(4)))
    balanced = np.tile(one, 10), np.repeat(other, 10), np.repeat(np.arange(10), 4)
    assert cramers_v(*balanced) < 0.2
    classes, centres, counts = cross_table(one, np.array(list("xyyy")))
    assert (classes.tolist(), centres.tolist(), counts.tolist()) == (["a", "b"], ["x", "y"], [[1, 1], [0, 2]])
