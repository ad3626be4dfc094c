"""What is reported of predicted classes and their probabilities. Letters: N rows, C classes."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

PROBABILITY = "p_"
# column: how many classes the truth has, the same in every row, since a measure sees nothing but rows
CLASSES = "classes"


def columns(truth: NDArray, predicted: NDArray, classes: NDArray, probabilities: NDArray) -> dict[str, NDArray]:
    """Columns of predictions that `measure_classification` reads: truth, predicted, how many classes the truth has, and
    `p_<class>` from (N, C).
    """
    shares = {f"{PROBABILITY}{name}": probabilities[:, number] for number, name in enumerate(classes.tolist())}
    count = np.full(len(truth), len(np.unique(truth)))
    return {"truth": truth, "predicted": predicted, CLASSES: count, **shares}


def measure_classification(predictions: Mapping[str, NDArray]) -> dict[str, float]:
    """AUC, balanced accuracy, weighted F1 and accuracy.

    * AUC: each class of the truth against the rest by its probability, ties counting half (Hanley and McNeil 1982), and
      the mean over these classes (macro, one against the rest). A class that is absent from the truth, or is all of it,
      has no AUC and is left out; nan when that leaves none.
    * balanced accuracy: mean recall over the classes of the truth.
    * weighted F1: 2 TP / (2 TP + FP + FN) of the classes of the truth, weighted by their rows.

    AUC and balanced accuracy weigh every class the same. Drawn rows that lost a class have neither (nan): the mean over
    the classes that are left is another metric.

    Args:
        predictions: `truth` and `predicted` (N,) labels, `classes` (of the whole; without it no class is known to be
            lost), and `p_<class>` (N,) for every class that was trained on. A class of the truth without such a column
            is missed by every row and has no AUC.
    """
    names = [name.removeprefix(PROBABILITY) for name in predictions if name.startswith(PROBABILITY)]
    labels = np.asarray(predictions["truth"])
    truth, predicted = _codes(labels, names), _codes(np.asarray(predictions["predicted"]), names)
    right = truth == predicted
    size = len(names) + 1  # the last stands for whatever has no column
    of_truth = np.bincount(truth, minlength=size).astype(float)
    of_prediction = np.bincount(predicted, minlength=size).astype(float)
    hits = np.bincount(truth[right], minlength=size).astype(float)
    hits[-1] = 0.0
    here = of_truth > 0
    recall = hits[here] / of_truth[here]
    f1 = 2 * hits[here] / (of_truth + of_prediction)[here]
    areas = [
        _auc(truth == number, np.asarray(predictions[f"{PROBABILITY}{name}"]))
        for number, name in enumerate(names)
        if 0 < of_truth[number] < len(truth)
    ]
    found = here[:-1].sum() + len(np.unique(labels[truth == len(names)]))
    lost = CLASSES in predictions and found < predictions[CLASSES][0]
    return {
        "AUC": float(np.mean(areas)) if areas and not lost else math.nan,
        "balanced accuracy": math.nan if lost else float(recall.mean()),
        "weighted F1": float((f1 * of_truth[here]).sum() / len(truth)),
        "accuracy": float(hits.sum() / len(truth)),
    }


def _codes(labels: NDArray, names: list[str]) -> NDArray[np.int64]:
    codes = np.full(len(labels), len(names))
    for number, name in enumerate(names):
        codes[labels == name] = number
    return codes


def _auc(positive: NDArray[np.bool_], score: NDArray) -> float:
    """Mann-Whitney: the share of pairs in which the positive row scores higher."""
    above, below = np.sort(score[positive]), np.sort(score[~positive])
    lower = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
    return float(lower.sum() / (2 * len(above) * len(below)))
