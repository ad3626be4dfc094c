"""Patch i of a run is a pure function of (seed, i): it depends on no worker, rank, batch or earlier patch."""

from collections.abc import Sequence
from math import inf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.slides.cohort import Cohort
from g2l.slides.placing.patches import Patch, Patches
from g2l.slides.placing.philox import Streams
from g2l.slides.placing.search import Ground, Search
from g2l.slides.placing.shares import Weighting, edges, leave_out, slide_weights
from g2l.slides.placing.visits import Block, Blocks, Visits, around, inside

AT_ONCE = 8192  # patches drawn in one go: their candidates stay in the cache
OWN, VISIT, MEMBER = 0, 1, 2  # uses of random numbers


def generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """A random generator that belongs to (seed, stream, index) alone.

    Counter-based Philox4x64-10: (seed, stream) is the key and `index` the second word of the 256-bit counter, whose
    first word counts the draws; two indices share a number only after 2^64 blocks of draws.

    Args:
        seed, index, stream: each in [0, 2^64). Stream 0 places patches; give every other use a stream of its own.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; numpy's Philox.
    """
    key = np.array([seed, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=np.array([0, index, 0, 0], dtype=np.uint64), key=key))


class Sampler:
    """Draws patches uniformly from the places of a slide that lie inside it and hold enough tissue.

    Args:
        cohort: an indexed cohort.
        slides: the rows of the cohort to draw from.
        seed: of the run.
        size, mpp: side of a patch in px, and um per px; several resolutions are drawn as mpp_weights says.
        mpp_weights: of each resolution; equal ones by default.
        placing: inside the fewest tiles that can hold a patch, at a random offset ("tile": several times faster to
            read), or at any whole px ("random"). A slide whose tiles are not known, or which has no place that keeps to
            them, is placed on at random.
        weighting: every slide as often as any other ("uniform") or as its tissue area says ("area").
        balance: a column of the cohort whose values are drawn equally often; `weighting` holds among a value's slides.
        min_tissue: share of the patch that must be tissue, in [0, 1].
        patches_per_visit: above 1, so many patches lie in one block of a slide, which can be read once.
        shuffle_visits: so many visits are mixed: the patches of one lie as many numbers apart.
    Attributes:
        mpps: the resolutions.
        left_out: slides that are not drawn, as they have no place for a patch: number in the cohort -> at which mpp.
    Raises:
        CohortError: no slides, none with a place for a patch at some mpp, or some without a value of `balance`.
    """

    def __init__(
        self,
        cohort: Cohort,
        slides: Sequence[int],
        seed: int,
        size: int,
        mpp: float | Sequence[float],
        *,
        mpp_weights: Sequence[float] | None = None,
        placing: Literal["tile", "random"] = "tile",
        weighting: Weighting = "uniform",
        balance: str | None = None,
        min_tissue: float = 0.5,
        patches_per_visit: int = 1,
        shuffle_visits: int = 256,
    ) -> None:
        self.mpps: tuple[float, ...] = tuple(np.atleast_1d(np.asarray(mpp, np.float64)).tolist())
        mixture = np.array([1.0] * len(self.mpps) if mpp_weights is None else mpp_weights, np.float64)
        _check(size, self.mpps, mixture, min_tissue, placing, weighting, patches_per_visit, shuffle_visits)
        self.cohort, self.seed, self.size, self.min_tissue = cohort, seed, size, min_tissue
        self.slides = np.asarray(slides, dtype=np.int64)
        if not len(self.slides):
            raise CohortError(f"cohort {cohort.folder}: no slides to draw patches from; check the split")
        self._ground = Ground(cohort, size, min_tissue)
        self._search = Search(self._ground, placing == "tile")
        self._visits = Visits(patches_per_visit, shuffle_visits)
        kept = np.stack([self._search.exist(self.slides, one) for one in self.mpps])
        wanted = f"patches of {size} px with {min_tissue:.0%} tissue"
        self.left_out = leave_out(cohort, self.slides, self.mpps, kept, wanted)
        weights, groups = slide_weights(cohort, self.slides, weighting, balance)
        self._edges = edges(weights, groups, kept, mixture)

    def draw(self, numbers: NDArray[np.int64], attempts: NDArray[np.int64] | int = 0) -> Patches:
        """The patches of these numbers, each the same whichever others are drawn with it.

        Args:
            numbers: (n,), each from 0. attempts: (n,), or one for all.
        """
        numbers = np.array(numbers, np.int64)
        attempts = np.array(np.broadcast_to(attempts, numbers.shape), np.int64)
        slide, visit = np.empty(numbers.shape, np.int64), np.full(numbers.shape, -1)
        mpp, corner = np.empty(numbers.shape), np.empty((*numbers.shape, 2))
        for start in range(0, len(numbers), AT_ONCE):
            part = np.arange(start, min(start + AT_ONCE, len(numbers)))
            if self._visits.members > 1:
                first = part[attempts[part] == 0]
                visits = self._visits.of(numbers[first])
                blocks = self._blocks(visits)
                found, lacking = inside(self._ground, blocks, Streams(self.seed, numbers[first], visits * 0, MEMBER))
                slide[first], mpp[first], corner[first], visit[first] = blocks.slide, blocks.mpp, found, visits
                visit[first[lacking]] = -1
                part = part[visit[part] < 0]
            slide[part], mpp[part], corner[part], _ = self._alone(
                Streams(self.seed, numbers[part], attempts[part], OWN)
            )
        corner = corner.T.copy()
        return Patches(numbers, attempts, slide, corner[0], corner[1], mpp, visit, self.size)

    def patch(self, i: int, attempt: int = 0) -> Patch:
        """Patch number `i` (0 <= i < 2^63) of this run; `draw` is much faster for many."""
        return self.draw(np.array([i]), attempt).patch(0)

    def block(self, visit: int) -> Block:
        """The region that holds the patches of a visit; `blocks` is much faster for many."""
        return self.blocks(np.array([visit]))[0]

    def blocks(self, visits: NDArray[np.int64]) -> list[Block]:
        """The regions of visits (n,)."""
        found = self._blocks(np.asarray(visits, np.int64))
        return [found.block(k) for k in range(len(found.slide))]

    def _blocks(self, visits: NDArray[np.int64]) -> Blocks:
        slide, mpp, corner, spare = self._alone(Streams(self.seed, visits, np.zeros_like(visits), VISIT))
        return around(self._ground, self._search.tiles, slide, mpp, corner, spare)

    def _alone(
        self, streams: Streams
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Slide (n,), mpp (n,), corner (n, 2) in um, and two numbers that are not used yet (n, 2)."""
        random = streams.uniforms(np.zeros(1, np.int64))[:, 0]
        which, row = np.divmod(np.searchsorted(self._edges, random[:, 0], side="right"), len(self.slides))
        slide, mpp = self.slides[row], np.array(self.mpps)[which]
        return slide, mpp, self._search.places(slide, mpp, streams, random[:, 1]), random[:, 2:]


def _check(
    size: int,
    mpps: tuple[float, ...],
    mixture: NDArray[np.float64],
    min_tissue: float,
    placing: str,
    weighting: str,
    patches_per_visit: int,
    shuffle_visits: int,
) -> None:
    if size < 1 or not mpps or not all(0 < one < inf for one in mpps) or not 0 <= min_tissue <= 1:
        raise CohortError(
            f"no patches of size {size} px at {', '.join(map(str, mpps))} um/px with min_tissue {min_tissue}: size and "
            "mpp must be positive, min_tissue within 0-1"
        )
    if mixture.shape != (len(mpps),) or not np.isfinite(mixture).all() or (mixture <= 0).any():
        raise CohortError(
            f"mpp_weights {mixture.tolist()} do not fit mpp {', '.join(map(str, mpps))}; give each a positive weight"
        )
    for name, value, known in [("placing", placing, ("tile", "random")), ("weighting", weighting, ("uniform", "area"))]:
        if value not in known:
            raise CohortError(f"unknown {name} {value!r}; use {known[0]!r} or {known[1]!r}")
    if patches_per_visit < 1 or shuffle_visits < 1:
        raise CohortError(
            f"patches_per_visit {patches_per_visit} and shuffle_visits {shuffle_visits} must be at least 1"
        )
