"""Accuracy and balanced accuracy of predicted classes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Accuracy(NamedTuple):
    """Shares in [0, 1]."""

    accuracy: float
    balanced: float


def accuracy(truth: NDArray, predicted: NDArray) -> Accuracy:
    """Share of right answers, and its mean over the classes of `truth` (balanced: every class weighs the same).

    A class that is predicted but does not occur in `truth` has no recall and only costs the others theirs.

    Args:
        truth, predicted: (N,) labels of the same type, N at least 1.
    """
    right = truth == predicted
    recalls = [right[truth == name].mean() for name in np.unique(truth)]
    return Accuracy(float(right.mean()), float(np.mean(recalls)))
