"""Tissue shares on packed masks, against a mask blown up to fine pixels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.slides.coverage import coverage, pack, places, unpack

FINE = 40


def share_by_counting(mask: NDArray[np.bool_], x: float, y: float, extent: float) -> float:
    """Independent reference: every cell is 40 x 40 points, count those inside the square."""
    columns = (np.arange(mask.shape[1] * FINE) + 0.5) / FINE
    rows = (np.arange(mask.shape[0] * FINE) + 0.5) / FINE
    inside_x, inside_y = (columns >= x) & (columns < x + extent), (rows >= y) & (rows < y + extent)
    fine = np.repeat(np.repeat(mask, FINE, axis=0), FINE, axis=1)
    return float(fine[np.ix_(inside_y, inside_x)].sum()) / (FINE * extent) ** 2


@pytest.fixture
def mask() -> NDArray[np.bool_]:
    return np.random.default_rng(1).random((37, 53)) < 0.5


def test_packing_is_reversible(mask: NDArray[np.bool_]) -> None:
    bits = pack(mask)
    assert bits.shape == (37, 7)
    np.testing.assert_array_equal(unpack(bits, 53), mask)


@pytest.mark.parametrize("extent", [0.5, 1.0, 3.5, 7.0, 20.25])
def test_coverage_counts_cells_by_area(mask: NDArray[np.bool_], extent: float) -> None:
    corners = np.random.default_rng(2).random((20, 2)) * [53 - extent, 37 - extent]
    corners = np.round(corners * FINE) / FINE  # on the reference's points, where it is exact
    got = coverage(pack(mask), corners, extent)
    np.testing.assert_allclose(got, [share_by_counting(mask, x, y, extent) for x, y in corners], atol=1e-9)


def test_coverage_of_large_squares_is_taken_in_parts() -> None:
    mask = np.random.default_rng(3).random((300, 300)) < 0.3
    corners = np.array([[0.0, 0.0], [50.0, 100.0], [100.0, 100.0]])
    want = [mask[int(y) : int(y) + 200, int(x) : int(x) + 200].mean() for x, y in corners]
    np.testing.assert_allclose(coverage(pack(mask), corners, 200.0), want)


def test_squares_up_to_the_border_are_inside(mask: NDArray[np.bool_]) -> None:
    full = pack(np.ones_like(mask))
    corners = np.array([[0.0, 0.0], [53 - 7.0, 37 - 7.0], [53 - 7.0, 3.3]])
    np.testing.assert_allclose(coverage(full, corners, 7.0), 1.0)


def test_places_are_exactly_the_grid_corners_that_qualify(mask: NDArray[np.bool_]) -> None:
    bits, window = pack(mask), np.array([2.25, 1.0, 40.1, 30.0])
    found = places(bits, window, 4.5, 0.55)
    xs = np.append(np.arange(2.25, 42.35, 0.5), 42.35)
    ys = np.append(np.arange(1.0, 31.0, 0.5), 31.0)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(found, grid[coverage(bits, grid, 4.5) >= 0.55])
    assert 0 < len(found) < len(grid)


def test_no_place_in_a_window_of_negative_span(mask: NDArray[np.bool_]) -> None:
    assert places(pack(mask), np.array([0.0, 0.0, -1.0, 5.0]), 3.0, 0.5).shape == (0, 2)
