"""Patches of one region merged into polygons. Letters: N patches, C numbers of each, h x w cells of a raster.

The raster's lines are the patches' own edges, so that the polygons are exact; patches that lie on no common lattice
(CLAM starts one in every contour) are laid on cells of an eighth of a patch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.deploy.heatmap.shades import Shades
from g2l.slides.outlines import contours

SNAP = 1.5  # px of level 0: patches are placed to whole px, so edges that are meant to be one differ by one
FINE = 8
MOST_CELLS = 20_000_000


class Region(NamedTuple):
    """number: of the shades' regions. rings: (n, 2) corners in px of level 0, outline and holes. values: (C,) means.
    px: its area in px of level 0.
    """

    number: int
    rings: list[NDArray[np.float64]]
    values: NDArray[np.float64]
    px: float


def merged(
    coords: NDArray[np.float64], extent: NDArray[np.float64], values: NDArray[np.float32], shades: Shades
) -> Iterator[Region]:
    """The regions of a slide; where patches overlap, the mean of their values decides.

    Args: coords: (N, 2) corners of patches in px of level 0. extent: (2,) their sides. values: (N, C); nan: left out.
    """
    shown = np.isfinite(values).all(axis=1)
    coords, values = coords[shown], values[shown]
    if not len(coords):
        return
    xs, ys = _lines(coords, extent)
    total = np.zeros((len(ys) - 1, len(xs) - 1, values.shape[1]), np.float32)
    count = np.zeros(total.shape[:2], np.float32)
    columns, rows = (_between(lines, coords[:, k], extent[k]) for k, lines in enumerate((xs, ys)))
    for value, (left, right), (top, bottom) in zip(values, columns.tolist(), rows.tolist(), strict=True):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    there = count > 0
    mean = total[there] / count[there][:, None]
    numbers = np.full(count.shape, -1)
    numbers[there] = shades.sort(mean)
    total[there] = mean
    area = np.diff(ys)[:, None] * np.diff(xs)
    for number in np.unique(numbers[there]).tolist():
        for rings, inside in _pieces(numbers == number):
            weight = area[inside]
            of_each = np.average(total[inside].astype(np.float64), axis=0, weights=weight)
            yield Region(number, [np.stack([xs[r[:, 0]], ys[r[:, 1]]], 1) for r in rings], of_each, float(weight.sum()))


def _pieces(
    mask: NDArray[np.bool_],
) -> Iterator[tuple[list[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Each component: its rings, and its cells."""
    import cv2

    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    labels = np.asarray(labels)
    order = np.argsort(labels, axis=None, kind="stable")
    ends = np.searchsorted(labels.ravel()[order], np.arange(1, labels.max() + 2))
    for rings in contours(mask):
        whole = [ring.astype(np.int64) for ring in rings]
        # The first corner of an outline is that of a cell in the topmost row of it, which lies right below.
        corner = whole[0][np.lexsort((whole[0][:, 0], whole[0][:, 1]))[0]]
        label = int(labels[corner[1], corner[0]])
        cells = order[ends[label - 1] : ends[label]]
        rows, columns = np.divmod(cells, mask.shape[1])
        yield whole, (rows, columns)


def _lines(coords: NDArray[np.float64], extent: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The raster's lines along x and y in px of level 0."""
    snapped = [_snapped(coords[:, k], extent[k]) for k in (0, 1)]
    xs, ys = snapped
    if xs is not None and ys is not None and len(xs) * len(ys) <= MOST_CELLS:
        return xs, ys
    low, high = coords.min(axis=0), (coords + extent).max(axis=0)
    fine = np.maximum(extent / FINE, np.sqrt(np.prod(high - low) / MOST_CELLS))
    uniform = [np.append(np.arange(low[k], high[k] - SNAP, fine[k]), high[k]) for k in (0, 1)]
    return uniform[0], uniform[1]


def _snapped(starts: NDArray[np.float64], extent: float) -> NDArray[np.float64] | None:
    """The patches' edges, those that are meant to be one made one; None where edges lie as dense as that by chance."""
    edges = np.unique(np.concatenate([starts, starts + extent]))
    first = np.flatnonzero(np.concatenate([[True], np.diff(edges) > SNAP]))
    last = np.append(first[1:], len(edges)) - 1
    if (edges[last] - edges[first] > SNAP).any():
        return None
    return (edges[first] + edges[last]) / 2


def _between(lines: NDArray[np.float64], starts: NDArray[np.float64], extent: float) -> NDArray[np.int64]:
    """(N, 2) the nearest lines to the two edges of each patch, at least one cell apart."""

    def nearest(at: NDArray[np.float64]) -> NDArray[np.int64]:
        right = np.searchsorted(lines, at).clip(1, len(lines) - 1)
        return right - (at - lines[right - 1] <= lines[right] - at)

    near = nearest(starts)
    return np.stack([near, np.maximum(nearest(starts + extent), near + 1)], axis=1)
