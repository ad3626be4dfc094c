"""DICOM tiles by wsidicom: OpenSlide's pixels on a real series, and on one of two files."""

import shutil
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import simplejpeg
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid

from g2l.errors import SlideError
from g2l.slides.backends import choose, recorded
from g2l.slides.reader import OpenSlideReader, Reader
from g2l.slides.slide import Slide

pytestmark = pytest.mark.real_data


def read(reader: Reader, x: int, y: int, width: int, height: int, plane: int = 0) -> np.ndarray:
    out = np.empty((height, width, 3), np.uint8)
    reader.read(plane, x, y, width, height, 1, out)
    return out


@pytest.fixture
def level(real_data: Path) -> Path:
    return real_data / "slides" / "camelyon_level.dcm"


@pytest.fixture
def series(level: Path, tmp_path: Path) -> Path:
    """The real level, half of it as a second file of the series, and a file of another one."""
    shutil.copyfile(level, tmp_path / "one.dcm")
    with Slide.open(level, 4.0, "openslide") as slide:
        whole = slide.read_patch(0, 0, 1152, 4.0)[:700]
    small = cv2.resize(whole, (576, 350), interpolation=cv2.INTER_AREA)
    padded = np.pad(small, ((0, 512 - 350), (0, 768 - 576), (0, 0)), mode="edge")
    tiles = [padded[y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256, 512)]
    half = pydicom.dcmread(level)
    half.PixelData = encapsulate([simplejpeg.encode_jpeg(np.ascontiguousarray(one), 92) for one in tiles])
    half.NumberOfFrames, half.TotalPixelMatrixColumns, half.TotalPixelMatrixRows = len(tiles), 576, 350
    spacing = half.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    spacing.PixelSpacing = [2 * float(side) for side in spacing.PixelSpacing]
    half.SOPInstanceUID = half.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    half.save_as(tmp_path / "two.dcm")
    other = deepcopy(half)
    other.SeriesInstanceUID = generate_uid()
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    other.save_as(tmp_path / "other.dcm")
    return tmp_path / "one.dcm"


def test_pixels_are_openslides(level: Path) -> None:
    chosen, theirs = choose(level), OpenSlideReader(level)
    assert chosen.reader.name == "wsidicom" and "grey levels from OpenSlide's" in chosen.reason
    again = recorded(level, chosen.reader.name, chosen.tile_map)
    random = np.random.default_rng(0)
    for _ in range(40):
        x, y, w, h = random.integers([-50, -50, 1, 1], [1152, 700, 300, 300]).tolist()
        np.testing.assert_array_equal(read(chosen.reader, x, y, w, h), read(theirs, x, y, w, h))
        np.testing.assert_array_equal(read(again, x, y, w, h), read(theirs, x, y, w, h))


@pytest.mark.filterwarnings("ignore:The value length")
def test_a_series_of_two_files(series: Path) -> None:
    chosen, theirs = choose(series), OpenSlideReader(series)
    assert chosen.reader.name == "wsidicom" and "2 of 2 levels" in chosen.reason
    assert [plane[:2] for plane in chosen.reader.planes] == [(1152, 700), (576, 350)]
    for x, y in ((0, 0), (200, 100), (400, 250)):
        np.testing.assert_array_equal(read(chosen.reader, x, y, 200, 160, 1), read(theirs, x, y, 200, 160, 1))
    with Slide.open(series, 4.0) as slide:
        assert [(one.mpp_x, one.source, one.shrink) for one in slide.levels][:3] == [(4, 0, 1), (8, 1, 1), (16, 1, 2)]


def test_a_series_that_is_gone(series: Path) -> None:
    chosen = choose(series)
    (series.parent / "two.dcm").unlink()
    with pytest.raises(SlideError, match=r"has changed since it was indexed .*; run g2l index again"):
        recorded(series, chosen.reader.name, chosen.tile_map)
