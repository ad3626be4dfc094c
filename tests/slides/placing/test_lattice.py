"""The lattice of places, against the rule for reading (pyramid.py) and against all places one by one."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.slides import pyramid
from g2l.slides.cohort import Cohort, Geometry
from g2l.slides.placing.lattice import lattice, serving
from g2l.slides.reader import OpenSlideReader
from g2l.slides.resolution import Resolution
from g2l.slides.sampling import Sampler
from g2l.slides.slide import Slide

MakeCohort = Callable[..., Cohort]
ALL = np.ones((24, 30), np.bool_)  # 480 x 384 um


def needed(size: int, scale_x: float, scale_y: float) -> tuple[int, int, int, int]:
    """What a read asks of its level: width, height, and how much of them lies before the patch (see slide.py)."""
    if pyramid.is_native(scale_x) and pyramid.is_native(scale_y):
        return size, size, 0, 0
    left, top = math.ceil(pyramid.margin(scale_x)), math.ceil(pyramid.margin(scale_y))
    return math.ceil(size * scale_x) + 2 * left, math.ceil(size * scale_y) + 2 * top, left, top


def geometry_of(pyramids: list[list[tuple[float, float, int, int]]]) -> Geometry:
    """Slides that differ in their levels alone."""
    n, levels = len(pyramids), np.array(list(itertools.chain(*pyramids)), np.float64)
    first = np.concatenate([[0], np.cumsum([len(one) for one in pyramids])])
    size, box = np.full((n, 2), 1000.0), np.tile([0.0, 0.0, 10.0, 10.0], (n, 1))
    shape = np.tile([10, 10, 0], (n, 1))
    return Geometry(size, np.full(n, 100.0), shape, box, np.zeros(n), np.ones(n), levels, first)


def test_the_level_is_the_one_that_is_read() -> None:
    random = np.random.default_rng(0)
    pyramids = []
    for _ in range(200):
        finest, ratio = random.uniform(0.1, 0.6), random.uniform(0.9, 1.1)
        downs = np.cumprod([1.0, *random.choice([2.0, 4.0, 2.0001], random.integers(0, 6))])
        pyramids.append([(finest * down, finest * down * ratio, 256, 256 + k) for k, down in enumerate(downs)])
    geometry = geometry_of(pyramids)
    for mpp in (0.05, 0.25, 0.5, 1.0, 7.3, 100.0):
        got = serving(geometry, np.arange(200), np.full(200, mpp))
        want = [one[pyramid.pick([min(level[:2]) for level in one], mpp)] for one in pyramids]
        np.testing.assert_array_equal(got, want)
    # Just at the tolerance, and several resolutions at once.
    edge = np.array([1.0, 0.981, 0.979])
    geometry = geometry_of([[(0.25, 0.25, 0, 0), (1.0, 1.0, 0, 0)]])
    np.testing.assert_array_equal(serving(geometry, np.zeros(3, int), edge)[:, 0], [1.0, 1.0, 0.25])


def test_what_a_patch_needs_is_what_reading_it_asks_for() -> None:
    scales = [(1.0, 1.0), (1.019, 0.981), (1.0, 1.03), (2.0, 2.0), (0.3, 0.31), (1.9999, 4.2), (0.985, 3.0)]
    for size in (1, 223, 512):
        need, before, native = pyramid.needed(size, np.array(scales))
        want = [needed(size, x, y) for x, y in scales]
        np.testing.assert_array_equal(np.hstack([need, before]), want)
        assert native[:, 0].tolist() == [True, True, False, False, False, False, False]


@pytest.mark.parametrize(
    ("levels", "size", "mpp"),
    [
        ((0.5, 0.5, 64, 64), 48, 0.5),  # as it is: one tile, 17 offsets
        ((0.5, 0.5, 64, 64), 64, 0.5),  # one offset
        ((0.5, 0.5, 64, 96), 70, 0.5),  # two tiles wide, one high
        ((0.504, 0.504, 64, 64), 48, 0.5),  # taken as it is, though it is coarser
        ((0.25, 0.25, 64, 48), 20, 0.5),  # resampled
        ((0.5, 0.25, 40, 40), 25, 0.5),  # resampled, pixels that are not square
        ((0.37, 0.41, 51, 33), 31, 0.83),
        ((0.5, 0.5, 1024, 1024), 48, 0.5),  # one tile that the slide does not fill
    ],
)
@pytest.mark.parametrize("least", [0.0, 0.5, 1.0])
def test_the_lattice_is_all_places_inside_the_fewest_tiles(
    make_cohort: MakeCohort, levels: tuple[float, float, int, int], size: int, mpp: float, least: float
) -> None:
    mask = np.zeros_like(ALL)
    mask[3:22, 1:25] = True
    geometry = make_cohort([mask], levels=levels).geometry
    grid = lattice(geometry, np.array([0]), np.array([mpp]), size, least, True)
    need = needed(size, mpp / levels[0], mpp / levels[1])
    native = pyramid.is_native(mpp / levels[0]) and pyramid.is_native(mpp / levels[1])
    for axis in (0, 1):
        step, tile, length, before = levels[axis], levels[2 + axis], need[axis], need[2 + axis]
        extent, (low, high) = size * mpp, [(16.0, 400.0), (48.0, 352.0)][axis]
        end = geometry.size_um[0, axis] - size * (max(step, mpp) if native else mpp)
        fewest = -(-length // tile)
        want = []
        for start in range(int(geometry.size_um[0, axis] / step) + 1):
            corner = (start + before) * step
            touched = (start + length - 1) // tile - start // tile + 1
            on_tissue = low - extent * (1 - least) - 1e-6 <= corner <= high - extent * least + 1e-6
            if touched == fewest and on_tissue and corner <= end + 1e-6:
                want.append(corner)
        first, count, slack = (int(column[0, axis]) for column in (grid.first, grid.count, grid.slack))
        got = []
        for t, offset in itertools.product(range(count), range(slack + 1)):
            random = np.zeros((1, 1, 4))
            random[..., axis], random[..., 2 + axis] = (t + 0.5) / count, (offset + 0.5) / (slack + 1)
            corner = float(grid.corners(random)[0][0, 0, axis])
            assert corner == pytest.approx(((first + t) * tile + offset + before) * step)
            if grid.low[0, axis] - 1e-6 <= corner <= grid.high[0, axis] + 1e-6:
                got.append(corner)
        np.testing.assert_allclose(got, want)
        assert want


def test_a_corner_is_inside_only_along_both_axes(make_cohort: MakeCohort) -> None:
    geometry = make_cohort([ALL], levels=(0.5, 0.5, 100, 100)).geometry
    grid = lattice(geometry, np.array([0]), np.array([0.5]), 90, 1.0, True)
    # 960 x 768 px: the tenth column and the eighth row of tiles begin inside the slide, patches in them end outside.
    assert grid.count.tolist() == [[9.0, 7.0]]
    grid = grid._replace(count=np.array([[10.0, 8.0]]))
    tiles = np.array([[0.0, 0.0], [0.95, 0.0], [0.0, 0.95], [0.95, 0.95]])
    random = np.hstack([tiles, np.zeros((4, 2))])[None]
    corners, inside = grid.corners(random)
    assert inside.tolist() == [[True, False, False, False]]
    np.testing.assert_array_equal(corners[0, 3], [450.0, 350.0])


def test_without_known_tiles_the_lattice_is_every_whole_pixel(make_cohort: MakeCohort) -> None:
    for levels, tiles in [((0.5, 0.5, 0, 0), True), ((0.5, 0.5, 64, 0), True), ((0.5, 0.5, 64, 64), False)]:
        geometry = make_cohort([ALL], levels=levels).geometry
        grid = lattice(geometry, np.array([0]), np.array([0.8]), 50, 1.0, tiles)
        assert grid.step.tolist() == [[0.8, 0.8]] and grid.tile.tolist() == [[1.0, 1.0]]
        assert grid.first.tolist() == [[0.0, 0.0]] and not grid.slack.any() and not grid.before.any()
        assert grid.count.tolist() == [[551.0, 431.0]]  # (480 - 40) / .8 + 1, (384 - 40) / .8 + 1


def test_slides_and_resolutions_do_not_affect_each_other(make_cohort: MakeCohort) -> None:
    geometry = make_cohort([ALL, ALL[:20], ALL[:, :17]], levels=(0.5, 0.5, 64, 64, 2.0, 2.0, 64, 64)).geometry
    slides, mpp = np.array([2, 0, 1, 0, 2]), np.array([0.5, 0.5, 1.0, 2.0, 2.0])
    together = lattice(geometry, slides, mpp, 30, 0.5, True)
    for k in range(5):
        alone = lattice(geometry, slides[k : k + 1], mpp[k : k + 1], 30, 0.5, True)
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(one[k], other[0])


class Recording(OpenSlideReader):
    """Notes what is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.regions: list[tuple[int, ...]] = []

    def read(
        self, plane: int, x: int, y: int, width: int, height: int, shrink: int, out: NDArray[np.uint8]
    ) -> tuple[float, float]:
        self.regions.append((plane, x, y, width, height))
        return super().read(plane, x, y, width, height, shrink, out)


@pytest.mark.parametrize("mpp_xy", [(0.5, 0.5), (0.4, 0.5), (0.253, 0.251)])
def test_reading_touches_the_fewest_tiles(
    mpp_xy: tuple[float, float],
    make_cohort: MakeCohort,
    write_slide: Callable[..., Path],
    noise: NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    """On a real file of three levels in tiles of 128 px: what the reader is asked for, patch by patch."""
    reader = Recording(write_slide(tmp_path / "noise.tif", noise, levels=3))
    with Slide(reader, tmp_path, Resolution(*mpp_xy, "given")) as slide:
        levels = [number for level in slide.levels for number in (*level[:2], level.tile_w, level.tile_h)]
        cell = max(slide.size_um) / 40
        shape = tuple(-int(-side // cell) for side in reversed(slide.size_um))
        cohort = make_cohort([np.ones(shape, np.bool_)], mask_mpp=cell, levels=levels)
        cohort.geometry = cohort.geometry._replace(size_um=np.array([slide.size_um]))
        for size, mpp in [(100, 0.5), (60, 0.63), (50, 1.0), (150, 0.5), (30, 2.3), (100, 0.25)]:
            drawn = Sampler(cohort, [0], 0, size, mpp).draw(np.arange(40))
            for x, y in zip(drawn.x, drawn.y, strict=True):
                slide.read_patch(x, y, size, mpp)
                plane, *corner, width, height = reader.regions.pop()
                level = slide.levels[plane]
                want = needed(size, mpp / level.mpp_x, mpp / level.mpp_y)[:2]
                for start, length, need in zip(corner, (width, height), want, strict=True):
                    assert (start + length - 1) // 128 - start // 128 + 1 <= -(-need // 128)
