"""The edges of cells as polygons: exact, simple rings, the outline of each component and those of its holes.

Letters: `h` x `w` cells; cell (row r, column c) covers [c, c + 1) x [r, r + 1).
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

# Directions along edges, each a quarter turn from the last: right, down, left, up (x, y).
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def contours(mask: NDArray[np.bool_]) -> list[list[NDArray[np.float64]]]:
    """Polygons along the cells' edges: per component (cells that share an edge) the outline, then its holes.

    No ring touches itself: where cells of one component meet at a corner only, a hole ends there. Outlines have a
    positive area by the shoelace formula in (x, y) as they stand, holes a negative one (RFC 7946, 3.1.6).

    Args:
        mask: (h, w) bool.
    Returns:
        Rings of (n, 2) corners (x, y) in cells, the first not repeated at the end.
    """
    if not mask.any():
        return []
    padded = np.pad(mask, 1)
    _, labels = cv2.connectedComponents(padded.astype(np.uint8), connectivity=4)
    polygons: dict[int, list[NDArray[np.float64]]] = {}
    holes: list[tuple[int, NDArray[np.float64]]] = []
    for label, ring in _rings(padded, np.asarray(labels, dtype=np.int32)):
        if _area(ring) > 0:
            polygons[label] = [ring - 1.0]
        else:
            holes.append((label, ring - 1.0))
    for label, ring in holes:
        polygons[label].append(ring)
    return [polygons[label] for label in sorted(polygons)]


def fill(out: NDArray[np.bool_], rings: Sequence[NDArray[np.float64]]) -> None:
    """Set the cells of `out` (h, w) whose centre lies inside a polygon: the inverse of `contours`.

    Args:
        rings: (n, 2) corners (x, y) in cells; even-odd, so that inner rings are holes; they may lie outside.
    """
    corners = np.concatenate(rings)
    left, top = np.floor(corners.min(axis=0)).clip(0, (out.shape[1], out.shape[0])).astype(np.int64)
    right, bottom = np.ceil(corners.max(axis=0)).clip(0, (out.shape[1], out.shape[0])).astype(np.int64)
    window = out[top:bottom, left:right]
    crossed = np.zeros((window.shape[0], window.shape[1] + 1), np.uint8)
    for ring in rings:
        start = ring - (left, top)
        stop = np.roll(start, -1, axis=0)
        # Rows whose centre the side passes; each end counts for one of the two sides that meet there.
        ends = np.ceil(np.stack([start[:, 1], stop[:, 1]]) - 0.5).clip(0, len(window)).astype(np.int64)
        first, count = ends.min(axis=0), np.ptp(ends, axis=0)
        side = np.repeat(np.arange(len(ring)), count)
        row = np.arange(len(side)) - np.repeat(np.cumsum(count) - count, count) + first[side]
        along = (row + 0.5 - start[side, 1]) / (stop[side, 1] - start[side, 1])
        x = start[side, 0] + along * (stop[side, 0] - start[side, 0])
        column = np.ceil(x - 0.5).clip(0, window.shape[1]).astype(np.int64)
        np.bitwise_xor.at(crossed, (row, column), 1)
    window |= np.bitwise_xor.accumulate(crossed, axis=1)[:, :-1].astype(np.bool_)


def _rings(mask: NDArray[np.bool_], labels: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Label of the component and corners of every ring. Args: mask: with an empty frame of one cell."""
    starts, turns, owners = _edges(mask, labels)
    following, corner = _linked(starts, turns, mask.shape[1] + 1)
    stride = mask.shape[1] + 1
    place, successor, is_corner = starts.tolist(), following.tolist(), corner.tolist()
    seen = bytearray(len(place))
    for first in np.flatnonzero(corner).tolist():
        if seen[first]:
            continue
        path: list[int] = []
        at: dict[int, int] = {}
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            if is_corner[edge]:
                vertex = place[edge]
                if vertex in at:  # a corner passed before: what lies between is a ring of its own
                    yield int(owners[first]), _points(path[at[vertex] :], stride)
                    for gone in path[at[vertex] :]:
                        del at[gone]
                    del path[len(at) :]
                at[vertex] = len(path)
                path.append(vertex)
            edge = successor[edge]
        yield int(owners[first]), _points(path, stride)


def _edges(
    mask: NDArray[np.bool_], labels: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Every edge between a cell and what is none: the vertex it starts at, its direction, and its cell's label."""
    stride = mask.shape[1] + 1
    starts, turns, owners = [], [], []
    # Of each direction: the neighbour that the cell must lack, and the cell's corner that the edge starts at.
    for turn, (over, corner) in enumerate((((-1, 0), (0, 0)), ((0, 1), (0, 1)), ((1, 0), (1, 1)), ((0, -1), (1, 0)))):
        rows, columns = np.nonzero(mask & ~np.roll(mask, (-over[0], -over[1]), (0, 1)))
        starts.append((rows + corner[0]) * stride + columns + corner[1])
        turns.append(np.full(len(rows), turn))
        owners.append(labels[rows, columns])
    return np.concatenate(starts), np.concatenate(turns), np.concatenate(owners)


def _linked(
    starts: NDArray[np.int64], turns: NDArray[np.int64], stride: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The edge that follows each, and which edges start at a corner."""
    order = np.argsort(starts * 4 + turns)
    keys = (starts * 4 + turns)[order]
    ends = starts + np.array([x + y * stride for x, y in STEPS])[turns]
    following = np.full(len(starts), -1)
    # Around its own cell first: cells that only meet at a corner are not connected.
    for bend in (1, 0, 3):
        wanted = ends * 4 + (turns + bend) % 4
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = (keys[found] == wanted) & (following < 0)
        following[hit] = order[found[hit]]
    corner = np.empty(len(starts), np.bool_)
    corner[following] = turns[following] != turns
    return following, corner


def _points(path: list[int], stride: int) -> NDArray[np.float64]:
    rows, columns = np.divmod(np.asarray(path), stride)
    return np.stack([columns, rows], axis=1).astype(np.float64)


def _area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)
