"""Several patches from one visit to a slide: they lie in one block, which is read once.

The patches of a visit do not follow each other, but lie `window` numbers apart: a batch holds many slides all the same.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.slides.placing.lattice import HAIR
from g2l.slides.placing.philox import Streams
from g2l.slides.placing.search import Ground, first_that

MEMBER_TRIES = 64  # candidates of a patch inside its block


class Visits(NamedTuple):
    """Which patches belong together: `members` patches of each of `window` visits, then the next windowful.

    Windows of window * members numbers; in each, number p is member p // window of visit p % window.
    """

    members: int
    window: int

    def of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The visits of these patches."""
        return numbers // (self.window * self.members) * self.window + numbers % self.window


class Block(NamedTuple):
    """The region of a visit: corner (x, y) in um on the cohort's slide `slide`, `size` px at `mpp`.

    Every patch of the visit lies at whole px of it; at the right and at the bottom it may reach beyond a small slide.
    """

    slide: int
    x: float
    y: float
    mpp: float
    size: int


class Blocks(NamedTuple):
    """Blocks as columns: slide, mpp, size (n,); corner (n, 2) in um; low, high (n, 2): where patches can lie, in um."""

    slide: NDArray[np.int64]
    mpp: NDArray[np.float64]
    size: NDArray[np.int64]
    corner: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def block(self, k: int) -> Block:
        """Row k."""
        x, y = self.corner[k].tolist()
        return Block(int(self.slide[k]), x, y, float(self.mpp[k]), int(self.size[k]))


def around(
    ground: Ground,
    tiles: bool,
    slide: NDArray[np.int64],
    mpp: NDArray[np.float64],
    corner: NDArray[np.float64],
    random: NDArray[np.float64],
) -> Blocks:
    """Blocks around patches with corners (n, 2) in um.

    A block is the fewest tiles that hold twice what a patch needs: 2 x 2 where a patch is little smaller than a tile.
    Where tiles are not known it is a square of twice the patch's side.

    Args:
        random: (n, 2) in [0, 1), which of the blocks that hold the patch; it is moved into the slide where that is
            large enough.
    """
    grid = ground.lattice(slide, mpp, tiles)
    many = np.ceil(2 * grid.need / grid.tile)
    own = np.floor((corner / grid.step - grid.before + HAIR) / grid.tile)
    spare = many - np.ceil(grid.need / grid.tile)  # tiles of the block that the patch leaves free
    last = np.floor((ground.cohort.geometry.size_um[slide] + HAIR) / (grid.step * grid.tile)) - many
    tile = np.minimum(own - np.floor(random * (spare + 1)), last).clip(0.0)
    size = np.floor((many * grid.tile - 2 * grid.before) / grid.scale).min(axis=1).astype(np.int64)
    return Blocks(slide, mpp, size, (tile * grid.tile + grid.before) * grid.step, grid.low, grid.high)


def inside(ground: Ground, blocks: Blocks, streams: Streams) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A patch in each block, uniformly among its whole px where enough is tissue.

    Returns:
        Corners (n, 2) in um (nan where none was found), and the rows without.
    """

    def propose(rows: NDArray[np.int64], random: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        free = (blocks.size[rows] - ground.size + 1)[:, None, None]
        px = np.floor(random[..., :2] * free)
        corners = blocks.corner[rows, None] + px * blocks.mpp[rows, None, None]
        good = (corners >= blocks.low[rows, None] - HAIR) & (corners <= blocks.high[rows, None] + HAIR)
        return corners, np.all(good, axis=2) & ground.qualify(blocks.slide[rows], blocks.mpp[rows], corners)

    return first_that(streams, 0, MEMBER_TRIES, propose)
