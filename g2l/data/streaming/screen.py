"""Whether a patch that was read is worth training on: a rule on its pixels alone."""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from g2l.slides.quality import BLUR_BELOW, SHARPNESS_MPP, focus

Quality = Literal["none", "hsv", "sharp"]
Screen = Callable[[NDArray[np.uint8], float], bool]

# OpenCV's scale: hue 0-179 in steps of 2 degrees, saturation and value 0-255
STAINED_FROM, STAINED_TO = (90, 8, 103), (180, 255, 255)
STAINED_SHARE = 0.6


def stained(pixels: NDArray[np.uint8], mpp: float) -> bool:
    """Whether at least 60 % of the pixels (S, S, 3) have hue 90-180, saturation 8-255 and value 103-255.

    Source: Karasikov et al. 2025 (Midnight), arXiv 2504.05186; from Vorontsov et al. 2024 (Virchow). Made for H&E: DAB,
    pigment and dark ink fail.
    """
    inside = cv2.inRange(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), STAINED_FROM, STAINED_TO)
    return cv2.countNonZero(inside) >= STAINED_SHARE * inside.size


def in_focus(pixels: NDArray[np.uint8], mpp: float) -> bool:
    """Whether the measure of slides/quality.py, at 1 um/px, is not below its limit. A flat patch, one coarser than
    1 um/px and one of unknown resolution cannot be judged, and pass.

    On seven real slides no sharp patch failed; blurred by a Gaussian of 2 um half of them did, of 4 um nearly all that
    were not flat then.
    """
    if not mpp <= SHARPNESS_MPP:  # nor where it is not known
        return True
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    side = max(3, round(len(grey) * mpp / SHARPNESS_MPP))
    if side != len(grey):
        grey = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    return not focus(grey) < BLUR_BELOW  # NaN passes


SCREENS: dict[Quality, Screen | None] = {"none": None, "hsv": stained, "sharp": in_focus}
