"""Linear probe: how much of the classes a logistic regression reads from frozen embeddings."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import CohortError
from g2l.evaluation.measures.accuracy import accuracy
from g2l.evaluation.measures.neighbours import Floats, as_labels, as_split

# on standardised features: from "hardly more than the class means" to "hardly any penalty"
STRENGTHS = tuple(float(c) for c in np.logspace(-5, 1, 7))

# values in the table of training rows
_WORTH_THREADS = 4_000_000


class Probe(NamedTuple):
    """Result of a linear probe on the test rows."""

    accuracy: float
    balanced: float
    c: float


def linear_probe(
    train_x: ArrayLike,
    train_y: ArrayLike,
    train_groups: ArrayLike,
    test_x: ArrayLike,
    test_y: ArrayLike,
    strengths: tuple[float, ...] = STRENGTHS,
    folds: int = 3,
) -> Probe:
    """L2-regularised logistic regression on standardised features; C is chosen without a look at the test rows.

    C is the smallest of `strengths` with the best mean balanced accuracy over `folds` splits of the training rows by
    group (patient), each standardised by its own training part. The model is then fitted to all training rows.

    Args:
        train_x: (N, D). train_y: (N,) labels. train_groups: (N,) patients. test_x: (M, D). test_y: (M,) labels.
        strengths: candidates for C, sklearn's convention (inverse of the penalty, against the summed loss).
        folds: splits by group; as many as there are groups when those are fewer.
    Raises:
        CohortError: fewer than two groups or two classes to train on, or no split by group that leaves two classes.
        G2LError: shapes that do not fit, values that are not finite.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    train, test = as_split(train_x, test_x)
    labels = as_labels(train_y, len(train), "training labels")
    truth = as_labels(test_y, len(test), "test labels")
    groups = np.unique(as_labels(train_groups, len(train), "training groups"), return_inverse=True)[1]
    patients, classes = groups.max() + 1, len(np.unique(labels))
    if patients < 2 or classes < 2:
        raise CohortError(
            f"linear probe: {patients} patients and {classes} classes to train on; it needs at least two of each"
        )
    ordered = tuple(sorted(strengths))
    folds = min(folds, patients)
    # a class with fewer rows than folds cannot be stratified
    kind = StratifiedGroupKFold if np.unique(labels, return_counts=True)[1].min() >= folds else GroupKFold
    splitter = kind(folds, shuffle=True, random_state=0)
    scores = []
    for fit, held_out in splitter.split(train, labels, groups):
        if len(np.unique(labels[fit])) < 2:
            continue
        predictions = _predict(train[fit], labels[fit], train[held_out], ordered)
        scores.append([accuracy(labels[held_out], predicted).balanced for predicted in predictions])
    if not scores:
        raise CohortError(
            "linear probe: without one patient's rows only one class is left; use patients of mixed classes"
        )
    c = ordered[int(np.mean(scores, axis=0).round(9).argmax())]
    (predicted,) = _predict(train, labels, test, (c,))
    return Probe(*accuracy(truth, predicted), c)


def _predict(train: Floats, labels: NDArray, test: Floats, strengths: tuple[float, ...]) -> list[NDArray]:
    """Predicted classes of the test rows for each C, ascending; each fit starts where the one before ended."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean, deviation = train.mean(axis=0), train.std(axis=0)
    # a constant feature says nothing in training and must not explode in the test rows
    scale = np.where(deviation > 1e-12 * np.abs(train).max(axis=0), deviation, np.inf)
    model = LogisticRegression(warm_start=True, max_iter=5000)
    train, test = (train - mean) / scale, (test - mean) / scale
    predictions = []
    # L-BFGS makes thousands of small products: threads win nothing on them, and on busy cores cost up to 70 times
    with threadpool_limits(limits=1 if train.size < _WORTH_THREADS else None):
        for c in strengths:
            predictions.append(model.set_params(C=c).fit(train, labels).predict(test))
    return predictions
