"""Where crops lie and how they are turned, drawn on the host for all crops of a batch at once.

Letters: n crops (of B images, crop-major), H and W sides of the patches (px).
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from g2l.slides.placing.philox import uniforms

STREAM = 1  # of the run's random numbers; stream 0 places the patches
ATTEMPTS = 10  # boxes that may fail to fit before the centre is taken, as in torchvision

# Which block of four numbers of a crop is for what: one setting does not move another's numbers.
SYMMETRY, COLOUR, BOX = 0, 1, 8


class Numbers(NamedTuple):
    """Uniform random numbers of n crops, each a pure function of (seed, number of the patch, number of the crop).

    seed: of the run. index, crop: (n,) int64.
    """

    seed: int
    index: NDArray[np.int64]  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple.index; nobody searches this
    crop: NDArray[np.int64]

    @classmethod
    def of(cls, seed: int, index: NDArray[np.int64], crops: range) -> Self:
        """For all these crops of all these patches, crop-major."""
        return cls(seed, np.tile(index, len(crops)), np.repeat(np.asarray(crops), len(index)))

    def blocks(self, first: int, count: int = 1) -> NDArray[np.float64]:
        """(n, 4 count) in [0, 1)."""
        block = np.arange(first, first + count)
        return uniforms(self.seed, STREAM, block, self.index[:, None], self.crop[:, None]).reshape(-1, 4 * count)

    def rows(self, which: NDArray[np.int64]) -> Self:
        """Those of some crops."""
        return self._replace(index=self.index[which], crop=self.crop[which])


class Boxes(NamedTuple):
    """y, x: first row and column. height, width: px. All (n,) int64."""

    y: NDArray[np.int64]
    x: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]


def squares(numbers: Numbers, shape: tuple[int, int], size: int) -> Boxes:
    """Squares of `size` px at any place of patches of `shape` (H, W), all places equally likely."""
    room = np.array(shape) - size + 1
    y, x = (numbers.blocks(BOX)[:, 2:] * room).astype(np.int64).T
    return Boxes(y, x, np.full_like(y, size), np.full_like(y, size))


def random_boxes(
    numbers: Numbers, shape: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]
) -> Boxes:
    """Boxes of a random area and aspect at a random place: those of torchvision's RandomResizedCrop.

    Args:
        shape: H, W.
        scale: least and largest area, as a share of H W; uniform.
        aspect: least and largest width / height; its logarithm is uniform.
    A box that does not fit is drawn again, at most ten times; then it is as much of the centre as the aspect allows.
    """
    height, width = shape
    high, wide = min(height, round(width / aspect[0])), min(width, round(height * aspect[1]))
    centre = np.array([(height - high) // 2, (width - wide) // 2, high, wide])
    boxes = np.tile(centre[:, None], len(numbers.index))  # (4, n)
    left = np.arange(len(numbers.index))
    for attempt in range(ATTEMPTS):
        if not len(left):
            break
        random = numbers.rows(left).blocks(BOX + attempt)
        area = height * width * (scale[0] + (scale[1] - scale[0]) * random[:, 0])
        ratio = aspect[0] * (aspect[1] / aspect[0]) ** random[:, 1]
        high = np.rint(np.sqrt(area / ratio)).astype(np.int64).clip(1)
        wide = np.rint(np.sqrt(area * ratio)).astype(np.int64).clip(1)
        fits = (high <= height) & (wide <= width)
        y = (random[:, 2] * (height - high + 1)).astype(np.int64)
        x = (random[:, 3] * (width - wide + 1)).astype(np.int64)
        boxes[:, left[fits]] = np.stack([y, x, high, wide])[:, fits]
        left = left[~fits]
    return Boxes(*boxes)


def symmetries(numbers: Numbers, flip_y: float, flip_x: float, quarter_turns: bool) -> NDArray[np.int64]:
    """Random symmetries of the square, (n,) of 0 to 7.

    Bit 0 transposes the result, bit 1 mirrors the source's rows (up-down), bit 2 its columns (left-right); 0 is the
    identity.

    Args:
        flip_y, flip_x: probabilities of mirroring up-down and left-right.
        quarter_turns: turn by 0, 90, 180 or 270 degrees before.
    """
    random = numbers.blocks(SYMMETRY)
    turns = (4 * random[:, 0]).astype(np.int64) * quarter_turns
    # k quarter turns are a transposition for odd k, and mirrored rows and columns as the two tables say
    rows = np.array([0, 0, 1, 1])[turns] ^ (random[:, 1] < flip_y)
    columns = np.array([0, 1, 1, 0])[turns] ^ (random[:, 2] < flip_x)
    return turns % 2 + 2 * rows + 4 * columns
