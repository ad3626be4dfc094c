"""Linear probe: how much of the classes a logistic regression reads from frozen embeddings.

Letters: N training rows, V rows to choose C on, M test rows, D width, C classes (and C alone the strength).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import CohortError
from g2l.evaluation.measures.accuracy import accuracy
from g2l.evaluation.measures.neighbours import Floats, Report, as_labels, as_split, spans

# on standardised features: from "hardly more than the class means" to "hardly any penalty"
STRENGTHS = tuple(float(c) for c in np.logspace(-5, 1, 7))

# Values in the table of training rows. A larger one stays float32, half the memory and twice as fast; a smaller one is
# fitted in float64, where results do not depend on the machine.
_LARGE = 4_000_000


class Probe(NamedTuple):
    """Result of a linear probe on the test rows."""

    accuracy: float
    balanced: float
    c: float


class Fitted(NamedTuple):
    """A linear probe's probabilities (M, C) of the sorted classes (C,), and the strength they were fitted with."""

    classes: NDArray
    probabilities: NDArray[np.float64]
    c: float

    @property
    def predicted(self) -> NDArray:
        """(M,) the likeliest class; the first in sorted order among equals."""
        return self.classes[self.probabilities.argmax(axis=1)]


class Standard(NamedTuple):
    """Mean and deviation (D,) of training rows, taken off any rows."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Floats) -> "Standard":
        """A constant feature says nothing in training and must not explode elsewhere: it becomes 0 everywhere."""
        blocks = list(spans(*rows.shape))
        mean = np.sum([rows[block].sum(axis=0, dtype=np.float64) for block in blocks], axis=0) / len(rows)
        squares = sum(((rows[block] - mean) ** 2).sum(axis=0) for block in blocks)
        size = np.max([np.abs(rows[block]).max(axis=0) for block in blocks], axis=0)
        deviation = np.sqrt(squares / len(rows))
        return cls(mean, np.where(deviation > 1e-12 * size, deviation, np.inf))

    def __call__(self, rows: Floats, kind: type[np.floating]) -> Floats:
        """The rows standardised, a new table of the asked type."""
        result = np.empty(rows.shape, kind)
        for block in spans(*rows.shape):
            result[block] = (rows[block] - self.mean) / self.scale
        return result


def fit_path(
    train: Floats,
    labels: NDArray,
    others: Floats,
    strengths: Sequence[float],
    report: Report | None = None,
    weights: NDArray[np.float64] | None = None,
) -> Iterator[Fitted]:
    """L2-regularised logistic regression on features standardised by `train`, for each C in the order given.

    Each fit starts where the one before ended, so that ascending C cost least.

    Args:
        train: (N, D). labels: (N,), at least two classes. others: (M, D) to be judged.
        strengths: C in sklearn's convention (inverse of the penalty, against the summed loss).
        weights: (N,) of the rows; None: all count the same.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    standard = Standard.of(train)
    kind = np.float32 if train.size >= _LARGE else np.float64
    fit, judged = standard(train, kind), standard(others, kind)
    model = LogisticRegression(warm_start=True, max_iter=5000)
    # L-BFGS makes thousands of small products: threads win nothing on them, and on busy cores cost up to 70 times
    with threadpool_limits(limits=1 if train.size < _LARGE else None):
        for number, c in enumerate(strengths, 1):
            if report is not None:
                report(f"linear probe: C {number} of {len(strengths)}")
            model.set_params(C=c).fit(fit, labels, sample_weight=weights)
            yield Fitted(model.classes_, model.predict_proba(judged).astype(np.float64), float(c))


def weights_like(chosen: NDArray, kept: NDArray) -> NDArray[np.float64]:
    """(N,) weights under which the classes have the shares in `kept` (N,) that they have in `chosen`, which has all.

    A strong penalty leaves little but the intercepts, which name the commonest class. Where C was chosen among classes
    as common as each other, and a few rows more of one then tip them, the fit would predict that class alone.
    """
    names, codes, counts = np.unique(kept, return_inverse=True, return_counts=True)
    wanted = np.array([(chosen == name).mean() for name in names])
    return (wanted * len(kept) / counts)[codes]


def choose_strength(
    train: Floats,
    labels: NDArray,
    val: Floats,
    truth: NDArray,
    strengths: Sequence[float] = STRENGTHS,
    report: Report | None = None,
) -> tuple[float, dict[float, float]]:
    """The smallest C with the best balanced accuracy on the rows of `val` (V, D), and that of every C."""
    path = fit_path(train, labels, val, sorted(strengths), report)
    scores = {fitted.c: accuracy(truth, fitted.predicted).balanced for fitted in path}
    return _smallest_best(scores), scores


def choose_by_folds(
    rows: Floats,
    labels: NDArray,
    fold: NDArray[np.int64],
    strengths: Sequence[float] = STRENGTHS,
    report: Report | None = None,
    within: float = 0.0,
) -> tuple[float, dict[float, float]]:
    """The smallest C with the best balanced accuracy, and that of every C, where each fold is judged by the others.

    All folds are judged together: of few patients a fold may lack a class, and its own balanced accuracy would then be
    another metric. A fold without which one class is left is not judged.

    Args:
        rows: (N, D). labels: (N,). fold: (N,) the number of each row's fold, the same for all rows of a patient.
        within: as good as the best is what lies so many standard errors below it or less; the error is that of the
            mean accuracy of the folds, for the best C. 1 is the rule of Breiman et al. 1984 (CART, 3.4.3).
    Raises:
        CohortError: no fold leaves two classes.
    """
    ordered, numbers = sorted(strengths), np.unique(fold)
    predicted = {c: np.empty_like(labels) for c in ordered}
    judged = np.zeros(len(labels), np.bool_)
    for count, number in enumerate(numbers, 1):
        held = fold == number
        if len(np.unique(labels[~held])) < 2:
            continue
        judged |= held
        say = None if report is None else partial(_of_fold, report, f"fold {count} of {len(numbers)}")
        for fitted in fit_path(rows[~held], labels[~held], rows[held], ordered, say):
            predicted[fitted.c][held] = fitted.predicted
    if not judged.any():
        raise CohortError(
            "linear probe: without one patient's rows only one class is left; use patients of mixed classes"
        )
    scores = {c: accuracy(labels[judged], found[judged]).balanced for c, found in predicted.items()}
    best = _smallest_best(scores)
    each = [(predicted[best] == labels)[fold == number].mean() for number in np.unique(fold[judged])]
    error = np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0
    return min(c for c in scores if scores[c] >= scores[best] - within * error), scores


def linear_probe(
    train_x: ArrayLike,
    train_y: ArrayLike,
    train_groups: ArrayLike,
    test_x: ArrayLike,
    test_y: ArrayLike,
    strengths: tuple[float, ...] = STRENGTHS,
    folds: int = 3,
) -> Probe:
    """A linear probe where there is no validation part: C is chosen by folds of the training rows.

    C is chosen by `folds` splits of the training rows by group (patient), as `choose_by_folds` does. The model is then
    fitted to all training rows.

    Args:
        train_x: (N, D). train_y: (N,) labels. train_groups: (N,) patients. test_x: (M, D). test_y: (M,) labels.
        strengths: candidates for C, sklearn's convention.
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
    folds = min(folds, patients)
    # a class with fewer rows than folds cannot be stratified
    kind = StratifiedGroupKFold if np.unique(labels, return_counts=True)[1].min() >= folds else GroupKFold
    fold = np.zeros(len(labels), np.int64)
    for number, (_, held) in enumerate(kind(folds, shuffle=True, random_state=0).split(train, labels, groups)):
        fold[held] = number
    c, _ = choose_by_folds(train, labels, fold, strengths)
    (fitted,) = fit_path(train, labels, test, (c,))
    return Probe(*accuracy(truth, fitted.predicted), c)


def _smallest_best(scores: Mapping[float, float]) -> float:
    return max(scores, key=lambda c: (round(scores[c], 9), -c))


def _of_fold(report: Report, which: str, text: str) -> None:
    report(f"{text}, {which}")
