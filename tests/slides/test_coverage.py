"""Tissue shares on packed masks, against a mask blown up to fine pixels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.slides import coverage as module
from g2l.slides.coverage import coverage, pack, places, unpack

FINE = 32  # points a cell: positions on them are exact


def share_by_counting(mask: NDArray[np.bool_], x: float, y: float, extent: float) -> float:
    """Independent reference: every cell is 32 x 32 points, count those inside the square."""
    columns = (np.arange(mask.shape[1] * FINE) + 0.5) / FINE
    rows = (np.arange(mask.shape[0] * FINE) + 0.5) / FINE
    inside_x, inside_y = (columns >= x) & (columns < x + extent), (rows >= y) & (rows < y + extent)
    fine = np.repeat(np.repeat(mask, FINE, axis=0), FINE, axis=1)
    return float(fine[np.ix_(inside_y, inside_x)].sum()) / (FINE * extent) ** 2


def on_one(mask: NDArray[np.bool_], corners: NDArray[np.float64], extent: float) -> NDArray[np.float64]:
    """`coverage` of squares of one size on one mask."""
    shapes = np.tile([*mask.shape, 0], (len(corners), 1))
    return coverage(pack(mask).ravel(), shapes, corners, np.full(len(corners), extent))


@pytest.fixture
def mask() -> NDArray[np.bool_]:
    return np.random.default_rng(1).random((37, 53)) < 0.5


def test_packing_is_reversible(mask: NDArray[np.bool_]) -> None:
    bits = pack(mask)
    assert bits.shape == (37, 7)
    np.testing.assert_array_equal(unpack(bits, 53), mask)


@pytest.mark.parametrize("extent", [0.25, 0.5, 1.0, 3.5, 7.0, 20.25])
def test_coverage_counts_cells_by_area(mask: NDArray[np.bool_], extent: float) -> None:
    corners = np.random.default_rng(2).random((20, 2)) * [53 - extent, 37 - extent]
    corners = np.round(corners * FINE) / FINE
    want = [share_by_counting(mask, x, y, extent) for x, y in corners]
    np.testing.assert_allclose(on_one(mask, corners, extent), want, rtol=1e-12)


def test_squares_of_many_sizes_on_many_masks() -> None:
    random = np.random.default_rng(3)
    masks = [random.random(shape) < 0.4 for shape in [(9, 40), (40, 9), (31, 17), (64, 64)]]
    packed = [pack(mask) for mask in masks]
    begins = np.concatenate([[0], np.cumsum([bits.size for bits in packed])])
    which, extents = random.integers(0, 4, 300), random.choice([0.5, 2.0, 3.25, 8.5], 300)
    shapes = np.array([[*masks[k].shape, begins[k]] for k in which])
    corners = np.floor(random.random((300, 2)) * (shapes[:, 1::-1] - extents[:, None]) * FINE) / FINE
    got = coverage(np.concatenate([bits.ravel() for bits in packed]), shapes, corners, extents)
    squares = zip(which, corners, extents, strict=True)
    want = [share_by_counting(masks[k], x, y, extent) for k, (x, y), extent in squares]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_share_does_not_depend_on_what_is_looked_at_with_it(
    mask: NDArray[np.bool_], monkeypatch: pytest.MonkeyPatch
) -> None:
    corners = np.random.default_rng(4).random((500, 2)) * [53 - 9.37, 37 - 9.37]
    together = on_one(mask, corners, 9.37)
    assert [on_one(mask, corner[None], 9.37)[0] for corner in corners] == together.tolist()
    monkeypatch.setattr(module, "MAX_CELLS", 1000)
    assert on_one(mask, corners, 9.37).tolist() == together.tolist()


def test_all_tissue_is_a_share_of_exactly_one(mask: NDArray[np.bool_]) -> None:
    full = np.ones_like(mask)
    for extent in (0.7, 7.0, 11.2345678, 28.1):
        corners = np.random.default_rng(5).random((200, 2)) * [53 - extent, 37 - extent]
        corners[:3] = [[0.0, 0.0], [53 - extent, 37 - extent], [53 - extent, 3.3]]
        assert (on_one(full, corners, extent) == 1.0).all()


def every_fine_corner(
    mask: NDArray[np.bool_], window: NDArray[np.float64], extent: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, top, right, bottom = window
    xs, ys = np.arange(left, right + 1e-9, 0.125), np.arange(top, bottom + 1e-9, 0.125)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    return grid, on_one(mask, grid, extent)


@pytest.mark.parametrize("extent", [4.5, 4.0, 0.5])
def test_places_qualify_and_none_is_better(mask: NDArray[np.bool_], extent: float) -> None:
    window = np.array([2.25, 1.0, 42.375, 31.5])
    fine, shares = every_fine_corner(mask, window, extent)
    for least in (0.0, 0.55, float(shares.max())):
        found = places(pack(mask), window, extent, least)
        assert len(found) == len(np.unique(found, axis=0)) > 0
        assert (on_one(mask, found, extent) >= least - 1e-9).all()
        assert (found >= window[:2]).all() and (found <= window[2:]).all()
    assert not len(places(pack(mask), window, extent, float(shares.max()) + 1e-6))
    # All corners of the grid that qualify are there: those at whole cells among them.
    whole = fine[(fine % 1 == 0).all(axis=1) & (shares >= 0.55)]
    found = {tuple(corner) for corner in places(pack(mask), window, extent, 0.55)}
    assert {tuple(corner) for corner in whole} <= found


def test_the_best_place_is_never_missed() -> None:
    """Small masks on which the best place may be anywhere: where the far edge meets a cell, or at the window's edge."""
    random = np.random.default_rng(6)
    for _ in range(60):
        mask, extent = random.random((7, 9)) < 0.5, float(random.choice([1.75, 2.5, 3.0]))
        left, top = random.integers(0, 8, 2) / 4
        window = np.array([left, top, left + random.integers(0, 14) / 4, top + random.integers(0, 8) / 4])
        best = float(every_fine_corner(mask, window, extent)[1].max())
        assert len(places(pack(mask), window, extent, best))
        assert not len(places(pack(mask), window, extent, best + 1e-6))


def test_places_on_a_mask_looked_at_in_parts(mask: NDArray[np.bool_], monkeypatch: pytest.MonkeyPatch) -> None:
    window = np.array([0.0, 0.0, 48.5, 32.5])
    want = places(pack(mask), window, 4.5, 0.6)
    monkeypatch.setattr(module, "MAX_CELLS", 500)
    np.testing.assert_array_equal(np.unique(places(pack(mask), window, 4.5, 0.6), axis=0), np.unique(want, axis=0))


def test_no_place_in_a_window_of_negative_span(mask: NDArray[np.bool_]) -> None:
    for window in ([0.0, 0.0, -1.0, 5.0], [3.0, 3.0, 5.0, 2.0]):
        assert places(pack(mask), np.array(window), 3.0, 0.5).shape == (0, 2)
