"""The grid of one slide against a count of every place, and one look at a slide against what the index keeps of it."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from g2l.errors import SlideError
from g2l.evaluation.embedding import grid as of_cohort
from g2l.slides import grid, overview
from g2l.slides.cohort import Cohort
from g2l.slides.coverage import pack
from g2l.slides.placing import lattice
from g2l.slides.slide import Slide


def share(mask: NDArray[np.bool_], cell: float, x: float, y: float, side: float) -> float:
    """By painting the mask at a hundredth of a cell."""
    fine = cv2.resize(mask.astype(np.uint8), None, fx=50, fy=50, interpolation=cv2.INTER_NEAREST)
    left, top, width = (round(value / cell * 50) for value in (x, y, side))
    return float(fine[top : top + width, left : left + width].mean())


@pytest.mark.parametrize(("size", "mpp", "least"), [(32, 2.0, 0.5), (50, 0.7, 0.01), (16, 3.0, 0.95)])
def test_every_place_with_enough_tissue_and_no_other(size: int, mpp: float, least: float) -> None:
    rng = np.random.default_rng(3)
    mask = cv2.resize(rng.random((5, 6)), (29, 23), interpolation=cv2.INTER_CUBIC) > 0.5
    level0, cell = (0.5, 0.52), 16.0
    size_um = (29 * cell - 7, 23 * cell - 3)
    found = grid.tissue_grid(size_um, level0, pack(mask), cell, size, mpp, least)
    side, wanted, doubtful = size * mpp, set(), set()
    for row in range(100):
        for column in range(100):
            x, y = round(column * side / level0[0]), round(row * side / level0[1])
            if x * level0[0] + side > size_um[0] + 1e-6 or y * level0[1] + side > size_um[1] + 1e-6:
                continue
            tissue = share(mask, cell, x * level0[0], y * level0[1], side)
            if tissue >= least:
                wanted.add((x, y))
            if abs(tissue - least) < 0.03:
                doubtful.add((x, y))
    places = [tuple(place) for place in found.coords.tolist()]
    assert len(places) == len(set(places)) > 3 and set(places) ^ wanted <= doubtful
    assert len(wanted - doubtful) > 3
    assert places == sorted(places, key=lambda place: place[::-1])
    assert found.coords.dtype == np.int64 and np.array_equal(found.um, found.coords * level0)


def test_a_slide_that_is_all_tissue_is_covered_and_one_without_gives_nothing() -> None:
    whole = grid.tissue_grid((160, 96), (1.0, 1.0), pack(np.ones((6, 10), bool)), 16.0, 32, 1.0, 1.0)
    assert whole.coords.tolist() == [[x, y] for y in (0, 32, 64) for x in (0, 32, 64, 96, 128)]
    none = grid.tissue_grid((160, 96), (1.0, 1.0), pack(np.zeros((6, 10), bool)), 16.0, 32, 1.0, 0.1)
    small = grid.tissue_grid((20, 20), (1.0, 1.0), pack(np.ones((2, 2), bool)), 16.0, 32, 1.0, 0.1)
    assert none.coords.shape == none.um.shape == small.coords.shape == (0, 2)


def test_a_slide_and_its_cohort_give_the_same_patches(demo_cohort: Path) -> None:
    cohort = Cohort.open(demo_cohort)
    for slide in (0, 5, 11):
        with Slide.open(cohort[slide].path) as opened:
            mask = overview.look(opened).mask
            alone = grid.tissue_grid(opened.size_um, opened.mpp_xy, pack(mask), overview.MASK_MPP, 64, 1.0, 0.5)
        known = of_cohort.tissue_grid(cohort, slide, 64, 1.0, 0.5)
        assert np.array_equal(mask, cohort.mask(slide)) and cohort.mask_mpp(slide) == overview.MASK_MPP
        assert np.array_equal(alone.coords, known.coords) and np.array_equal(alone.um, known.um)
        assert overview.fingerprint(cohort[slide].path) == cohort.column("fingerprint")[slide]
    assert grid.HAIR == lattice.HAIR


def test_a_resolution_to_fall_back_on_is_for_slides_that_state_none(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    written = {"tile": (64, 64), "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "mute.tif", pixels, resolutionunit=1, **written)
    tifffile.imwrite(tmp_path / "says.tif", pixels, resolution=(20000, 20000), resolutionunit=3, **written)
    for name, given, fallback, expected in (
        ("says.tif", None, 0.25, 0.5), ("says.tif", 1.0, 0.25, 1.0), ("mute.tif", None, 0.25, 0.25),
        ("mute.tif", 1.0, 0.25, 1.0), ("says.tif", None, None, 0.5),
    ):  # fmt: skip
        with overview.open_slide(tmp_path / name, given, fallback) as slide:
            assert slide.mpp == pytest.approx(expected)
    with pytest.raises(SlideError, match="states no resolution"):
        overview.open_slide(tmp_path / "mute.tif", None, None)


def test_without_tiatoolbox_its_files_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "striped.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb", rowsperstrip=8)
    for name in [name for name in sys.modules if name.split(".")[0] == "tiatoolbox"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tiatoolbox", None)
    with pytest.raises(
        SlideError, match="tiatoolbox is not installed here\\); install tiatoolbox, or convert"
    ) as caught:
        Slide.open(tmp_path / "striped.tif", 0.5)
    assert "\n" not in str(caught.value)
