"""Two flags per slide, for looking at and for filtering. Neither is a diagnosis of the slide's quality.

`pen`: colours that neither H&E nor DAB gives (green, cyan, pure blue) over a connected 0.05 mm2 or more. Black, red and
brown ink look like tissue or blood and are not found; blue and green special stains (Masson, Alcian) are flagged.

`blur`: at 1 um/px, the energy of the Laplacian relative to the contrast of the patch, median over up to 8 places well
inside the tissue. Real slides lie at 0.5-1.2; blurred by a Gaussian of 1 um they fall to 0.22-0.45, of 2 um to
0.10-0.19. It sees a whole slide out of focus, not a band of blur on a sharp one; tissue without nuclei scores low of
itself, noise scores high, and slides coarser than 1 um/px get no value.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from g2l.slides.slide import Slide

PEN_MM2 = 0.05
SHARPNESS_MPP = 1.0
SHARPNESS_PX = 256
PLACES = 8
BLUR_BELOW = 0.15


def has_pen(thumbnail: NDArray[np.uint8], mpp: float) -> bool:
    """Whether the (h, w, 3) thumbnail at `mpp` um/px shows green, cyan or blue ink."""
    hsv = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2HSV)  # H in 0..179
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    green = (hue >= 35) & (hue < 100) & (saturation > 70)
    blue = (hue >= 100) & (hue < 119) & (saturation > 150)  # haematoxylin lies at 120-150
    ink = ((green | blue) & (value > 40)).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    return count > 1 and int(stats[1:, cv2.CC_STAT_AREA].max()) * (mpp / 1000) ** 2 >= PEN_MM2


def sharpness(slide: Slide, mask: NDArray[np.bool_], mask_mpp: float) -> float:
    """Median over places in the tissue of std(Laplacian) / std(grey) at 1 um/px; NaN when every place is flat
    or the slide is coarser than that.

    Args:
        mask: (h, w) bool; mask_mpp: um per cell.
    """
    if slide.mpp > SHARPNESS_MPP:
        return float("nan")
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    inner = np.argwhere(depth >= 0.5 * depth.max())  # rows, columns; evenly picked, so no random number is needed
    chosen = inner[np.linspace(0, len(inner) - 1, min(PLACES, len(inner))).round().astype(int)]
    half = SHARPNESS_PX * SHARPNESS_MPP / 2
    values = []
    for row, column in chosen.tolist():
        x, y = (column + 0.5) * mask_mpp - half, (row + 0.5) * mask_mpp - half
        grey = cv2.cvtColor(slide.read_patch(x, y, SHARPNESS_PX, SHARPNESS_MPP), cv2.COLOR_RGB2GRAY)
        values.append(focus(grey))
    judged = [value for value in values if not math.isnan(value)]
    return float(np.median(judged)) if judged else float("nan")


def focus(grey: NDArray[Any]) -> float:
    """std(Laplacian) / std(grey) of (h, w) uint8; NaN where there is next to no contrast."""
    contrast = float(grey.std())
    return float(cv2.Laplacian(grey, cv2.CV_32F).std()) / contrast if contrast > 2 else float("nan")
