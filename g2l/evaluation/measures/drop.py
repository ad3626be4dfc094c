"""What a classifier loses when class and hospital go together in training: PathoROB's average performance drop (APD).

Letters: N rows, M test rows, K classes, H centres (the same number for every class), L levels, R repetitions.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.measures.accuracy import accuracy
from g2l.evaluation.measures.neighbours import Floats, Report

STRENGTHS = tuple(float(c) for c in 10.0 ** np.linspace(-8, 4, 15))
PREDICTED = "predicted_"
# column: pairs of class and centre of the test part, the same in every row, since a measure sees nothing but rows
CELLS = "cells"


def centres_for(labels: NDArray, centres: NDArray, classes: NDArray) -> NDArray:
    """The centres that send every class, those whose rarest class is commonest first; at most as many as classes.

    Raises:
        CohortError: fewer than two.
    """
    names = np.unique(centres)
    least = np.array([min(((centres == name) & (labels == one)).sum() for one in classes) for name in names])
    able = names[np.argsort(-least, kind="stable")][: (least > 0).sum()]
    if len(able) < 2:
        raise CohortError(
            f"performance drop: {len(able)} centres send every class, it needs two; leave out classes or centres"
        )
    return able[: len(classes)]


def check_cells(labels: NDArray, centres: NDArray, classes: NDArray, used: NDArray) -> None:
    """CohortError where the test rows (M,) lack a class in a centre.

    Args:
        classes: (K,). used: (H,).
    """
    empty = [
        f"{one} of {place}" for one in classes for place in used if not ((labels == one) & (centres == place)).any()
    ]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise CohortError(
            f"performance drop: test has no {', '.join(empty[:3])}{more}; give it patients of every class and centre, "
            "or leave out classes or centres"
        )


def draw(
    labels: NDArray, centres: NDArray, classes: NDArray, used: NDArray, level: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows in which every class is equally common, and comes from its own centre more often the higher the level.

    Class number j belongs to centre number j mod H. Of its n rows, the share (1 - level)/H + level is drawn from that
    centre and (1 - level)/H from each other: at 0 class and centre are independent, at 1 they say the same. n is as
    large as the rarest cell allows at all levels, so that sets of different levels differ in nothing else.

    Args:
        labels, centres: (N,). classes: (K,). used: (H,). level: in [0, 1].
    Source: after Koemen et al. 2025 (PathoROB), who draw whole slides by a table for each of their data sets.
    """
    cells = [[np.flatnonzero((labels == one) & (centres == place)) for place in used] for one in classes]
    n = min(min(len(cells[j][j % len(used)]), len(used) * min(map(len, cells[j]))) for j in range(len(classes)))
    drawn = []
    for j in range(len(classes)):
        shares = np.full(len(used), (1 - level) / len(used))
        shares[j % len(used)] += level
        # cumulated before rounding, so that every class has n rows
        ends = np.rint(np.cumsum(shares) * n).astype(int)
        counts = np.diff(ends, prepend=0)
        drawn += [rng.permutation(cell)[:count] for cell, count in zip(cells[j], counts, strict=True)]
    return np.concatenate(drawn)


def fit_biased(
    train: tuple[Floats, NDArray],
    val: tuple[Floats, NDArray],
    test: Floats,
    strengths: tuple[float, ...] = STRENGTHS,
) -> tuple[NDArray, float]:
    """Predicted classes (M,) of a logistic regression on the embeddings as they are, and its C: the smallest with the
    best balanced accuracy on val.

    Args:
        train, val: rows (N, D) and labels (N,). test: (M, D).
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(warm_start=True, max_iter=5000)
    best, chosen, predicted = -1.0, strengths[0], np.empty(0)
    with threadpool_limits(limits=1):
        for c in strengths:
            model.set_params(C=c).fit(*train)
            score = round(accuracy(val[1], model.predict(val[0])).balanced, 9)
            if score > best:
                best, chosen, predicted = score, c, model.predict(test)
    return predicted, chosen


def biased_predictions(
    train: tuple[Floats, NDArray, NDArray],
    val: tuple[Floats, NDArray, NDArray],
    test: Floats,
    levels: int = 4,
    repeats: int = 5,
    seed: int = 0,
    report: Report | None = None,
) -> tuple[dict[str, NDArray], dict[str, float]]:
    """Predictions of the test rows after training at each level, in each repetition.

    Args:
        train, val: rows, labels and centres; both are drawn at the level.
        levels: trainings beside the balanced one; the last has class and centre the same.
    Returns:
        answers `predicted_<repetition>_<level>` (M,), level 0 the balanced one, and the C of each.
    """
    classes = np.unique(train[1])
    used = centres_for(train[1], train[2], classes)
    answers, strengths = {}, {}
    for repetition in range(repeats):
        for level in range(levels + 1):
            if report is not None:
                report(
                    f"performance drop: training {repetition * (levels + 1) + level + 1} of {repeats * (levels + 1)}"
                )
            rng = np.random.default_rng((seed, repetition))
            chosen = [draw(part[1], part[2], classes, used, level / levels, rng) for part in (train, val)]
            if not all(map(len, chosen)):
                raise CohortError(
                    f"performance drop: val lacks a class in one of the centres {', '.join(map(str, used))}; "
                    "give it patients of every class and centre"
                )
            fit, held_out = ((part[0][rows], part[1][rows]) for part, rows in zip((train, val), chosen, strict=True))
            name = f"{repetition}_{level}"
            answers[PREDICTED + name], strengths[name] = fit_biased(fit, held_out, test)
    return answers, strengths


def average_drop(accuracies: NDArray[np.float64]) -> float:
    """Mean over repetitions of [mean over levels above 0 of acc(level) / acc(0)] - 1; 0 where nothing is lost.

    Args:
        accuracies: (R, L + 1), balanced. nan where one of level 0 is 0.
    Source: Koemen et al. 2025 (PathoROB).
    """
    first = accuracies[:, :1]
    return float((accuracies[:, 1:] / first).mean(axis=1).mean() - 1) if (first > 0).all() else math.nan


def columns(truth: NDArray, centre: NDArray, answers: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Columns of predictions that `measure_drop` reads, from classes, centres and answers (M,) of the test rows."""
    cells = np.full(len(truth), _cells(truth, centre).max() + 1)
    return {"truth": truth, "centre": centre, CELLS: cells, **answers}


def measure_drop(predictions: Mapping[str, NDArray]) -> dict[str, float]:
    """APD, and the balanced accuracy after balanced training and after training with class and centre the same.

    Balanced accuracy is the mean over pairs of class and centre of the share of right answers: none of it is to be had
    by guessing the class from the centre. nan where drawn rows lost a pair: the mean over the others is another metric.

    Args:
        predictions: `columns` of M rows.
    Source: Koemen et al. 2025 (PathoROB), whose test sets hold as many slides of each pair.
    """
    truth = np.asarray(predictions["truth"])
    cell = _cells(truth, np.asarray(predictions["centre"]))
    rows = np.bincount(cell)
    if len(rows) < predictions[CELLS][0]:
        return dict.fromkeys(("APD", "balanced accuracy", "fully biased"), math.nan)
    places = [name.removeprefix(PREDICTED).split("_") for name in predictions if name.startswith(PREDICTED)]
    table = np.full((1 + max(int(r) for r, _ in places), 1 + max(int(s) for _, s in places)), math.nan)
    for repetition, level in places:
        right = truth == np.asarray(predictions[f"{PREDICTED}{repetition}_{level}"])
        table[int(repetition), int(level)] = (np.bincount(cell, right) / rows).mean()
    means = table.mean(axis=0)
    return {"APD": average_drop(table), "balanced accuracy": float(means[0]), "fully biased": float(means[-1])}


def _cells(truth: NDArray, centre: NDArray) -> NDArray[np.int64]:
    """(M,) number of the pair of class and centre, from 0 and without gaps."""
    (classes, one), (_, other) = (np.unique(values, return_inverse=True) for values in (truth, centre))
    return np.unique(other * len(classes) + one, return_inverse=True)[1]
