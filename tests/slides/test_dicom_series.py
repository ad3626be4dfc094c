"""A DICOM slide of several files is a slide like any other: one of a folder, with its pixels, mpp, tissue and grid."""

import sys
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from dicom_slide import write_level, write_pyramid
from numpy.typing import NDArray

from g2l.errors import SlideError
from g2l.slides.coverage import pack
from g2l.slides.grid import tissue_grid
from g2l.slides.indexing.discover import discover
from g2l.slides.overview import MASK_MPP, look
from g2l.slides.slide import Slide

pytestmark = [
    pytest.mark.filterwarnings("ignore:The value length"),
    pytest.mark.filterwarnings("ignore:get_frame_offsets"),  # wsidicom calls it
]
TISSUE = (512, 384, 1664, 1152)  # left, top, right, bottom in px of level 0


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """(1400, 2200, 3): glass with a cloudy pink rectangle."""
    random = np.random.default_rng(0)
    clouds = cv2.GaussianBlur(random.normal(0, 1, (1400, 2200)), (0, 0), 4)
    made = np.full((1400, 2200, 3), 240.0)
    left, top, right, bottom = TISSUE
    stain = np.array((200.0, 120.0, 170.0)) + 300 * clouds[top:bottom, left:right, None]
    made[top:bottom, left:right] = stain
    return made.round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def files(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pyramid(tmp_path_factory.mktemp("dicom") / "series", pixels)


def test_a_folder_of_several_files_is_one_slide(files: list[Path]) -> None:
    assert len(files) > 2
    slides, closed = discover(files[0].parent)
    assert len(slides) == 1 and not closed
    with openslide.OpenSlide(str(slides[0])) as slide:
        assert slide.level_count == len(files)


def test_any_of_its_files_opens_all_levels(files: list[Path], pixels: NDArray[np.uint8]) -> None:
    for file in files:
        with Slide.open(file) as slide:
            assert slide.dimensions == (2200, 1400) and slide.mpp_xy == pytest.approx((0.5, 0.5), rel=1e-6)
            assert slide.mpp_source == "file" and slide.bounds is None
            stored = {level.source for level in slide.levels}
            assert stored == set(range(len(files)))
            found = slide.read_patch(700 * 0.5, 500 * 0.5, 512, 0.5)
        assert np.abs(found.astype(int) - pixels[500:1012, 700:1212]).mean() < 3  # a JPEG of quality 95


def test_pixels_of_every_level_are_openslides(files: list[Path]) -> None:
    with Slide.open(files[0]) as slide, openslide.OpenSlide(str(files[0])) as reference:
        assert slide.backend == "wsidicom"
        for level, scale in enumerate((1, 2, 4)):
            theirs = reference.read_region((512, 384), level, (128, 96)).convert("RGB")
            ours = slide.read_patch(256, 192, 128, 0.5 * scale)[:96]
            np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_tissue_and_grid(files: list[Path], pixels: NDArray[np.uint8]) -> None:
    with Slide.open(files[0]) as slide:
        mask = look(slide).mask
        grid = tissue_grid(slide.size_um, slide.mpp_xy, pack(mask), MASK_MPP, 128, 0.5, 0.9)
        assert len(grid.coords) >= 54  # 9 x 6 patches lie wholly on tissue
        left, top, right, bottom = TISSUE
        for (x, y), um in zip(grid.coords.tolist(), grid.um.tolist(), strict=True):
            assert left - 64 <= x <= right - 64 and top - 64 <= y <= bottom - 64
            found = slide.read_patch(um[0], um[1], 128, 0.5)
            assert np.abs(found.astype(int) - pixels[y : y + 128, x : x + 128]).mean() < 4


def test_another_resolution_can_be_given(files: list[Path]) -> None:
    with Slide.open(files[0], 1.0) as slide:
        assert slide.mpp == 1.0 and slide.mpp_source == "given" and slide.size_um == (2200.0, 1400.0)


def test_a_series_without_one_of_its_files(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    """A level less is a slide still; without its finest level a coarser one is the slide, at its own mpp."""
    files = write_pyramid(tmp_path / "series", pixels)
    sizes = {}
    for file in files:
        other = tmp_path / file.name
        file.rename(other)
        try:
            with Slide.open(next(iter(sorted((tmp_path / "series").iterdir())))) as slide:
                sizes[slide.dimensions] = slide.mpp
        finally:
            other.rename(file)
    assert sizes == {(2200, 1400): pytest.approx(0.5), (1100, 700): pytest.approx(1.0)}


@pytest.mark.parametrize(("package", "why"), [("wsidicom", "wsidicom is not"), ("pydicom", "pydicom is not")])
def test_without_the_fast_readers_package_openslide_reads_it(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, package: str, why: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with Slide.open(files[0]) as slide:
        assert slide.backend == "openslide" and f"{why} installed" in slide.backend_reason
        assert slide.read_patch(350, 250, 64, 0.5).std() > 0


def test_a_cut_file_is_an_error_in_one_line(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    whole = write_level(tmp_path / "whole.dcm", pixels).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:600])
    with pytest.raises(SlideError, match=r"slide .*cut.dcm cannot be read") as raised:
        Slide.open(tmp_path / "cut.dcm")
    assert "\n" not in str(raised.value)


@pytest.mark.real_data
def test_the_real_level_with_its_resolution_given(real_data: Path) -> None:
    """An overview level: what it states is no scan's resolution. With one given, it has tissue, a grid and pixels."""
    path = real_data / "slides" / "camelyon_level.dcm"
    with pytest.raises(SlideError, match=r"states 28\.97 um/px"):
        Slide.open(path)
    with Slide.open(path, 0.5) as slide, openslide.OpenSlide(str(path)) as reference:
        assert slide.backend == "wsidicom" and slide.bounds is None and slide.dimensions == (1152, 700)
        mask = look(slide).mask
        grid = tissue_grid(slide.size_um, slide.mpp_xy, pack(mask), MASK_MPP, 112, 0.5, 0.5)
        assert len(grid.coords) > 10
        for (x, y), um in zip(grid.coords.tolist(), grid.um.tolist(), strict=True):
            theirs = np.asarray(reference.read_region((x, y), 0, (112, 112)).convert("RGB"))
            np.testing.assert_array_equal(slide.read_patch(um[0], um[1], 112, 0.5), theirs)
