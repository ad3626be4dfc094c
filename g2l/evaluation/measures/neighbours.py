"""Nearest neighbours among unit rows, exact, with ties decided by position and not by how a sort happens to run.

Letters: Q queries, N base rows, D width. Unit rows have the same order by Euclidean distance and by cosine similarity.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import G2LError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# 64 MB of similarities at a time, whatever the size of the base
_BLOCK_VALUES = 8_000_000


def as_features(x: ArrayLike, name: str = "features") -> Floats:
    """x as float64 (N, D).

    Raises:
        G2LError: it is no table, is empty, or holds a value that is not finite.
    """
    features = np.asarray(x, dtype=np.float64)
    if features.ndim != 2 or features.size == 0:
        raise G2LError(f"{name} have shape {features.shape}; give a table of at least one row, one embedding per row")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        what = f"{bad.size} of {len(features)} rows hold nan or inf (the first is row {bad[0]})"
        raise G2LError(f"{name}: {what}; use a checkpoint from before the encoder diverged, or drop these rows")
    return features


def as_split(train: ArrayLike, test: ArrayLike) -> tuple[Floats, Floats]:
    """Training and test embeddings as float64, (N, D) and (M, D).

    Raises:
        G2LError: as `as_features`, or different widths.
    """
    fit, held_out = as_features(train, "training embeddings"), as_features(test, "test embeddings")
    if fit.shape[1] != held_out.shape[1]:
        widths = f"training embeddings have width {fit.shape[1]}, test embeddings {held_out.shape[1]}"
        raise G2LError(f"{widths}; use one encoder for both")
    return fit, held_out


def as_labels(values: ArrayLike, count: int, name: str = "labels") -> NDArray:
    """values as a vector of `count` labels, of any type that sorts.

    Raises:
        G2LError: another shape.
    """
    labels = np.asarray(values)
    if labels.shape != (count,):
        raise G2LError(f"{name} have shape {labels.shape} for {count} embeddings; give one per embedding")
    return labels


def unit_rows(features: Floats) -> Floats:
    """Each row divided by its Euclidean length; a row of zeros stays zero: its similarity to everything is 0."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1.0)


def nearest(
    query: Floats, base: Floats, k: int, apart: tuple[NDArray, NDArray] | None = None
) -> Iterator[tuple[slice, Floats, Bools]]:
    """The k nearest base rows of every query, block by block, as a mask.

    Args:
        query: (Q, D) unit rows.
        base: (N, D) unit rows.
        k: neighbours per query; with `apart` every query must have that many left (the caller sees to it).
        apart: a label per query and per base row; a pair with the same label is never a neighbour.
    Yields:
        the block's queries, their similarities (block, N; -inf where shut out), and the mask (block, N) with k True in
        each row. Among equal similarities the earlier base row is taken.
    """
    step = max(1, _BLOCK_VALUES // len(base))
    for start in range(0, len(query), step):
        block = slice(start, min(start + step, len(query)))
        # rounded, since the same two rows can differ in the last bit with their place in the matrix product
        similarity = np.round(query[block] @ base.T, 12)
        if apart is not None:
            similarity[apart[0][block, None] == apart[1]] = -np.inf
        threshold = np.partition(similarity, len(base) - k, axis=1)[:, len(base) - k, None]
        mask = similarity >= threshold
        tied = np.flatnonzero(mask.sum(axis=1) > k)
        if tied.size:
            above = similarity[tied] > threshold[tied]
            level = similarity[tied] == threshold[tied]
            room = k - above.sum(axis=1, keepdims=True)
            mask[tied] = above | (level & (np.cumsum(level, axis=1) <= room))
        yield block, similarity, mask
