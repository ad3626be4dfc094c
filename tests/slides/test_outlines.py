"""Outlines of cells: against shapely's union of squares, and back to the cells."""

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry import Polygon

from g2l.slides.outlines import contours, fill


def polygons(mask: NDArray[np.bool_]) -> list[Polygon]:
    return [Polygon(rings[0], rings[1:]) for rings in contours(mask)]


@pytest.mark.parametrize("seed", range(60))
def test_the_polygons_are_the_cells(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(random.integers(1, 16, 2)) < random.choice([0.2, 0.5, 0.6, 0.8, 1.0])
    found = polygons(mask)
    assert len(found) == ndimage.label(mask)[1]  # type: ignore[index]
    for polygon in found:
        assert polygon.is_valid, shapely.is_valid_reason(polygon)
        assert polygon.exterior.is_ccw and not any(hole.is_ccw for hole in polygon.interiors)
    cells = shapely.union_all([shapely.box(c, r, c + 1, r + 1) for r, c in zip(*np.nonzero(mask), strict=True)])
    assert shapely.union_all(found).symmetric_difference(cells).area == pytest.approx(0.0, abs=1e-9)
    assert sum(polygon.area for polygon in found) == pytest.approx(mask.sum())


def test_cells_that_meet_at_a_corner_only() -> None:
    apart = np.array([[1, 0], [0, 1]], np.bool_)
    assert len(contours(apart)) == 2
    ring = np.ones((4, 4), np.bool_)
    ring[1, 1] = ring[2, 2] = False  # two holes that touch: one ring would touch itself
    ((outline, *holes),) = contours(ring)
    assert len(outline) == 4 and [len(hole) for hole in holes] == [4, 4]
    open_ring = np.ones((3, 3), np.bool_)
    open_ring[1, 1] = open_ring[0, 0] = False  # a hole that touches the outside
    ((outline, hole),) = contours(open_ring)
    assert len(outline) == 6 and len(hole) == 4


def test_a_straight_edge_has_no_corner_in_it() -> None:
    ((outline,),) = contours(np.ones((5, 9), np.bool_))
    assert sorted(map(tuple, outline.tolist())) == [(0, 0), (0, 5), (9, 0), (9, 5)]
    assert not contours(np.zeros((3, 4), np.bool_))


@pytest.mark.parametrize("seed", range(20))
def test_filling_an_outline_gives_the_cells_back(seed: int) -> None:
    mask = np.random.default_rng(seed).random((17, 23)) < 0.5
    out = np.zeros_like(mask)
    for rings in contours(mask):
        fill(out, rings)
    np.testing.assert_array_equal(out, mask)


@pytest.mark.parametrize("seed", range(40))
def test_a_cell_is_filled_when_its_centre_is_inside(seed: int) -> None:
    """Any polygon with a hole, partly outside: against shapely, point by point."""
    random = np.random.default_rng(seed)
    outer = random.uniform(-5, 27, (3, 2))
    inner = outer.mean(axis=0) + (outer - outer.mean(axis=0)) * 0.4
    out = np.zeros((18, 22), np.bool_)
    fill(out, [outer, inner])
    rows, columns = np.mgrid[:18, :22] + 0.5
    np.testing.assert_array_equal(out, shapely.contains_xy(Polygon(outer, [inner]), columns, rows))


def test_a_polygon_beyond_the_cells_fills_nothing() -> None:
    out = np.zeros((4, 5), np.bool_)
    for shift in (-50, 50):
        fill(out, [np.array([[0, 0], [3, 0], [3, 3], [0, 3]]) + float(shift)])
    assert not out.any()
