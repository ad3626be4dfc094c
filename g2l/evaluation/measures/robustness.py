"""Do neighbours in embedding space share the tissue or the hospital: PathoROB's robustness index, de Jong's ratio."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from g2l.errors import G2LError
from g2l.evaluation.measures.neighbours import as_features, as_labels, nearest, unit_rows


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


def robustness(x: ArrayLike, biology: ArrayLike, centre: ArrayLike, slide: ArrayLike, k: int = 20) -> Robustness:
    """Count the k nearest neighbours of every embedding by biology and centre.

    Rows are L2-normalised, neighbours ordered by Euclidean distance, everything from the query's own slide is left out,
    and all lists are as long as the shortest. The answer is meaningful only where biology and centre are balanced over
    the rows: the index of a cohort whose centres send different tissues says little.

    Args:
        x: (N, D) embeddings.
        biology, centre, slide: (N,) labels; a slide's name must be its own, not one that two centres use.
        k: neighbours per query.
    Returns:
        The counts, with `index`, `ratio` and `support`; k = 0 and undefined when some query has no other slide.
    Raises:
        G2LError: k below 1, shapes that do not fit, values that are not finite, a slide in two centres.
    Source: Koemen et al. 2025 (PathoROB) for index and support, de Jong et al. 2025 for the ratio.
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
    counts, supported = np.zeros(4, dtype=np.int64), 0
    if k > 0:
        unit = unit_rows(rows)
        for block, _, mask in nearest(unit, unit, k, (slides, slides)):
            query, neighbour = np.nonzero(mask)
            query = query + block.start
            other_tissue = tissues[query] != tissues[neighbour]
            other_place = places[query] != places[neighbour]
            counts += np.bincount(2 * other_tissue + other_place, minlength=4)
            supported += len(np.unique(query[other_tissue != other_place]))
    ss, so, os, oo = counts.tolist()
    return Robustness(ss, so, os, oo, k, n, supported / n)
