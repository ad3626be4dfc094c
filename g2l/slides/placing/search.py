"""Looks for a place for a patch: by chance on the lattice of tiles, then on any whole pixel, at last in a list."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.slides.cohort import Cohort
from g2l.slides.coverage import coverage, places
from g2l.slides.placing.lattice import Lattice, lattice
from g2l.slides.placing.philox import Streams
from g2l.slides.pyramid import NATIVE_TOLERANCE

AT_ONCE = 384  # candidates of one round, over all patches that still lack a place: 256 and 512 were slower
MOST = 64  # and of one patch
TRIES = 512  # candidates of one patch on one lattice
CHECKS = 64  # candidates after which all places of a doubtful slide are listed
REMEMBERED = 4  # lists kept
CHECK = 3  # use of the random numbers of these checks

Corners = NDArray[np.float64]
Propose = Callable[[NDArray[np.int64], NDArray[np.float64]], tuple[Corners, NDArray[np.bool_]]]


def first_that(streams: Streams, block: int, tries: int, propose: Propose) -> tuple[Corners, NDArray[np.int64]]:
    """Of each stream the first candidate that qualifies; how many are looked at in one go changes nothing.

    Args:
        streams: n of them.
        block, tries: candidate c is made of block `block` + c of its stream; c < tries.
        propose: rows (k,) and their numbers (k, w, 4) -> corners (k, w, 2) in um, and (k, w) whether they qualify.
    Returns:
        (n, 2) corners in um, nan where there is none; the rows for which none was found.
    """
    rows = np.arange(len(streams.index))
    found = np.full((len(rows), 2), np.nan)
    done = 0
    while len(rows) and done < tries:
        width = min(max(2, min(AT_ONCE // len(rows), MOST)), tries - done)
        random = streams.rows(rows).uniforms(np.arange(block + done, block + done + width))
        corners, good = propose(rows, random)
        hit, which = good.any(axis=1), good.argmax(axis=1)
        found[rows[hit]] = corners[hit, which[hit]]
        rows = rows[~hit]
        done += width
    return found, rows


class Ground(NamedTuple):
    """The tissue of a cohort, for patches of `size` px of which the share `least` is tissue."""

    cohort: Cohort
    size: int
    least: float

    def lattice(self, slides: NDArray[np.int64], mpp: NDArray[np.float64], tiles: bool) -> Lattice:
        """Where patches on slides (n,) at mpp (n,) can lie: see `placing.lattice`."""
        return lattice(self.cohort.geometry, slides, mpp, self.size, self.least, tiles)

    def qualify(self, slides: NDArray[np.int64], mpp: NDArray[np.float64], corners: Corners) -> NDArray[np.bool_]:
        """Whether patches on slides (n,) at mpp (n,) with corners (n, w, 2) in um hold enough tissue: (n, w)."""
        width, geometry = corners.shape[1], self.cohort.geometry
        cell = geometry.mask_mpp[slides]
        squares = (corners / cell[:, None, None]).reshape(-1, 2)
        shapes, extents = geometry.mask_shape[slides], self.size * mpp / cell
        share = coverage(self.cohort.mask_bytes, shapes.repeat(width, axis=0), squares, extents.repeat(width))
        return share.reshape(-1, width) >= self.least


class Search:
    """Finds places, uniformly among all that qualify.

    Args:
        ground: where.
        tiles: inside the fewest tiles; else, and where there is no such place, on any whole px.
    """

    def __init__(self, ground: Ground, tiles: bool) -> None:
        self.ground, self.tiles = ground, tiles
        self._listed: dict[tuple[int, float], Corners] = {}

    def places(
        self, slides: NDArray[np.int64], mpp: NDArray[np.float64], streams: Streams, spare: NDArray[np.float64]
    ) -> Corners:
        """Corners (n, 2) in um of patches on slides (n,) at mpp (n,), each made of its stream's blocks from 1 on.

        Args:
            slides: with a place, as `exist` says.
            spare: (n,) in [0, 1), chooses from the list where chance finds nothing.
        """
        found, left = self._by_chance(slides, mpp, streams, 1, TRIES, self.tiles)
        if len(left) and self.tiles:
            anywhere, lacking = self._by_chance(slides[left], mpp[left], streams.rows(left), 1 + TRIES, TRIES, False)
            found[left], left = anywhere, left[lacking]
        for row in left.tolist():
            options = self._all(int(slides[row]), float(mpp[row]))
            found[row] = options[int(spare[row] * len(options))]
        return found

    def exist(self, slides: NDArray[np.int64], mpp: float) -> NDArray[np.bool_]:
        """Which slides (n,) have any place at `mpp`; those in doubt are searched, and listed where that finds none."""
        geometry, extent = self.ground.cohort.geometry, self.ground.size * mpp
        mpps = np.full(len(slides), mpp)
        grid = self.ground.lattice(slides, mpps, False)
        enough = geometry.tissue_mm2[slides] * 1e6 >= self.ground.least * extent**2 - 1
        possible = np.all(grid.low <= grid.high, axis=1) & enough
        # The largest square of tissue may stick out of the slide by less than a cell; the level read be 2 % coarser.
        sure = geometry.room_um[slides] >= extent * (1 + NATIVE_TOLERANCE) + geometry.mask_mpp[slides]
        doubtful = np.flatnonzero(possible & ~sure)
        checked = slides[doubtful]
        streams = Streams(0, checked, np.zeros_like(checked), CHECK)
        _, left = self._by_chance(checked, mpps[doubtful], streams, 0, CHECKS, False)
        for row in doubtful[left].tolist():
            possible[row] = len(self._all(int(slides[row]), mpp)) > 0
        return possible

    def _by_chance(
        self,
        slides: NDArray[np.int64],
        mpp: NDArray[np.float64],
        streams: Streams,
        block: int,
        tries: int,
        tiles: bool,
    ) -> tuple[Corners, NDArray[np.int64]]:
        ground = self.ground
        grid = ground.lattice(slides, mpp, tiles)

        def propose(rows: NDArray[np.int64], random: NDArray[np.float64]) -> tuple[Corners, NDArray[np.bool_]]:
            corners, inside = grid.rows(rows).corners(random)
            return corners, inside & ground.qualify(slides[rows], mpp[rows], corners)

        return first_that(streams, block, tries, propose)

    def _all(self, slide: int, mpp: float) -> Corners:
        """Places (N, 2) on a fine grid, in um; the last few slides' are remembered."""
        found = self._listed.get((slide, mpp))
        if found is None:
            cohort, size, least = self.ground
            grid, cell = self.ground.lattice(np.array([slide]), np.array([mpp]), False), cohort.mask_mpp(slide)
            window = np.concatenate([grid.low[0], grid.high[0]]) / cell
            found = places(cohort.bits(slide), window, size * mpp / cell, least) * cell
            while len(self._listed) >= REMEMBERED:
                self._listed.pop(next(iter(self._listed)), None)
            self._listed[slide, mpp] = found
        return found
