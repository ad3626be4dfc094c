"""Do neighbours in embedding space share the tissue or the hospital: PathoROB's robustness index, de Jong's ratio.

Letter: N rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import G2LError
from g2l.evaluation.measures.neighbours import Directions, Report, as_features, as_labels, nearest

# pairs by biology Same/Other (first letter) and centre Same/Other (second letter)
KINDS = ("ss", "so", "os", "oo")
# columns of predictions: rows whose neighbour the row is, and pairs of the whole
OF, ALL = "of_", "all_"


class Pairs(NamedTuple):
    """Pairs (query, neighbour) of each row, in the order of `KINDS`: (N, 4) with the row as the query, and (N, 4) with
    the row as the neighbour. Both have the same sums over rows.
    """

    queries: NDArray[np.int64]
    neighbours: NDArray[np.int64]


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
        return _share(self.so, self.so + self.os)

    @property
    def ratio(self) -> float:
        """(SS + SO) / (SS + OS), above 1 where biology binds more than the centre; nan where 0 / 0, inf where x / 0."""
        return _share(self.ss + self.so, self.ss + self.os)


def pairs_of(
    x: ArrayLike,
    biology: ArrayLike,
    centre: ArrayLike,
    slide: ArrayLike,
    k: int = 20,
    report: Report | None = None,
    rescanned: bool = False,
) -> Pairs:
    """How many of the k nearest neighbours of every embedding are SS, SO, OS and OO, and for how many it is one.

    Rows are L2-normalised, neighbours ordered by Euclidean distance, everything from the query's own slide is left out,
    and all lists are as long as the shortest. The answer is meaningful only where biology and centre are balanced over
    the rows: the index of a cohort whose centres send different tissues says little.

    Args:
        x: (N, D) embeddings.
        biology, centre, slide: (N,) labels; a slide's name must be its own, not one that two centres use.
        k: neighbours per query.
        rescanned: a slide in several centres is one tissue, stained or scanned again: all of it is left out.
    Returns:
        counts; zeros when some query has no other slide.
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
    if not rescanned and len(np.unique(np.stack([slides, places]), axis=1).T) > slides.max() + 1:
        raise G2LError("a slide name occurs in two centres; make slide names unique, for instance centre/slide")
    k = min(k, n - int(np.bincount(slides).max()))
    found = Pairs(np.zeros((n, 4), np.int64), np.zeros((n, 4), np.int64))
    if k < 1:
        return found
    directions = Directions.of(rows)
    for block in nearest(directions, directions, k, (slides, slides), report):
        query = np.arange(block.queries.start, block.queries.stop)[:, None]
        kind = 2 * (tissues[query] != tissues[block.neighbours]) + (places[query] != places[block.neighbours])
        for number in range(4):
            found.queries[block.queries, number] = (kind == number).sum(axis=1)
            found.neighbours[:, number] += np.bincount(block.neighbours[kind == number], minlength=n)
    return found


def counted(counts: NDArray[np.int64]) -> Robustness:
    """The sums over queries of `Pairs.queries` (N, 4), N at least 1."""
    ss, so, os, oo = counts.sum(axis=0).tolist()
    support = float((counts[:, 1] + counts[:, 2] > 0).mean())
    return Robustness(ss, so, os, oo, int(counts[0].sum()), len(counts), support)


def robustness(x: ArrayLike, biology: ArrayLike, centre: ArrayLike, slide: ArrayLike, k: int = 20) -> Robustness:
    """`pairs_of`, summed: counts with `index`, `ratio` and `support`; k = 0 and undefined when some query has no other
    slide.

    Source: Koemen et al. 2025 (PathoROB) for index and support, de Jong et al. 2025 for the ratio.
    """
    return counted(pairs_of(x, biology, centre, slide, k).queries)


def columns(pairs: Pairs) -> dict[str, NDArray[np.int64]]:
    """Columns of predictions that `measure_robustness` reads: `row`, and of each kind the pairs in which the row is the
    query (`ss`), those in which it is the neighbour (`of_ss`), and those of the whole (`all_ss`), the same in every
    row, since a measure sees nothing but rows.
    """
    found = {"row": np.arange(len(pairs.queries))}
    for number, kind in enumerate(KINDS):
        found[kind], found[OF + kind] = pairs.queries[:, number], pairs.neighbours[:, number]
        found[ALL + kind] = np.full(len(pairs.queries), pairs.queries[:, number].sum())
    return found


def measure_robustness(predictions: Mapping[str, NDArray]) -> dict[str, float]:
    """Index, its support and the ratio from `columns`, of the whole and of patients who were drawn again.

    Who is drawn counts as often as a query and as a neighbour. The pairs of some kind in a draw are estimated as

        pairs of the drawn as queries x pairs of the drawn as neighbours / pairs of the whole,

    which is the number of the whole where everyone is drawn once. So the odds of SO against OS change by the luck of
    the queries times that of the neighbours. Queries alone drawn again, with the neighbours of the whole, make
    intervals too short: of two encoders that were equally good, 20 % to 28 % were called better or worse at a nominal
    5 %, by this 0 % to 8 % (simulated: 20 to 100 patients, 3 to 20 neighbours). To search the neighbours among those
    drawn agrees with this (0 % to 5 %), but no stored list of neighbours is long enough for every draw. Near 0 and 1
    an interval is still somewhat short: at an index of .97 of 40 patients it covered 83 %, where nominal is 95 %.

    The support has no value in a draw: whether any neighbour has one of two kinds does not add up so, and copies of a
    patient are no new neighbours.
    """
    so, os = _pairs(predictions, "so"), _pairs(predictions, "os")
    biology, centre = _pairs(predictions, "ss", "so"), _pairs(predictions, "ss", "os")
    support = math.nan
    if (np.bincount(predictions["row"]) == 1).all():
        support = float((np.asarray(predictions["so"]) + predictions["os"] > 0).mean())
    return {"robustness index": _share(so, so + os), "support": support, "ratio": _share(biology, centre)}


def _pairs(predictions: Mapping[str, NDArray], *kinds: str) -> float:
    """Pairs of these kinds in a draw, estimated as `measure_robustness` says."""
    queries, neighbours = (sum(float(predictions[of + kind].sum()) for kind in kinds) for of in ("", OF))
    whole = sum(float(predictions[ALL + kind][0]) for kind in kinds)
    return queries * (neighbours / whole) if whole else 0.0


def _share(part: float, whole: float) -> float:
    """part / whole; nan where 0 / 0, inf where x / 0."""
    return part / whole if whole else (math.inf if part else math.nan)
