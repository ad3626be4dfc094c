"""Patch i of a run is a pure function of (seed, i): it depends on no worker, rank or earlier patch."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.slides.cohort import Cohort
from g2l.slides.coverage import coverage, places

CANDIDATES = 8  # places drawn at once: 4 and 16 were slower
MAX_ROUNDS = 64  # rounds before the few valid places of a difficult slide are listed instead of searched by chance
REMEMBERED = 4  # such lists kept


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


class Patch(NamedTuple):
    """Where patch `index` lies: top-left corner (x, y) in um on the cohort's slide `slide`, `size` px at `mpp`."""

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple.index; nobody searches a patch
    slide: int
    x: float
    y: float
    mpp: float
    size: int


class Sampler:
    """Draws patches uniformly from all places of a slide that lie inside it and hold enough tissue.

    Args:
        cohort: an indexed cohort.
        slides: the rows of the cohort to draw from.
        seed: of the run.
        size, mpp: side of a patch in px, and um per px.
        weighting: every slide as often as any other ("uniform") or as its tissue area says ("area").
        min_tissue: share of the patch that must be tissue, in [0, 1].
    Raises:
        CohortError: no slides, or slides on which no place qualifies (all are named).
    """

    def __init__(
        self,
        cohort: Cohort,
        slides: Sequence[int],
        seed: int,
        size: int,
        mpp: float,
        weighting: Literal["uniform", "area"] = "uniform",
        min_tissue: float = 0.5,
    ) -> None:
        if size < 1 or mpp <= 0 or not 0 <= min_tissue <= 1:
            raise CohortError(
                f"no patches of size {size} px at {mpp} um/px with min_tissue {min_tissue}: size and mpp must be "
                "positive, min_tissue within 0-1"
            )
        if weighting not in ("uniform", "area"):
            raise CohortError(f"unknown weighting {weighting!r}; use 'uniform' or 'area'")
        self.cohort, self.seed, self.size, self.mpp, self.min_tissue = cohort, seed, size, mpp, min_tissue
        self.slides = np.asarray(slides, dtype=np.int64)
        self._extent = size * mpp
        if not len(self.slides):
            raise CohortError(f"cohort {cohort.folder}: no slides to draw patches from; check the split")
        self._geometry = cohort.geometry
        self._listed: dict[int, NDArray[np.float64]] = {}
        self._refuse_slides_without_place()
        self._edges: NDArray[np.float64] | None = None
        if weighting == "area":
            area = np.cumsum(self._geometry.tissue_mm2[self.slides])
            self._edges = area / area[-1]

    def patch(self, i: int) -> Patch:
        """Patch number `i` (0 <= i < 2^64) of this run."""
        random = generator(self.seed, i)
        draw = random.random()
        if self._edges is None:
            row = min(int(draw * len(self.slides)), len(self.slides) - 1)
        else:
            row = min(int(np.searchsorted(self._edges, draw, side="right")), len(self.slides) - 1)
        slide = int(self.slides[row])
        x, y = self._place(slide, random)
        return Patch(i, slide, x, y, self.mpp, self.size)

    def _window(self, slide: int) -> tuple[float, float, float, float]:
        """First value and span (um) in x and y of the corners that can qualify at all.

        A patch of which the share q is tissue overlaps the tissue's bounding box by at least q of its side.
        """
        g, inside = self._geometry, self._extent * self.min_tissue
        outside, cell = self._extent - inside, float(g.mask_mpp[slide])
        (x0, y0, x1, y1), (width, height) = (g.box[slide] * cell).tolist(), g.size_um[slide].tolist()
        left, top = max(0.0, x0 - outside), max(0.0, y0 - outside)
        right, bottom = min(width - self._extent, x1 - inside), min(height - self._extent, y1 - inside)
        return left, top, right - left, bottom - top

    def _place(self, slide: int, random: np.random.Generator) -> tuple[float, float]:
        found = self._place_by_chance(slide, random)
        if found is not None:
            return found
        # Tissue so thin that chance hardly hits it: one of the qualifying corners of a fine grid.
        options = self._qualifying(slide)
        x, y = options[int(random.integers(len(options)))].tolist()
        return x, y

    def _place_by_chance(self, slide: int, random: np.random.Generator) -> tuple[float, float] | None:
        left, top, span_x, span_y = self._window(slide)
        if span_x < 0 or span_y < 0:
            return None
        bits, cell = self.cohort.bits(slide), float(self._geometry.mask_mpp[slide])
        first, span, extent = np.array([left, top]) / cell, np.array([span_x, span_y]) / cell, self._extent / cell
        for _ in range(MAX_ROUNDS):
            corners = first + random.random((CANDIDATES, 2)) * span
            good = coverage(bits, corners, extent) >= self.min_tissue
            chosen = int(good.argmax())
            if good[chosen]:
                x, y = (corners[chosen] * cell).tolist()
                return min(x, left + span_x), min(y, top + span_y)
        return None

    def _qualifying(self, slide: int) -> NDArray[np.float64]:
        """(N, 2) qualifying corners in um on a grid of half a mask cell; the last few slides' are remembered."""
        if slide not in self._listed:
            cell = float(self._geometry.mask_mpp[slide])
            window = np.array(self._window(slide)) / cell
            found = places(self.cohort.bits(slide), window, self._extent / cell, self.min_tissue) * cell
            while len(self._listed) >= REMEMBERED:
                self._listed.pop(next(iter(self._listed)), None)
            self._listed[slide] = found
        return self._listed[slide]

    def _refuse_slides_without_place(self) -> None:
        g = self._geometry
        too_small = (g.size_um[self.slides] < self._extent).any(axis=1)
        # The index knows each slide's largest all-tissue square: where a patch fits into it there is nothing to check.
        doubtful = self.slides[~too_small & (g.room_um[self.slides] < self._extent)].tolist()
        bad = self.slides[too_small].tolist() + [s for s in doubtful if not self._has_place(s)]
        if bad:
            names = ", ".join(self.cohort[s].name for s in bad[:10]) + (
                f" and {len(bad) - 10} more" if bad[10:] else ""
            )
            raise CohortError(
                f"cohort {self.cohort.folder}: no place for patches of {self.size} px at {self.mpp:g} um/px with "
                f"{self.min_tissue:.0%} tissue on {names}; leave these slides out, or lower size, mpp or min_tissue"
            )

    def _has_place(self, slide: int) -> bool:
        return self._place_by_chance(slide, generator(0, slide)) is not None or len(self._qualifying(slide)) > 0
