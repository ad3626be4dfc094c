"""How much of a patch is tissue: exact areas on bit-packed masks.

A mask of h x w cells is stored as h rows of ceil(w / 8) bytes, the first cell in the highest bit (numpy.packbits).
Positions are in cells: cell (row r, column c) covers [c, c + 1) x [r, r + 1).
"""

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 1 << 17  # cells looked at in one go: they stay in the cache, and large patches in memory
# Positions are taken in this part of a cell. All sums are then exact, whatever their order: a patch qualifies or not
# whichever others are looked at with it, and one that is all tissue has a share of exactly 1.
GRAIN = 2.0**-16


def pack(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(h, w) bool -> (h, ceil(w / 8)) uint8."""
    return np.packbits(mask, axis=1)


def unpack(bits: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """The inverse of `pack`: (h, ceil(width / 8)) uint8 -> (h, width) bool."""
    return np.unpackbits(bits, axis=1, count=width).view(np.bool_)


def coverage(
    masks: NDArray[np.uint8], shapes: NDArray[np.int64], corners: NDArray[np.float64], extents: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of each square [x, x + extent) x [y, y + extent) that is tissue; cells count by the area they share.

    Args:
        masks: packed masks, one after another.
        shapes: (n, 3) of the mask that each square lies on: h, w, and its first byte.
        corners: (n, 2) top-left corners (x, y) in cells, not negative, the squares inside their mask.
        extents: (n,) sides of the squares in cells, at least GRAIN.
    Returns:
        (n,) in [0, 1].
    """
    corners, extents = np.floor(corners / GRAIN) * GRAIN, np.floor(extents / GRAIN) * GRAIN
    count = np.ceil(extents).astype(np.int64) + 1  # cells that a square touches along one side, at most
    area = np.empty(len(corners))
    for side in np.unique(count).tolist():
        alike = np.flatnonzero(count == side)
        step = max(1, MAX_CELLS // (side * (side + 14)))
        for start in range(0, len(alike), step):
            part = alike[start : start + step]
            area[part] = _area(masks, shapes[part], corners[part], extents[part], side)
    return area / (extents * extents)


def _area(
    masks: NDArray[np.uint8],
    shapes: NDArray[np.int64],
    corners: NDArray[np.float64],
    extents: NDArray[np.float64],
    side: int,
) -> NDArray[np.float64]:
    """Tissue in squares that touch at most `side` cells along a side, in cells: (n,)."""
    column, row = np.floor(corners.T).astype(np.int64)
    byte, stride = column >> 3, (shapes[:, 1] + 7) >> 3
    at = shapes[:, 2, None] + (row[:, None] + np.arange(side)) * stride[:, None] + byte[:, None]
    # Cells beyond the mask share no area with a square inside it, so any bits will do for them.
    found = masks.take(at[:, :, None] + np.arange((side + 14) >> 3), mode="clip")
    tissue = np.unpackbits(found, axis=2)  # [n, side, columns]
    across = _shared(corners[:, 0], extents, 8 * byte, tissue.shape[2])  # [n, columns]
    down = _shared(corners[:, 1], extents, row, side)  # [n, side]
    return (np.matmul(tissue, across[:, :, None])[:, :, 0] * down).sum(axis=1)


def _shared(
    start: NDArray[np.float64], extent: NDArray[np.float64], first: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """How much [start, start + extent) shares with each of `count` cells from `first` on: (n, count)."""
    cells = first[:, None] + np.arange(float(count))
    return (np.minimum(cells + 1, (start + extent)[:, None]) - np.maximum(cells, start[:, None])).clip(0.0)


def places(bits: NDArray[np.uint8], window: NDArray[np.float64], extent: float, least: float) -> NDArray[np.float64]:
    """Corners at which a square holds at least the share `least` of tissue, on a grid that misses no possibility.

    The share is linear between positions where an edge of the square passes an edge of a cell. The grid has these, so
    it has the best place of all: none is returned only where there is none.

    Args:
        bits: (h, ceil(w / 8)) packed mask.
        window: (left, top, right, bottom) of the corners in cells; right < left or bottom < top: there is none.
        extent: side of the square in cells.
    Returns:
        (N, 2) corners (x, y) in cells.
    """
    left, top, right, bottom = window.tolist()
    if right < left or bottom < top:
        return np.empty((0, 2))
    xs, ys = _grid(left, right, extent), _grid(top, bottom, extent)
    height, width = bits.shape[0], 8 * bits.shape[1]
    integral = np.zeros((height + 1, width + 1))
    np.cumsum(unpack(bits, width), axis=1, out=integral[1:, 1:])
    np.cumsum(integral, axis=0, out=integral)
    enough = least * extent * extent * (1 - 1e-9)
    step = max(1, MAX_CELLS // len(xs))
    kept: list[NDArray[np.float64]] = []
    for start in range(0, len(ys), step):
        part = ys[start : start + step]
        bands = (_between(integral, part + extent) - _between(integral, part)).T  # [w + 1, len(part)]
        column, row = np.nonzero(_between(bands, xs + extent) - _between(bands, xs) >= enough)
        kept.append(np.column_stack([xs[column], part[row]]))
    return np.concatenate(kept)


def _grid(low: float, high: float, extent: float) -> NDArray[np.float64]:
    """Both ends, and between them where one edge of a square or the other is at the edge of a cell."""
    cells = np.arange(np.floor(low), np.ceil(high + extent) + 1)
    grid = np.concatenate([[low, high], cells, cells - extent])
    return np.unique(grid[(grid >= low) & (grid <= high)])


def _between(nodes: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation of (n, k) nodes along the first axis at the positions `at`: (len(at), k)."""
    at = np.clip(at, 0, len(nodes) - 1)
    low = np.minimum(at.astype(np.int64), len(nodes) - 2)
    share = (at - low)[:, None]
    return nodes[low] * (1 - share) + nodes[low + 1] * share
