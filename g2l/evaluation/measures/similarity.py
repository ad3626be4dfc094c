"""How alike two encoders see the same images: linear CKA and shared neighbours.

Letters: N images (rows, the same in both tables), P and Q the widths.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from g2l.errors import G2LError
from g2l.evaluation.measures.neighbours import Floats, as_features, nearest, unit_rows


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear centred kernel alignment of two embeddings of the same N images, in [0, 1].

        ||Yc' Xc||_F^2 / (||Xc' Xc||_F ||Yc' Yc||_F),   Xc = X - mean over the rows

    computed in float64 from whichever is smaller, the (N, N) Grams or the (P, Q) products. Invariant to rotation and
    to a common scale of the features, not to other linear maps. It grows with the width when N is small: compare
    encoders on the same images only, and on many more images than features.

    Returns:
        The alignment; nan where it is undefined: fewer than two rows, or features that are the same in all rows.
    Raises:
        G2LError: different numbers of rows, values that are not finite.
    Source: Kornblith et al. 2019, eq. 3 with linear kernels (the biased HSIC estimate).
    """
    a, b = _paired(x, y)
    a, b = _centred(a), _centred(b)
    if not a.any() or not b.any():
        return math.nan
    if len(a) <= max(a.shape[1], b.shape[1]):
        a, b = a @ a.T, b @ b.T
        cross, own_a, own_b = float(np.vdot(a, b)), float(np.linalg.norm(a)), float(np.linalg.norm(b))
    else:
        cross = float(np.linalg.norm(b.T @ a)) ** 2
        own_a, own_b = float(np.linalg.norm(a.T @ a)), float(np.linalg.norm(b.T @ b))
    # rounding can carry identical features a few 1e-16 past 1
    return min(cross / (own_a * own_b), 1.0)


def neighbour_overlap(x: ArrayLike, y: ArrayLike, k: int = 20) -> float:
    """Mean share of an image's k nearest neighbours (cosine, itself left out) that both embeddings agree on, in [0, 1].

    Unrelated embeddings score k / (N - 1) on average.

    Returns:
        The share; nan where an embedding is the same in all rows, so that none is nearer than another.
    Raises:
        G2LError: different numbers of rows, k below 1 or not below N, values that are not finite.
    """
    a, b = _paired(x, y)
    if not 1 <= k < len(a):
        raise G2LError(f"{k} neighbours of {len(a)} embeddings; choose k from 1 to {len(a) - 1}")
    if not _centred(a).any() or not _centred(b).any():
        return math.nan
    a, b = unit_rows(a), unit_rows(b)
    self = np.arange(len(a))
    shared = 0
    for (_, _, mine), (_, _, theirs) in zip(
        nearest(a, a, k, (self, self)), nearest(b, b, k, (self, self)), strict=True
    ):
        shared += int((mine & theirs).sum())
    return shared / (k * len(a))


def _paired(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = as_features(x, "first embeddings"), as_features(y, "second embeddings")
    if len(a) != len(b):
        raise G2LError(
            f"embeddings of {len(a)} and of {len(b)} images; embed the same images, in the same order, with both"
        )
    return a, b


def _centred(features: Floats) -> Floats:
    """Column means taken off; columns that are constant but for the rounding of their mean become exact zeros."""
    centred = features - features.mean(axis=0)
    constant = np.abs(centred).max(axis=0) <= 1e-12 * np.abs(features).max(axis=0)
    centred[:, constant] = 0.0
    return centred
