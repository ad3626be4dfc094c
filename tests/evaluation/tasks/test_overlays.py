"""Pictures of truth beside prediction."""

import numpy as np

from g2l.evaluation.tasks.overlays import COLOURS, GAP, outlines, side_by_side


def test_outlines_lie_on_the_inner_edge_of_each_class_and_leave_the_rest():
    image, codes = np.full((40, 60, 3), 200, np.uint8), np.zeros((40, 60), np.uint8)
    codes[10:20, 10:30], codes[25:35, 40:50] = 1, 2
    picture = outlines(image, codes)
    times = 7  # the first whole number that makes 60 px 384 or more
    assert picture.shape == (40 * times, 60 * times, 3)
    for code in (1, 2):
        inside = (codes == code).repeat(times, 0).repeat(times, 1)
        coloured = (picture == COLOURS[code - 1]).all(-1)
        assert coloured.any() and not (coloured & ~inside).any()
        rows, columns = np.nonzero(inside)
        assert coloured[rows.min(), columns.min()] and not coloured[rows.min() + 10, columns.min() + 10]
    changed = (picture != 200).any(-1)
    assert not changed[codes.repeat(times, 0).repeat(times, 1) == 0].any()
    assert (image == 200).all()


def test_what_is_not_judged_is_grey_on_the_side_of_the_truth_alone():
    image, empty = np.full((400, 400, 3), 100, np.uint8), np.zeros((400, 400), np.uint8)
    truth = empty.copy()
    truth[:, 200:] = 255
    picture = side_by_side(image, truth, empty)
    assert picture.shape == (400, 800 + GAP, 3) and picture.dtype == np.uint8
    assert (picture[:, :200] == 100).all() and (picture[:, 200:400] == 169).all()
    assert (picture[:, 400 : 400 + GAP] == 255).all() and (picture[:, 400 + GAP :] == 100).all()
