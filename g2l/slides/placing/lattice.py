"""Where patches can lie: all places inside the fewest tiles of the level that is read, or all whole pixels.

Every array has one row per patch (n) and, where it says (n, 2), a column for x and one for y.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.slides.cohort import Geometry
from g2l.slides.pyramid import NATIVE_TOLERANCE, needed

HAIR = 1e-6  # um: a rounding error beyond a border is not beyond it


class Lattice(NamedTuple):
    """Corners (tile * t + offset + before) * step um: t counts from `first` to `first + count - 1`, offset from 0 to
    `slack`; those outside low-high do not qualify. All (n, 2), lengths in px of the lattice where nothing else is said.

    step: um per px. scale: px per px of the patch. need: what one patch needs; before: how much of it lies before its
    corner. tile, slack: of a tile, and what `need` leaves free in the fewest tiles that hold it. low, high: first and
    last corner that can qualify at all, in um.
    """

    step: NDArray[np.float64]
    scale: NDArray[np.float64]
    need: NDArray[np.float64]
    before: NDArray[np.float64]
    tile: NDArray[np.float64]
    slack: NDArray[np.float64]
    first: NDArray[np.float64]
    count: NDArray[np.float64]  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple.count
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def rows(self, which: NDArray[np.int64]) -> "Lattice":
        """Some of the patches."""
        return Lattice(*(column[which] for column in self))

    def corners(self, random: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(n, w, 4) numbers in [0, 1) -> (n, w, 2) corners in um, and (n, w) whether they lie in low-high."""
        tile = self.first[:, None] + np.floor(random[..., :2] * self.count[:, None])
        offset = np.floor(random[..., 2:] * (self.slack[:, None] + 1))
        corners = (tile * self.tile[:, None] + offset + self.before[:, None]) * self.step[:, None]
        inside = (corners >= self.low[:, None] - HAIR) & (corners <= self.high[:, None] + HAIR)
        return corners, inside[..., 0] & inside[..., 1]


def serving(geometry: Geometry, slides: NDArray[np.int64], mpp: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each slide the row of `geometry.levels` that `pyramid.pick` takes for `mpp` (n,): (n, 4)."""
    first, end = geometry.first_level[slides], geometry.first_level[slides + 1]
    numbers = first[:, None] + np.arange(max(1, int((end - first).max(initial=1))))
    finest = geometry.levels[np.minimum(numbers, end[:, None] - 1), :2].min(axis=2)
    fits = (finest <= mpp[:, None] * (1 + NATIVE_TOLERANCE)) & (numbers < end[:, None])
    last = fits.shape[1] - 1 - fits[:, ::-1].argmax(axis=1)
    return geometry.levels[first + np.where(fits.any(axis=1), last, 0)]


def lattice(
    geometry: Geometry, slides: NDArray[np.int64], mpp: NDArray[np.float64], size: int, least: float, tiles: bool
) -> Lattice:
    """The lattice of patches of `size` px at `mpp` (n,) on slides (n,), `least` of which is tissue.

    Args:
        tiles: keep to the tiles of the level that is read, where their size is known; else to whole px at `mpp`.
    """
    level, mpp = serving(geometry, slides, mpp), mpp[:, None]
    need, before, native = needed(size, mpp / level[:, :2])
    # A level within 2 % of the asked resolution is read as it is: the patch then covers `size` px of that level.
    reach = size * np.where(native, np.maximum(level[:, :2], mpp), mpp)
    # A patch of which the share q is tissue overlaps the tissue's bounding box by at least q of its side.
    box = geometry.box[slides] * geometry.mask_mpp[slides, None]
    low = np.maximum(0.0, box[:, :2] - size * mpp * (1 - least))
    high = np.minimum(geometry.size_um[slides] - reach, box[:, 2:] - size * mpp * least)
    high = np.where(np.abs(high - low) < HAIR, low, high)
    known = np.all(level[:, 2:] > 0, axis=1, keepdims=True) & tiles
    step = np.where(known, level[:, :2], mpp)
    scale = np.where(known & ~native, mpp / step, 1.0)
    need, before, tile = np.where(known, need, size), np.where(known, before, 0.0), np.where(known, level[:, 2:], 1.0)
    slack = np.ceil(need / tile) * tile - need
    first = np.maximum(0.0, np.ceil((np.ceil((low - HAIR) / step) - before - slack) / tile))
    count = np.maximum(0.0, np.floor((np.floor((high + HAIR) / step) - before) / tile) - first + 1)
    return Lattice(step, scale, need, before, tile, slack, first, count, low, high)
