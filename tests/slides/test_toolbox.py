"""What OpenSlide does not open, tiatoolbox may."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from g2l.errors import SlideError
from g2l.slides.slide import Slide

pytestmark = pytest.mark.slow  # importing tiatoolbox takes seconds


def test_a_striped_tiff_is_read_by_tiatoolbox(tmp_path: Path) -> None:
    rough = np.random.default_rng(0).integers(30, 226, (50, 65, 3)).astype(np.uint8)
    pixels = cv2.resize(rough, (1023, 771), interpolation=cv2.INTER_CUBIC)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", rowsperstrip=64, metadata=None)
    with pytest.raises(SlideError, match="states no resolution"):
        Slide.open(tmp_path / "a.tif")
    with Slide.open(tmp_path / "a.tif", 0.5) as slide:
        assert slide.backend == "tiatoolbox" and slide.backend_reason == "OpenSlide does not open it"
        np.testing.assert_array_equal(slide.read_patch(50, 30, 200, 0.5), pixels[60:260, 100:300])
        corner = slide.read_patch(-5, 380, 40, 0.5)
        np.testing.assert_array_equal(corner[:11, 10:], pixels[760:, :30])
        assert (corner[:, :10] == 255).all() and (corner[11:] == 255).all()


def test_what_nobody_opens_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0 no TIFF after all")
    with pytest.raises(SlideError, match="cannot be read"):
        Slide.open(tmp_path / "a.tif", 0.5)
    with pytest.raises(SlideError, match="neither OpenSlide nor tiatoolbox"):
        Slide.open(tmp_path / "a.tif", 0.5, backend="tiatoolbox")
