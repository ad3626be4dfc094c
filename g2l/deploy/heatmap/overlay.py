"""A slide with its patches coloured. Letters: H x W px of the picture, N patches, C numbers of each."""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from g2l.deploy.heatmap.shades import Shades
from g2l.errors import ConfigError
from g2l.slides.slide import Slide

MOST_PIXELS = 50_000_000  # a picture and its PNG take 12 bytes a px: 600 MB; a whole slide at 8 um/px has 30 million
STRIP_NUMBERS = 1 << 22  # numbers of a strip's pixels that are held at once


def refuse_large(slide: Slide, mpp: float) -> None:
    """ConfigError, with what would do, when a picture at `mpp` um/px would need too much memory."""
    if not mpp > 0:
        raise ConfigError(f"mpp is {mpp:g}; give the um per px of the picture, for example 8")
    area = slide.size_um[0] * slide.size_um[1]
    if area / mpp**2 > MOST_PIXELS:
        enough = np.ceil((area / MOST_PIXELS) ** 0.5 * 10) / 10
        raise ConfigError(
            f"a picture of {slide.path} at {mpp:g} um/px would have {area / mpp**2 / 1e6:.0f} megapixels, and "
            f"{MOST_PIXELS / 1e6:.0f} are allowed; give --mpp {enough:g} or more"
        )


def paint(
    slide: Slide,
    mpp: float,
    coords: NDArray[np.float64],
    extent: NDArray[np.float64],
    values: NDArray[np.float32],
    shades: Shades,
    alpha: float,
    marked: NDArray[np.int64] | None = None,
) -> NDArray[np.uint8]:
    """The slide at `mpp` um/px, grey below its patches and their colours over it; where patches overlap, their mean's.

    Args:
        coords, extent: (N, 2) corners and (2,) sides of the patches in px of level 0.
        values: (N, C); a patch with nan stays without colour.
        alpha: share of the colour, 0 to 1.
        marked: numbers of patches that get a frame.
    Returns:
        (H, W, 3) uint8 RGB of what QuPath shows: of a slide with bounds, the part inside them.
    """
    picture = slide.thumbnail(mpp)
    shown = np.isfinite(values).all(axis=1)
    boxes = pixel_boxes(coords[shown], extent, slide.mpp_xy, mpp, picture.shape[:2])
    for rows, mean, there in _strips(boxes, values[shown], picture.shape[:2]):
        below = picture[rows]
        grey = np.asarray(cv2.cvtColor(below, cv2.COLOR_RGB2GRAY))[there].astype(np.float32)[:, None]
        # Over white the pure colour, darker with the tissue below: nuclei stay visible through it.
        colour = shades.paint(mean).astype(np.float32) * (0.4 + 0.6 * grey / 255)
        below[there] = np.rint((1 - alpha) * grey + alpha * colour).astype(np.uint8)
    framed = coords[:0] if marked is None else coords[marked]
    for left, top, right, bottom in pixel_boxes(framed, extent, slide.mpp_xy, mpp, picture.shape[:2]).tolist():
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), (0, 0, 0), 1)
        if min(right - left, bottom - top) > 4:
            cv2.rectangle(picture, (left + 1, top + 1), (right - 2, bottom - 2), (255, 255, 255), 1)
    if slide.bounds is None:
        return picture
    left, top, width, height = slide.bounds
    scale_x, scale_y = (side / mpp for side in slide.mpp_xy)
    rows = slice(max(round(top * scale_y), 0), max(round((top + height) * scale_y), 1))
    return picture[rows, max(round(left * scale_x), 0) : max(round((left + width) * scale_x), 1)]


def pixel_boxes(
    coords: NDArray[np.float64],
    extent: NDArray[np.float64],
    mpp_xy: tuple[float, float],
    mpp: float,
    shape: tuple[int, int],
) -> NDArray[np.int64]:
    """(N, 4) left, top, right, bottom in px of a picture of `shape` (H, W): right and bottom are the next one's first.

    Patches lie at whole px of level 0, their sides need not be whole: half a px is added to the far edge, or a rounded
    seam between neighbours would stay without colour.
    """
    scale = np.asarray(mpp_xy) / mpp
    near, far = np.rint(coords * scale), np.rint((coords + extent + 0.5) * scale)
    far = np.maximum(far, near + 1)
    limit = np.array([shape[1], shape[0]])
    return np.concatenate([near.clip(0, limit), far.clip(0, limit)], axis=1).astype(np.int64)


def _strips(
    boxes: NDArray[np.int64], values: NDArray[np.float32], shape: tuple[int, int]
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.bool_]]]:
    """Rows of the picture, the mean of the values at each px that has some (n, C), and which those are (rows, W)."""
    height, width = shape
    step = max(1, STRIP_NUMBERS // (width * (values.shape[1] + 1)))
    order = np.argsort(boxes[:, 1], kind="stable")
    tallest = int((boxes[:, 3] - boxes[:, 1]).max(initial=0))
    tops = boxes[order, 1]
    for top in range(0, height, step):
        bottom = min(top + step, height)
        first, last = np.searchsorted(tops, [top - tallest, bottom])
        total = np.zeros((bottom - top, width, values.shape[1]), np.float32)
        count = np.zeros((bottom - top, width), np.float32)
        for k in order[first:last].tolist():
            left, upper, right, lower = boxes[k].tolist()
            place = slice(max(upper - top, 0), max(lower - top, 0)), slice(left, right)
            total[place] += values[k]
            count[place] += 1
        there = count > 0
        if there.any():
            yield slice(top, bottom), total[there] / count[there][:, None], there
