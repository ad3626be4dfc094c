"""How much of a patch is tissue: exact areas on a bit-packed mask.

A mask of h x w cells is stored as h rows of ceil(w / 8) bytes, the first cell in the highest bit (numpy.packbits).
Positions are in cells: cell (row r, column c) covers [c, c + 1) x [r, r + 1).
"""

import math

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 1 << 15  # cells looked at in one go: bounds memory for large patches


def pack(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(h, w) bool -> (h, ceil(w / 8)) uint8."""
    return np.packbits(mask, axis=1)


def unpack(bits: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """The inverse of `pack`: (h, ceil(width / 8)) uint8 -> (h, width) bool."""
    return np.unpackbits(bits, axis=1, count=width).view(np.bool_)


def coverage(bits: NDArray[np.uint8], corners: NDArray[np.float64], extent: float) -> NDArray[np.float64]:
    """Share of each square [x, x + extent) x [y, y + extent) that is tissue; cells count by the area they share.

    Args:
        bits: (h, ceil(w / 8)) packed mask.
        corners: (n, 2) top-left corners (x, y) in cells, the squares inside the mask.
        extent: side of the squares in cells.
    Returns:
        (n,) in [0, 1].
    """
    count = math.ceil(extent) + 1
    step = max(1, MAX_CELLS // count**2)
    if len(corners) > step:
        parts = [coverage(bits, corners[i : i + step], extent) for i in range(0, len(corners), step)]
        return np.concatenate(parts)
    first = np.floor(corners)
    cells = first.astype(np.int64)[:, :, None] + np.arange(count)  # [n, 2, count]
    offset = (corners - first)[:, :, None] - np.arange(count)
    share = np.minimum(np.minimum(1.0, 1.0 - offset), np.minimum(extent, extent + offset)).clip(0.0)  # [n, 2, count]
    height, stride = bits.shape
    columns = np.minimum(cells[:, 0], 8 * stride - 1)
    rows = np.minimum(cells[:, 1], height - 1)
    found = bits[rows[:, :, None], (columns >> 3)[:, None, :]]  # [n, count, count]
    tissue = found >> (7 - (columns & 7)).astype(np.uint8)[:, None, :] & 1
    weighted = np.matmul(tissue, share[:, 0, :, None])[:, :, 0]  # [n, count]
    return (weighted * share[:, 1]).sum(axis=1) / (extent * extent)


def places(
    bits: NDArray[np.uint8], window: NDArray[np.float64], extent: float, least: float, step: float = 0.5
) -> NDArray[np.float64]:
    """All corners of a grid at which `coverage` is at least `least`.

    Args:
        window: (left, top, span_x, span_y) of the corners in cells; a negative span means there is none.
        step: of the grid in cells; the window's far edges belong to it too.
    Returns:
        (N, 2) corners (x, y) in cells.
    """
    left, top, span_x, span_y = window.tolist()
    if span_x < 0 or span_y < 0:
        return np.empty((0, 2))
    xs = np.append(np.arange(left, left + span_x, step), left + span_x)
    ys = np.append(np.arange(top, top + span_y, step), top + span_y)
    # The integral of a mask is linear inside each cell, hence exact between its nodes too.
    height, width = bits.shape[0], 8 * bits.shape[1]
    integral = np.zeros((height + 1, width + 1))
    np.cumsum(unpack(bits, width), axis=1, out=integral[1:, 1:])
    np.cumsum(integral, axis=0, out=integral)
    strips = _between(integral.T, xs + extent).T - _between(integral.T, xs).T  # [h + 1, len(xs)]
    kept: list[NDArray[np.float64]] = []
    for y in ys:
        tissue = _between(strips, np.array([y + extent]))[0] - _between(strips, np.array([y]))[0]
        good = xs[tissue >= least * extent * extent]
        kept.append(np.column_stack([good, np.full_like(good, y)]))
    return np.concatenate(kept)


def _between(nodes: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation of (n, k) nodes along the first axis at the positions `at`: (len(at), k)."""
    at = np.clip(at, 0, len(nodes) - 1)
    low = np.minimum(at.astype(np.int64), len(nodes) - 2)
    share = (at - low)[:, None]
    return nodes[low] * (1 - share) + nodes[low + 1] * share
