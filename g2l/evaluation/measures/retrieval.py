"""Finding images of the same class: what the nearest of a database are.

Letters: Q queries, N database rows, D width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.evaluation.measures.neighbours import Directions, Report, as_labels, as_split, nearest, spans
from g2l.evaluation.measures.probe import Standard

DEPTHS = (1, 3, 5)
SHOWN = 5
# cosines are told apart to 2^-20, about the error of a float32 product
_LEVELS = 2**20
# GPFM's first neighbour weighs 1, each further one a tenth less
_STEP = 0.1


class Retrieved(NamedTuple):
    """What was found for each query.

    Attributes:
        neighbours: (Q, 5) database rows, nearest first (fewer columns when the database has fewer rows).
        predicted: (Q,) majority of their labels.
        average_precision: (Q,) over the whole database; 0 for a class that the database does not hold.
    """

    neighbours: NDArray[np.int64]
    predicted: NDArray
    average_precision: NDArray[np.float64]


def retrieve(
    base_x: ArrayLike, base_y: ArrayLike, query_x: ArrayLike, query_y: ArrayLike, report: Report | None = None
) -> Retrieved:
    """The nearest database rows of every query in cosine similarity.

    The majority among five is that of the vote; when it ties, the tied class that comes first in the list wins.

    Average precision: over the rows of the query's class, the mean of the precision at their place in the ranking of
    the whole database. Rows that are equally similar, to 1e-6, are found together (as scikit-learn has it).

    Args:
        base_x: (N, D). base_y: (N,) labels. query_x: (Q, D). query_y: (Q,) labels, used for average precision alone.
    Raises:
        G2LError: shapes that do not fit, values that are not finite.
    """
    base, query = as_split(base_x, query_x)
    labels, truth = as_labels(base_y, len(base), "database labels"), as_labels(query_y, len(query), "query labels")
    names, codes = np.unique(labels, return_inverse=True)
    wanted = _codes_of(truth, names)
    k = min(SHOWN, len(base))
    found, majority, precision = (
        np.empty((len(query), k), np.int64),
        np.empty(len(query), np.intp),
        np.zeros(len(query)),
    )
    for block in nearest(Directions.of(query), Directions.of(base), k, report=report):
        found[block.queries] = block.neighbours
        majority[block.queries] = _majority(codes[block.neighbours], len(names))
        for row, similarity in enumerate(block.rough):
            number = block.queries.start + row
            precision[number] = _average_precision(similarity, codes == wanted[number])
    return Retrieved(found, names[majority], precision)


def gpfm_ranks(
    base_x: ArrayLike, base_y: ArrayLike, query_x: ArrayLike, query_y: ArrayLike, k: int = 9
) -> tuple[NDArray[np.int64], NDArray]:
    """Place (Q,) of the query's class among the classes as GPFM ranks them, 0 the first, and the first class (Q,).

    Features are standardised by the database; the k nearest in Euclidean distance vote with weights 1, .9, .8, ...;
    classes are ranked by the sum. It is a vote over classes, and no retrieval: classes without a single neighbour tie
    at 0 and still take places (here in sorted order), so that with few classes a "top 5" is hit by chance. GPFM's k is
    the number of classes; its paper's data has nine.

    Source: Ma et al. 2024 (GPFM), ROI retrieval, and its published program.
    """
    base, query = as_split(base_x, query_x)
    labels, truth = as_labels(base_y, len(base), "database labels"), as_labels(query_y, len(query), "query labels")
    names, codes = np.unique(labels, return_inverse=True)
    wanted = _codes_of(truth, names)
    standard = Standard.of(base)
    base, query = standard(base, np.float32), standard(query, np.float32)
    length = np.einsum("nd,nd->n", base, base)
    k = min(k, len(base))
    weights = 1 - _STEP * np.arange(k)
    ranks, first = np.empty(len(query), np.int64), np.empty(len(query), np.intp)
    for block in spans(len(query), len(base)):
        distance = length - 2 * (query[block] @ base.T)
        near = np.stack([_first(row, k) for row in distance])
        votes = np.zeros((len(near), len(names)))
        np.add.at(votes, (np.arange(len(near))[:, None], codes[near]), weights)
        order = np.argsort(-np.round(votes, 9), axis=1, kind="stable")
        ranks[block] = np.where(wanted[block] >= 0, (order == wanted[block, None]).argmax(axis=1), len(names))
        first[block] = order[:, 0]
    return ranks, names[first]


def measure_retrieval(predictions: Mapping[str, NDArray]) -> dict[str, float]:
    """Means of the per-query columns hit_1, hit_3, hit_5 (one of the k nearest has the class), vote_5 (their majority
    has it), average_precision: Acc@1, Acc@3, Acc@5, vote@5 and mAP.
    """
    names = {f"Acc@{k}": f"hit_{k}" for k in DEPTHS} | {"vote@5": "vote_5", "mAP": "average_precision"}
    return {name: float(np.mean(predictions[column])) for name, column in names.items()}


def measure_gpfm_retrieval(predictions: Mapping[str, NDArray]) -> dict[str, float]:
    """Means of hit_1, hit_3, hit_5: the query's class is among the first k classes of `gpfm_ranks`."""
    return {f"top-{k} class": float(np.mean(predictions[f"hit_{k}"])) for k in DEPTHS}


def hits(right: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """hit_1, hit_3, hit_5 (Q,) from whether each of the neighbours (Q, k), nearest first, has the class."""
    return {f"hit_{k}": (right[:, :k].sum(axis=1) > 0).astype(np.int64) for k in DEPTHS}


def _first(distance: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k smallest, in order; the earlier of equals."""
    found = np.flatnonzero(distance <= np.partition(distance, k - 1)[k - 1])
    return found[np.argsort(distance[found], kind="stable")][:k]


def _codes_of(labels: NDArray, names: NDArray) -> NDArray[np.int64]:
    """Place of each label among the sorted names, -1 where it is none of them."""
    places = np.searchsorted(names, labels).clip(max=len(names) - 1)
    return np.where(names[places] == labels, places, -1)


def _majority(codes: NDArray[np.int64], classes: int) -> NDArray[np.intp]:
    votes = (codes[:, :, None] == np.arange(classes)).sum(axis=1)
    leading = np.take_along_axis(votes, codes, axis=1) == votes.max(axis=1, keepdims=True)
    return np.take_along_axis(codes, leading.argmax(axis=1)[:, None], axis=1)[:, 0]


def _average_precision(similarity: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float:
    """Mean over the relevant rows of (relevant rows at least as similar) / (rows at least as similar)."""
    levels = np.rint(similarity * _LEVELS).astype(np.int32)
    wanted = np.sort(levels[relevant])
    if not wanted.size:
        return 0.0
    levels.sort()
    found = len(wanted) - np.searchsorted(wanted, wanted)
    seen = len(levels) - np.searchsorted(levels, wanted)
    return float((found / seen).mean())
