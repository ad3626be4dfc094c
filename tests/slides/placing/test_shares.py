"""How often slides are drawn, against the shares worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from g2l.errors import CohortError
from g2l.slides.cohort import Cohort
from g2l.slides.placing.shares import edges, leave_out, slide_weights

MakeCohort = Callable[..., Cohort]


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> Cohort:
    masks = [np.ones((10, 10 * k), np.bool_) for k in (1, 2, 3, 4)]
    return make_cohort(masks, centre=["A", "A", "B", None])


def shares(upper: np.ndarray, resolutions: int) -> np.ndarray:
    return np.diff(upper, prepend=0.0).reshape(resolutions, -1)


def test_uniform_and_by_area(cohort: Cohort) -> None:
    kept = np.ones((1, 3), np.bool_)
    slides = np.array([0, 2, 3])
    uniform = edges(*slide_weights(cohort, slides, "uniform", None), kept, np.ones(1))
    np.testing.assert_allclose(shares(uniform, 1), [[1 / 3, 1 / 3, 1 / 3]])
    by_area = edges(*slide_weights(cohort, slides, "area", None), kept, np.ones(1))
    np.testing.assert_allclose(shares(by_area, 1), [[1 / 8, 3 / 8, 4 / 8]])
    assert uniform[-1] == by_area[-1] == 1.0


def test_values_of_a_column_are_drawn_equally_often(cohort: Cohort) -> None:
    slides, kept = np.array([0, 1, 2]), np.ones((1, 3), np.bool_)
    uniform = edges(*slide_weights(cohort, slides, "uniform", "centre"), kept, np.ones(1))
    np.testing.assert_allclose(shares(uniform, 1), [[1 / 4, 1 / 4, 1 / 2]])
    by_area = edges(*slide_weights(cohort, slides, "area", "centre"), kept, np.ones(1))
    np.testing.assert_allclose(shares(by_area, 1), [[1 / 6, 2 / 6, 1 / 2]])


def test_a_resolution_keeps_its_share_whatever_is_left_out_of_it(cohort: Cohort) -> None:
    slides = np.array([0, 1, 2])
    kept = np.array([[True, True, True], [False, True, False]])
    weights = slide_weights(cohort, slides, "area", None)
    np.testing.assert_allclose(
        shares(edges(*weights, kept, np.array([1.0, 3.0])), 2), [[1 / 24, 2 / 24, 3 / 24], [0, 3 / 4, 0]]
    )
    balanced = slide_weights(cohort, slides, "uniform", "centre")
    np.testing.assert_allclose(
        shares(edges(*balanced, kept, np.array([1.0, 1.0])), 2), [[1 / 8, 1 / 8, 1 / 4], [0, 1 / 2, 0]]
    )


def test_no_number_below_one_leads_to_a_slide_that_is_left_out() -> None:
    """Left-out slides at the end and between: the edges before and after them are equal, to the last bit."""
    random = np.random.default_rng(0)
    kept = random.random((3, 500)) < 0.5
    kept[:, -20:] = False
    upper = edges(random.random(500), random.integers(0, 7, 500), kept, random.random(3))
    drawn = np.searchsorted(upper, [0.0, 1 - 2**-53, *random.random(20_000), *upper[:-1][upper[:-1] < 1]], side="right")
    assert kept.ravel()[drawn].all()


def test_slides_without_a_value_are_named(cohort: Cohort) -> None:
    with pytest.raises(CohortError, match=r"1 slide \(s3\) without a centre to balance by; give it in the manifest"):
        slide_weights(cohort, np.arange(4), "uniform", "centre")
    with pytest.raises(CohortError, match="no column 'stain'; it has name"):
        slide_weights(cohort, np.arange(4), "uniform", "stain")


def test_what_is_left_out_is_listed_and_said_once(make_cohort: MakeCohort) -> None:
    cohort = make_cohort([np.ones((4, 4), np.bool_)] * 14)
    slides, kept = np.arange(1, 14), np.ones((2, 13), np.bool_)
    kept[0, :11] = kept[1, 3] = False
    with pytest.warns(UserWarning, match="no place") as caught:
        left_out = leave_out(cohort, slides, (0.25, 2.0), kept, "patches of 9 px")
    assert len(caught) == 1
    assert str(caught[0].message).endswith(
        "no place for patches of 9 px at 0.25, 2 um/px on 11 slides (s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, ...), "
        "left out there; lower size, mpp or min_tissue to use them"
    )
    assert list(left_out) == list(range(1, 12))
    assert left_out[1] == (0.25,) and left_out[4] == (0.25, 2.0)


def test_nothing_left_at_one_resolution_is_an_error(cohort: Cohort) -> None:
    kept = np.array([[True, True], [False, False]])
    with pytest.raises(
        CohortError, match=r"for patches of 9 px at 2 um/px on 2 slides \(s1, s2\), and nothing is left;"
    ):
        leave_out(cohort, np.array([1, 2]), (0.25, 2.0), kept, "patches of 9 px")


def test_nothing_is_said_when_all_are_kept(cohort: Cohort, recwarn: pytest.WarningsRecorder) -> None:
    assert leave_out(cohort, np.array([1, 2]), (0.5,), np.ones((1, 2), np.bool_), "patches") == {}
    assert not recwarn.list
