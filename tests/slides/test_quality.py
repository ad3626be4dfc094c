"""The pen and blur flags, within what they claim."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.slides.quality import BLUR_BELOW, has_pen, sharpness
from g2l.slides.slide import Slide
from g2l.slides.tissue import tissue_mask


class Blurred:
    """A slide seen through a Gaussian of `sigma` um."""

    def __init__(self, slide: Slide, sigma: float) -> None:
        self.slide, self.sigma, self.mpp = slide, sigma, slide.mpp

    def read_patch(self, x: float, y: float, size: int, mpp: float) -> NDArray[np.uint8]:
        patch = self.slide.read_patch(x, y, size, mpp)
        return cv2.GaussianBlur(patch, (0, 0), self.sigma / mpp).astype(np.uint8) if self.sigma else patch


@pytest.mark.parametrize(
    ("ink", "found"),
    [
        ((20, 150, 60), True), ((0, 120, 160), True), ((20, 60, 200), True),
        ((205, 140, 180), False), ((90, 60, 140), False), ((60, 50, 120), False), ((140, 90, 50), False),
    ],
)  # fmt: skip
def test_pen_is_ink_of_a_colour_that_stains_do_not_have(ink: tuple[int, int, int], found: bool) -> None:
    thumbnail = np.full((120, 160, 3), 240, np.uint8)
    thumbnail[20:100, 40:120] = (200, 150, 190)
    thumbnail[30:36, 20:150] = ink  # a stroke of 0.2 mm2
    assert has_pen(thumbnail, 16.0) is found


def test_a_speck_of_colour_is_no_pen() -> None:
    thumbnail = np.full((120, 160, 3), 240, np.uint8)
    thumbnail[30:36, 20:30] = (20, 150, 60)
    assert not has_pen(thumbnail, 16.0)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["her2st_B4.tif", "her2st_C3.tif", "cmu-1-small-region.svs"])
def test_blur_lowers_sharpness_and_sharp_slides_are_not_flagged(real_data: Path, name: str) -> None:
    with Slide.open(real_data / "slides" / name) as slide:
        overview = slide.thumbnail(16.0)
        mask = tissue_mask(overview, 16.0)
        values = [sharpness(Blurred(slide, sigma), mask, 16.0) for sigma in (0, 1.0, 2.0, 4.0)]  # pyright: ignore[reportArgumentType]
        assert not has_pen(overview, 16.0)
    assert values == sorted(values, reverse=True)
    assert values[1] > BLUR_BELOW > values[2]
