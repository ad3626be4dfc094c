"""Do clusters of embeddings follow the tissue or the hospital: PathoROB's clustering score.

Letters: N rows, K clusters, R repetitions.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.measures.neighbours import Directions, Floats, Report

CLUSTER = "cluster_"
MOST = 30
_STARTS = 4


class Clusters(NamedTuple):
    """Cluster of each row in each repetition (N, R), their number K, and the silhouette of every K that was tried."""

    labels: NDArray[np.int64]
    number: int
    silhouettes: dict[int, float]


def clusters(rows: Floats, repeats: int = 10, seed: int = 0, report: Report | None = None) -> Clusters:
    """k-means on unit rows, `repeats` times, with the K of 2..30 (below N) whose cosine silhouette is largest.

    Neither biology nor centre is looked at. Every k-means is the best of four starts (k-means++). Rows that are all the
    same are one cluster.

    Args:
        rows: (N, D), N at least 3. All pairs are held: 100 MB for 5,000 rows.
    Source: Koemen et al. 2025 (PathoROB).
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    unit = Directions.of(rows).unit
    distinct = len(np.unique(unit, axis=0))
    if distinct == 1:
        return Clusters(np.zeros((len(unit), repeats), np.int64), 1, {})
    distance = np.clip(1 - unit @ unit.T, 0, None)
    np.fill_diagonal(distance, 0)

    def means(count: int, state: int) -> NDArray:
        return KMeans(count, random_state=state).set_params(n_init=_STARTS).fit_predict(unit)

    silhouettes = {}
    most = min(MOST, len(unit) - 1, distinct)
    for count in range(2, most + 1):
        if report is not None:
            report(f"clustering: {count} of at most {most} clusters")
        found = means(count, seed)
        silhouettes[count] = float(silhouette_score(distance, found, metric="precomputed"))
    best = max(silhouettes, key=lambda count: (round(silhouettes[count], 9), -count))
    runs = [means(best, seed + 1 + run) for run in range(repeats)]
    return Clusters(np.stack(runs, axis=1).astype(np.int64), best, silhouettes)


def adjusted_rand(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Adjusted Rand index of two codings (N,) of the same rows by numbers from 0: 1 the same parts, 0 as by chance.

    Source: Hubert and Arabie 1985, eq. 5; 1 where both are one part, or both all parts of one row.
    """
    table = np.bincount(first * (second.max() + 1) + second).astype(float)
    pairs = [(counts * (counts - 1) / 2).sum() for counts in (table, np.bincount(first), np.bincount(second))]
    every = len(first) * (len(first) - 1) / 2
    expected = pairs[1] * pairs[2] / every if every else 0.0
    most = (pairs[1] + pairs[2]) / 2
    return float((pairs[0] - expected) / (most - expected)) if most != expected else 1.0


def mean_rand(predictions: Mapping[str, NDArray], name: str) -> float:
    """ARI of the labels in a column and the clusters, mean over the columns cluster_<repetition>."""
    labels = np.unique(predictions[name], return_inverse=True)[1]
    runs = [np.asarray(predictions[key]) for key in predictions if key.startswith(CLUSTER)]
    return float(np.mean([adjusted_rand(labels, run) for run in runs]))


def measure_clustering(predictions: Mapping[str, NDArray]) -> dict[str, float]:
    """Clustering score in [-1, 1]: ARI of the biology less that of the centre, each as `mean_rand`.

    Drawn again by patient, rows are drawn and the clusters stay those of the whole. Copies of a patient share a
    cluster, a class and a centre, so that both ARI rise with every draw, and alone would have an interval beside their
    own value; in the score this cancels.
    """
    return {"clustering score": mean_rand(predictions, "biology") - mean_rand(predictions, "centre")}
