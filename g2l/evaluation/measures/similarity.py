"""How alike two encoders see the same images: linear CKA and shared neighbours.

Letters: N images (rows, the same in both tables), P and Q the widths.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import G2LError
from g2l.evaluation.measures.neighbours import Directions, Floats, Report, as_features, nearest, spans


@dataclass(frozen=True)
class Centred:
    """Embeddings without the mean of the rows, a block of float64 at a time; `varies`: (P,) columns that do."""

    rows: Floats
    mean: NDArray[np.float64]
    varies: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Floats) -> "Centred":
        """Columns that are constant but for the rounding of their mean become exact zeros."""
        mean = np.sum([rows[block].sum(axis=0, dtype=np.float64) for block in spans(*rows.shape)], axis=0) / len(rows)
        size = np.max([np.abs(rows[block]).max(axis=0) for block in spans(*rows.shape)], axis=0).astype(np.float64)
        away = np.max([np.abs(rows[block] - mean).max(axis=0) for block in spans(*rows.shape)], axis=0)
        return cls(rows, mean, away > 1e-12 * size)

    def block(self, block: slice) -> NDArray[np.float64]:
        """Some of the rows."""
        return (self.rows[block] - self.mean) * self.varies


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear centred kernel alignment of two embeddings of the same N images, in [0, 1].

        ||Yc' Xc||_F^2 / (||Xc' Xc||_F ||Yc' Yc||_F),   Xc = X - mean over the rows

    computed in float64 from the (P, Q) products, block by block. Invariant to rotation and to a common scale of the
    features, not to other linear maps. It grows with the width when N is small: compare encoders on the same images
    only, and on many more images than features, or look at `unbiased_cka`.

    Returns:
        The alignment; nan where it is undefined: fewer than two rows, or features that are the same in all rows.
    Raises:
        G2LError: different numbers of rows, values that are not finite.
    Source: Kornblith et al. 2019, eq. 3 with linear kernels (the biased HSIC estimate).
    """
    a, b = (Centred.of(rows) for rows in _paired(x, y))
    if not a.varies.any() or not b.varies.any():
        return math.nan
    cross, own_a, own_b = (_squared_product(*pair) for pair in ((a, b), (a, a), (b, b)))
    # rounding can carry identical features a few 1e-16 past 1
    return min(cross / math.sqrt(own_a * own_b), 1.0)


def unbiased_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear CKA from the unbiased estimates of HSIC: does not grow with the width, may be below 0 by chance.

        HSIC_1(K, L) = [ tr(K L) + 1'K1 1'L1 / ((N-1)(N-2)) - 2/(N-2) 1'K L1 ] / (N (N-3)),   diagonals of K, L set to 0

    with K = XX', L = YY', never formed: all three terms follow from (P, Q) products and vectors of N. The estimate does
    not change when the features are centred, which keeps the sums small.

    Returns:
        HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)); nan for fewer than four rows or where an estimate in the root is
        not above 0.
    Raises:
        G2LError: different numbers of rows, values that are not finite.
    Source: Song et al. 2012, eq. 5; Nguyen et al. 2021, eq. 3 (there over minibatches, here over all rows at once).
    """
    a, b = (Centred.of(rows) for rows in _paired(x, y))
    if len(a.rows) < 4 or not a.varies.any() or not b.varies.any():
        return math.nan
    norms = [np.concatenate([(c.block(block) ** 2).sum(axis=1) for block in spans(*c.rows.shape)]) for c in (a, b)]

    def hsic(i: int, j: int) -> float:
        one, other = (a, b)[i], (a, b)[j]
        n = len(one.rows)
        trace = _squared_product(one, other) - norms[i] @ norms[j]
        # centred features sum to 0, so that a row of K, without its diagonal, sums to minus the squared length
        ends = norms[i].sum() * norms[j].sum() / ((n - 1) * (n - 2))
        return (trace + ends - 2 / (n - 2) * (norms[i] @ norms[j])) / (n * (n - 3))

    own_a, own_b = hsic(0, 0), hsic(1, 1)
    return hsic(0, 1) / math.sqrt(own_a * own_b) if own_a > 0 and own_b > 0 else math.nan


def overlaps(x: ArrayLike, y: ArrayLike, k: int = 20, report: Report | None = None) -> NDArray[np.float64]:
    """Share of each image's k nearest neighbours (cosine, itself left out) that both embeddings agree on, in [0, 1].

    Unrelated embeddings score k / (N - 1) on average.

    Returns:
        (N,) shares; nan where an embedding is the same in all rows, so that none is nearer than another.
    Raises:
        G2LError: different numbers of rows, k below 1 or not below N, values that are not finite.
    """
    a, b = _paired(x, y)
    if not 1 <= k < len(a):
        raise G2LError(f"{k} neighbours of {len(a)} embeddings; choose k from 1 to {len(a) - 1}")
    shared = np.full(len(a), math.nan)
    if not Centred.of(a).varies.any() or not Centred.of(b).varies.any():
        return shared
    itself = np.arange(len(a))
    one, other = Directions.of(a), Directions.of(b)
    sides = nearest(one, one, k, (itself, itself), report), nearest(other, other, k, (itself, itself))
    for mine, theirs in zip(*sides, strict=True):
        both = np.sort(np.concatenate([mine.neighbours, theirs.neighbours], axis=1), axis=1)
        shared[mine.queries] = (both[:, 1:] == both[:, :-1]).sum(axis=1) / k
    return shared


def neighbour_overlap(x: ArrayLike, y: ArrayLike, k: int = 20) -> float:
    """The mean of `overlaps`."""
    return float(overlaps(x, y, k).mean())


def measure_similarity(predictions: Mapping[str, NDArray]) -> dict[str, float]:
    """Mean of the column `overlap`. CKA is no mean over images, and is not measured again from columns."""
    return {"neighbour overlap": float(np.mean(predictions["overlap"]))}


def _paired(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = as_features(x, "first embeddings"), as_features(y, "second embeddings")
    if len(a) != len(b):
        raise G2LError(
            f"embeddings of {len(a)} and of {len(b)} images; embed the same images, in the same order, with both"
        )
    return a, b


def _squared_product(a: Centred, b: Centred) -> float:
    """||Yc' Xc||_F^2."""
    width = max(a.rows.shape[1], b.rows.shape[1])
    product = sum(a.block(block).T @ b.block(block) for block in spans(len(a.rows), width))
    return float(np.linalg.norm(product)) ** 2
