"""What `colour.py` and `spatial.gaussian_blur` do, for one image on a CPU: OpenCV is three to ten times as fast there.

Every function takes an image (H, W, 3), float32, RGB in [0, 1], and may write into it; the result is in [0, 1]. They
agree with the batched functions to a hundredth of a grey level.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from g2l.data.colour import DARKEST, GREY

Image = NDArray[np.float32]

SHARES = np.arange(256, dtype=np.float32) / np.float32(255)
LOGS = np.log(np.maximum(SHARES, DARKEST)).astype(np.float32)


def from_bytes(image: NDArray[np.uint8]) -> Image:
    """Bytes to [0, 1]."""
    return _float(cv2.LUT(image, SHARES))


def jitter_stain(image: NDArray[np.uint8], stain_map: Image) -> Image:
    """Of bytes, so that the logarithm is looked up. stain_map: (3, 4), of `colour.stain_maps`."""
    logs = _float(cv2.LUT(image, LOGS))
    return _clip(_float(cv2.exp(cv2.transform(logs, stain_map, dst=logs), dst=logs)))


def adjust_brightness(image: Image, factor: float) -> Image:
    """Times factor."""
    return _clip(np.multiply(image, np.float32(factor), out=image))


def adjust_contrast(image: Image, factor: float) -> Image:
    """Moved away from the mean grey level by factor."""
    mean = float(np.dot(cv2.mean(image)[:3], GREY))
    np.multiply(image, np.float32(factor), out=image)
    return _clip(np.add(image, np.float32(mean * (1 - factor)), out=image))


def adjust_saturation(image: Image, factor: float) -> Image:
    """Each pixel moved away from its own grey level by factor."""
    matrix = factor * np.eye(3) + (1 - factor) * np.array(GREY)
    return _clip(_float(cv2.transform(image, matrix.astype(np.float32))))


def adjust_hue(image: Image, turn: float) -> Image:
    """Hue of HSV turned by turn, in whole turns."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    # OpenCV takes degrees of 360 and above for what they are, but not all negative ones
    scalar: Any = (360 * (turn % 1), 0, 0, 0)  # not in its annotations
    cv2.add(hsv, scalar, dst=hsv)
    return _clip(_float(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=image)))


def gaussian_blur(image: Image, sigma: float, kernel: int) -> Image:
    """Gaussian blur of `kernel` taps (odd), borders reflected; sigma in px."""
    offset = np.arange(-(kernel // 2), kernel // 2 + 1)
    taps = np.exp(-0.5 * (offset / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    return _float(cv2.sepFilter2D(image, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101))


def solarize(image: Image, threshold: float) -> Image:
    """Values from the threshold upwards inverted."""
    return np.where(image >= np.float32(threshold), 1 - image, image)


def _clip(image: Image) -> Image:
    return np.clip(image, 0, 1, out=image)


def _float(image: cv2.typing.MatLike) -> Image:
    return np.asarray(image, np.float32)  # OpenCV's annotations do not know the type; no copy
