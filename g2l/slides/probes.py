"""Do two readers show the same pixels at the same place?"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from g2l.errors import SlideError
from g2l.slides.reader import OpenSlideReader, Reader

PROBE = 160  # px, across a corner where four tiles meet
PLACES = 12  # looked at for structure on each level
MOST_PIXELS = 1 << 24  # of a level that is searched whole for structure
STRUCTURE = 4.0  # standard deviation in grey levels below which a place shows neither wrong colours nor shifts


def difference(
    reader: Reader, reference: OpenSlideReader, plane: int, shown: Sequence[tuple[float, float]] = ()
) -> float | None:
    """Mean difference in grey levels between two readers on the most structured places of a level; None when nothing
    there is structured.

    A shift counts as a difference: where the pixels agree better one pixel aside, the answer is infinite.

    Raises:
        SlideError: `reader` cannot read a place that the reference can.
    """
    found = None
    for x, y in _places(reader, plane, shown):
        ours = np.empty((PROBE + 3, PROBE + 3, 3), np.uint8)
        theirs = np.empty((PROBE, PROBE, 3), np.uint8)
        try:
            from_x, from_y = reference.read(plane, x, y, PROBE, PROBE, 1, theirs)
        except SlideError:
            continue  # damaged for everyone
        left, top = math.floor(from_x), math.floor(from_y)
        reader.read(plane, left - 1, top - 1, PROBE + 3, PROBE + 3, 1, ours)
        shares = from_x - left, from_y - top
        errors = np.array([[_error(ours[1 + j :, 1 + i :], theirs, *shares) for i in (-1, 0, 1)] for j in (-1, 0, 1)])
        here = float(errors[1, 1]) if errors.argmin() == 4 else math.inf
        found = max(found or 0.0, here)
    return found


def _error(ours: NDArray[np.uint8], theirs: NDArray[np.uint8], share_x: float, share_y: float) -> float:
    """Mean difference after moving ours by a share of a pixel, as OpenSlide does where it meets no whole pixel."""
    height, width = theirs.shape[:2]
    block = ours[: height + 1, : width + 1].astype(np.float32)
    block = block[:, :-1] * (1 - share_x) + block[:, 1:] * share_x
    block = block[:-1] * (1 - share_y) + block[1:] * share_y
    return float(np.abs(block - theirs).mean())


def structured(reader: Reader) -> list[tuple[float, float]]:
    """Where a slide shows most, as shares of its width and height: looked for on the coarsest level, unless that is
    too large to be read whole.
    """
    plane = len(reader.planes) - 1
    width, height = reader.planes[plane][:2]
    if width * height > MOST_PIXELS:
        return []
    whole = np.empty((height, width, 3), np.uint8)
    try:
        reader.read(plane, 0, 0, width, height, 1, whole)
    except SlideError:
        return []
    side = max(8, min(width, height) // 40)
    rows, columns = height // side, width // side
    blocks = whole[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    spread = blocks.astype(np.float32).std(axis=(1, 3)).max(axis=2)
    best = np.argsort(spread, axis=None)[::-1][:PLACES]
    return [((k % columns + 0.5) * side / width, (k // columns + 0.5) * side / height) for k in best.tolist()]


def _places(reader: Reader, plane: int, shown: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """The two most structured corners of tiles on a level, and the level's far corner if it shows anything.

    Args:
        shown: from `structured`; these are tried beside a grid of corners.
    """
    stored = reader.planes[plane]
    half = PROBE // 2
    columns, rows = max(1, stored.width // stored.tile_w), max(1, stored.height // stored.tile_h)
    shape = max(1, round(math.sqrt(PLACES * columns / rows))), max(1, round(math.sqrt(PLACES * rows / columns)))
    chosen = {
        (1 + (2 * i + 1) * columns // (2 * shape[0]), 1 + (2 * j + 1) * rows // (2 * shape[1]))
        for i in range(shape[0])
        for j in range(shape[1])
    }
    spots = [(column * stored.tile_w - half, row * stored.tile_h - half) for column, row in sorted(chosen)]
    most_x, most_y = stored.width - PROBE, stored.height - PROBE
    if min(most_x, most_y) > PROBE:  # on smaller levels the corners show all there is
        spots += [
            (min(max(0, round(x * stored.width) - half), most_x), min(max(0, round(y * stored.height) - half), most_y))
            for x, y in shown
        ]
    far = stored.width - PROBE + 20, stored.height - PROBE + 20
    rated = sorted(((_structure(reader, plane, x, y), (x, y)) for x, y in spots), reverse=True)[:2]
    rated.append((_structure(reader, plane, *far), far))
    return [place for structure, place in rated if structure >= STRUCTURE]


def _structure(reader: Reader, plane: int, x: int, y: int) -> float:
    pixels = np.empty((PROBE, PROBE, 3), np.uint8)
    try:
        reader.read(plane, x, y, PROBE, PROBE, 1, pixels)
    except SlideError:
        return math.inf  # to be looked at before all others: can the reference read it?
    inside = pixels[max(0, -y) : reader.planes[plane].height - y, max(0, -x) : reader.planes[plane].width - x]
    return float(inside.reshape(-1, 3).std(axis=0).max()) if inside.size else 0.0
