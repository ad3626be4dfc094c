"""Nearest neighbours by cosine, exact, with ties decided by position and not by how a sort happens to run.

Letters: Q queries, N base rows, D width, B rows of a block. Unit rows have the same order by Euclidean distance and by
cosine similarity.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import G2LError

Floats = NDArray[np.floating]
Report = Callable[[str], None]

# 64 MB of float32 similarities at a time, whatever the size of the base
_BLOCK_VALUES = 16_000_000
# float64 values gathered at a time: 32 MB
_EXACT_VALUES = 4_000_000
# A query with more candidates than this is compared with the whole base in float64: embeddings that have collapsed are
# all candidates, and a matrix product is far quicker than as many single ones.
_CROWD = 512
# below any cosine, above what was shut out
_SHUT_OUT = np.float32(-2)
# similarities are compared after rounding: two products of the same rows can differ in the last bits
_DECIMALS = 12


def as_features(x: ArrayLike, name: str = "features") -> Floats:
    """x as a table (N, D): float32 where it is that or shorter (it is not copied then), else float64.

    Raises:
        G2LError: it is no table, is empty, or holds a value that is not finite.
    """
    features = np.asarray(x)
    wanted = np.float32 if features.dtype in (np.float16, np.float32) else np.float64
    features = features.astype(wanted, copy=False)
    if features.ndim != 2 or features.size == 0:
        raise G2LError(f"{name} have shape {features.shape}; give a table of at least one row, one embedding per row")
    finite = np.concatenate([np.isfinite(features[block]).all(axis=1) for block in spans(*features.shape)])
    bad = np.flatnonzero(~finite)
    if bad.size:
        what = f"{bad.size} of {len(features)} rows hold nan or inf (the first is row {bad[0]})"
        raise G2LError(f"{name}: {what}; use a checkpoint from before the encoder diverged, or drop these rows")
    return features


def as_split(train: ArrayLike, test: ArrayLike) -> tuple[Floats, Floats]:
    """Training and test embeddings, (N, D) and (M, D).

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


def spans(rows: int, width: int, values: int = _EXACT_VALUES) -> Iterator[slice]:
    """Consecutive slices of `rows` rows that hold about `values` values each."""
    step = max(1, values // width)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


class Directions(NamedTuple):
    """Rows and their unit vectors.

    Attributes:
        rows: (N, D) as given.
        length: (N,) float64, Euclidean; 1 for a row of zeros, whose similarity to everything is then 0.
        unit: (N, D) float32.
    """

    rows: Floats
    length: NDArray[np.float64]
    unit: NDArray[np.float32]

    @classmethod
    def of(cls, rows: Floats) -> "Directions":
        """Directions of (N, D) finite rows."""
        length = np.empty(len(rows))
        unit = np.empty(rows.shape, np.float32)
        for block in spans(*rows.shape):
            exact = rows[block].astype(np.float64)
            norm = np.linalg.norm(exact, axis=1)
            length[block] = np.where(norm > 0, norm, 1.0)
            unit[block] = exact / length[block, None]
        return cls(rows, length, unit)


class Block(NamedTuple):
    """The k nearest base rows of some queries.

    Attributes:
        queries: which rows they are.
        neighbours: (B, k) base rows, nearest first; among equal similarities the earlier base row first.
        similarity: (B, k) cosine in float64, rounded to 12 decimals.
        rough: (B, N) cosine in float32, good to about 1e-6; -inf where shut out. Overwritten by the next block.
    """

    queries: slice
    neighbours: NDArray[np.int64]
    similarity: NDArray[np.float64]
    rough: NDArray[np.float32]


def nearest(
    query: Directions,
    base: Directions,
    k: int,
    apart: tuple[NDArray, NDArray] | None = None,
    report: Report | None = None,
) -> Iterator[Block]:
    """The k nearest base rows of every query, block by block.

    All pairs are compared in float32; those that may be among the k nearest, by the error that such a product can have
    at most, are compared again in float64. So the answer is that of float64, at the speed of float32.

    Args:
        query: Q rows. base: N rows.
        k: neighbours per query, at most N; with `apart` every query must have that many left (the caller sees to it).
        apart: a label per query and per base row; a pair with the same label is never a neighbour.
        report: told how far it is.
    """
    # |float32 product - exact product| <= (D + 2) 2^-24 for unit rows (Higham 2002, eq. 3.5), for either of two rows
    margin = np.float32(4 * (query.rows.shape[1] + 2) * 2.0**-24)
    buffer = np.empty((0, len(base.rows)), np.float32)
    for block in spans(len(query.rows), len(base.rows), _BLOCK_VALUES):
        count = block.stop - block.start
        if len(buffer) < count:
            buffer = np.empty((count, len(base.rows)), np.float32)
        rough = np.matmul(query.unit[block], base.unit.T, out=buffer[:count])
        if apart is not None:
            rough[apart[0][block, None] == apart[1]] = -np.inf
        neighbours, similarity = np.empty((count, k), np.int64), np.empty((count, k))
        crowded = []
        for row in range(count):
            least = np.partition(rough[row], len(base.rows) - k)[len(base.rows) - k]
            found = np.flatnonzero(rough[row] >= max(least - margin, _SHUT_OUT))
            if len(found) > max(_CROWD, 2 * k):
                crowded.append(row)
                continue
            exact = _few(query, block.start + row, base, found)
            neighbours[row], similarity[row] = _best(found, exact, k)
        for row, exact in zip(crowded, _all(query, block.start + np.array(crowded, np.int64), base), strict=True):
            found = np.flatnonzero(rough[row] > _SHUT_OUT)
            neighbours[row], similarity[row] = _best(found, exact[found], k)
        if report is not None:
            report(f"{block.stop:,} of {len(query.rows):,} rows compared with {len(base.rows):,}")
        yield Block(block, neighbours, similarity, rough)


def _best(found: NDArray[np.int64], exact: NDArray[np.float64], k: int) -> tuple[NDArray, NDArray]:
    exact = np.round(exact, _DECIMALS)
    if len(found) > _CROWD:
        near = exact >= np.partition(exact, len(exact) - k)[len(exact) - k]
        found, exact = found[near], exact[near]
    # stable, and `found` ascends: the earlier base row wins a tie
    order = np.argsort(-exact, kind="stable")[:k]
    return found[order], exact[order]


def _few(query: Directions, row: int, base: Directions, found: NDArray[np.int64]) -> NDArray[np.float64]:
    vector = query.rows[row].astype(np.float64) / query.length[row]
    return base.rows[found].astype(np.float64) @ vector / base.length[found]


def _all(query: Directions, rows: NDArray[np.int64], base: Directions) -> NDArray[np.float64]:
    if not rows.size:
        return np.empty((0, len(base.rows)))
    vectors = query.rows[rows].astype(np.float64) / query.length[rows, None]
    exact = np.empty((len(rows), len(base.rows)))
    for span in spans(*base.rows.shape):
        np.matmul(vectors, base.rows[span].astype(np.float64).T, out=exact[:, span])
    return exact / base.length
