"""The levels of a slide and which of them serves a resolution: one rule for reading patches and for placing them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# A level within this share of the asked mpp is taken as it is: resampling by less costs sharpness and time and buys
# nothing, scanners themselves are off by as much. 40x scans of many hospitals state .2527 um/px where .25 is meant. The
# patch is then at most 2 % wider or narrower than asked.
NATIVE_TOLERANCE = 0.02
NEAR = 0.2  # share of a resolution within which two levels count as the same


class Level(NamedTuple):
    """One resolution that a reader offers.

    mpp_x, mpp_y: um per px. width, height: px. tile_w, tile_h: px of a tile, the least that is decoded at once (0: not
    known). source: the number of the stored level. shrink: 1, or 2 or 4 where the stored level is decoded at half or
    quarter size.
    """

    mpp_x: float
    mpp_y: float
    width: int
    height: int
    tile_w: int = 0
    tile_h: int = 0
    source: int = 0
    shrink: int = 1


def pick(finest: Sequence[float] | NDArray[np.float64], mpp: float, tolerance: float = NATIVE_TOLERANCE) -> int:
    """The coarsest level that is not coarser than `mpp`; the finest level when even that is.

    Args:
        finest: of every level the smaller of mpp_x and mpp_y, in rising order.
    """
    fits = [number for number, own in enumerate(finest) if own <= mpp * (1 + tolerance)]
    return fits[-1] if fits else 0


def is_native(scale: float, tolerance: float = NATIVE_TOLERANCE) -> bool:
    """Whether a level is taken without resampling; `scale`: level px per px of the patch."""
    return abs(scale - 1) <= tolerance


def margin(scale: float) -> float:
    """Level px that resampling looks at beyond each side of a patch: the filter's support and one pixel."""
    return 2 * max(scale, 1.0) + 1


def needed(size: int, scale: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """What patches of `size` px need of their levels, in whole level px.

    Args:
        scale: (n, 2) level px per px of the patch along x and y.
    Returns:
        Width and height (n, 2), how much of them lies before the patch's left and upper side (n, 2), and whether the
        level is taken as it is (n, 1).
    """
    native = np.all(np.abs(scale - 1) <= NATIVE_TOLERANCE, axis=1, keepdims=True)
    before = np.where(native, 0.0, np.ceil(2 * np.maximum(scale, 1.0) + 1))  # `margin`, in whole px
    return np.where(native, size, np.ceil(size * scale) + 2 * before), before, native


def levels(
    planes: Sequence[tuple[int, int, int, int]], mpp_xy: tuple[float, float], shrinks: Sequence[int] = (1,)
) -> list[Level]:
    """All levels of a slide, finest first.

    Args:
        planes: the stored levels as (width, height, tile_w, tile_h) in px, finest first.
        mpp_xy: um per px of the first along x and y.
        shrinks: by what a stored level can be divided in decoding; such a level is offered where no stored one is near.
    """
    downs = [_downsample(planes[0][:2], plane[:2]) for plane in planes]
    found = [
        Level(mpp_xy[0] * down, mpp_xy[1] * down, *plane, source)
        for source, (down, plane) in enumerate(zip(downs, planes, strict=True))
    ]
    # Later planes first: the half of a level is sharper than the quarter of a finer one, and cheaper.
    for source in reversed(range(len(planes))):
        for shrink in shrinks:
            down = downs[source] * shrink
            # A last pixel that the slide fills only in part counts (tiles.py says what it shows).
            width, height, tile_w, tile_h = (-(-side // shrink) for side in planes[source])
            near = any(abs(level.mpp_x / (mpp_xy[0] * down) - 1) < NEAR for level in found)
            if not near and width and height:
                found.append(Level(mpp_xy[0] * down, mpp_xy[1] * down, width, height, tile_w, tile_h, source, shrink))
    return sorted(found, key=lambda level: level.mpp_x)


def _downsample(full: tuple[int, int], level: tuple[int, int]) -> float:
    """The ratio of two levels: the whole number behind it, where their sizes are consistent with one.

    Sizes are rounded: 9923 -> 4961 -> ... -> 155 px reads as 64.02. Taken at its word, the far edge of a coarse level
    is misplaced by up to a pixel of that level.
    """
    nominal = (full[0] / level[0] + full[1] / level[1]) / 2
    whole = round(nominal)
    if whole >= 1 and all(math.floor(a / whole) <= b <= math.ceil(a / whole) for a, b in zip(full, level, strict=True)):
        return float(whole)
    return nominal
