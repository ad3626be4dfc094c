"""Do neighbours in embedding space share the tissue or the hospital: PathoROB's robustness index, de Jong's ratio.

Letter: N rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import G2LError
from g2l.evaluation.measures.neighbours import Directions, Report, as_features, as_labels, nearest

# pairs by biology Same/Other (first letter) and centre Same/Other (second letter)
KINDS = ("ss", "so", "os", "oo")


@dataclass(frozen=True)
class Robustness:
    """Pairs (query, neighbour) by biology Same/Other (first letter) and centre Same/Other (second letter).

    Attributes:
        ss, so, os, oo: numbers of pairs; their sum is k x queries.
        k: neighbours per query that were counted: the asked k, or the fewest any query has outside its own slide.
        queries: number of embeddings.
        support: share of queries with at least one neighbour in SO or OS, which are the only ones the index hears.
    """

    ss: int
    so: int
    os: int
    oo: int
    k: int
    queries: int
    support: float

    @property
    def index(self) -> float:
        """SO / (SO + OS) in [0, 1]; nan (undefined, not 0) without any such pair. Report `support` beside it."""
        return self.so / (self.so + self.os) if self.so + self.os else math.nan

    @property
    def ratio(self) -> float:
        """(SS + SO) / (SS + OS), above 1 where biology binds more than the centre; nan where 0 / 0, inf where x / 0."""
        biology, centre = self.ss + self.so, self.ss + self.os
        return biology / centre if centre else (math.inf if biology else math.nan)


def neighbour_kinds(
    x: ArrayLike,
    biology: ArrayLike,
    centre: ArrayLike,
    slide: ArrayLike,
    k: int = 20,
    report: Report | None = None,
) -> NDArray[np.int64]:
    """How many of the k nearest neighbours of every embedding are SS, SO, OS and OO.

    Rows are L2-normalised, neighbours ordered by Euclidean distance, everything from the query's own slide is left out,
    and all lists are as long as the shortest. The answer is meaningful only where biology and centre are balanced over
    the rows: the index of a cohort whose centres send different tissues says little.

    Args:
        x: (N, D) embeddings.
        biology, centre, slide: (N,) labels; a slide's name must be its own, not one that two centres use.
        k: neighbours per query.
    Returns:
        (N, 4) counts in the order of `KINDS`; zeros when some query has no other slide.
    Raises:
        G2LError: k below 1, shapes that do not fit, values that are not finite, a slide in two centres.
    Source: Koemen et al. 2025 (PathoROB).
    """
    rows = as_features(x)
    n = len(rows)
    if k < 1:
        raise G2LError(f"k is {k}; the robustness index needs at least one neighbour")
    tissues, places, slides = (
        np.unique(as_labels(values, n, name), return_inverse=True)[1]
        for values, name in ((biology, "biology labels"), (centre, "centre labels"), (slide, "slide labels"))
    )
    if len(np.unique(np.stack([slides, places]), axis=1).T) > slides.max() + 1:
        raise G2LError("a slide name occurs in two centres; make slide names unique, for instance centre/slide")
    k = min(k, n - int(np.bincount(slides).max()))
    counts = np.zeros((n, 4), dtype=np.int64)
    if k < 1:
        return counts
    directions = Directions.of(rows)
    for block in nearest(directions, directions, k, (slides, slides), report):
        query = np.arange(block.queries.start, block.queries.stop)[:, None]
        kind = 2 * (tissues[query] != tissues[block.neighbours]) + (places[query] != places[block.neighbours])
        for number in range(4):
            counts[block.queries, number] = (kind == number).sum(axis=1)
    return counts


def counted(counts: NDArray[np.int64]) -> Robustness:
    """The sums of `neighbour_kinds` over queries (N, 4), N at least 1."""
    ss, so, os, oo = counts.sum(axis=0).tolist()
    support = float((counts[:, 1] + counts[:, 2] > 0).mean())
    return Robustness(ss, so, os, oo, int(counts[0].sum()), len(counts), support)


def robustness(x: ArrayLike, biology: ArrayLike, centre: ArrayLike, slide: ArrayLike, k: int = 20) -> Robustness:
    """`neighbour_kinds`, summed: counts with `index`, `ratio` and `support`; k = 0 and undefined when some query has no
    other slide.

    Source: Koemen et al. 2025 (PathoROB) for index and support, de Jong et al. 2025 for the ratio.
    """
    return counted(neighbour_kinds(x, biology, centre, slide, k))


def measure_robustness(predictions: Mapping[str, NDArray]) -> dict[str, float]:
    """Index, its support and the ratio from the columns ss, so, os, oo: neighbours of each query by kind.

    Drawn again by patient, queries are drawn and their neighbours stay those of the whole: a copy of a patch must not
    become its own neighbour.
    """
    found = counted(np.stack([np.asarray(predictions[kind], np.int64) for kind in KINDS], axis=1))
    return {"robustness index": found.index, "support": found.support, "ratio": found.ratio}
