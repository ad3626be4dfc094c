"""k-nearest-neighbour voting on frozen embeddings (cosine), the classifier without anything to tune.

Letters: N training rows, M test rows, D width, C classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import G2LError
from g2l.evaluation.measures.accuracy import Accuracy, accuracy
from g2l.evaluation.measures.neighbours import Directions, Report, as_labels, as_split, nearest


class Votes(NamedTuple):
    """What the neighbours say.

    Attributes:
        classes: (C,) sorted.
        predicted: (M,) labels.
        shares: (M, C) of the votes; rows sum to 1.
    """

    classes: NDArray
    predicted: NDArray
    shares: NDArray[np.float64]


def knn_votes(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, k: int = 20, report: Report | None = None
) -> Votes:
    """Votes of the k nearest training rows of each test row in cosine similarity.

    A vote that ends in a tie goes to the tied class whose voters are nearer in sum (largest summed similarity), then to
    the first in sorted order: the answer never depends on the order of the training rows, but for rows that are equally
    near at the k-th place, of which the earlier is taken.

    Args:
        train_x: (N, D). train_y: (N,) labels of any type that sorts. test_x: (M, D).
        k: voters; all N rows vote when there are fewer.
    Raises:
        G2LError: k below 1, shapes that do not fit, values that are not finite.
    """
    train, test = as_split(train_x, test_x)
    labels = as_labels(train_y, len(train), "training labels")
    if k < 1:
        raise G2LError(f"k is {k}; a vote needs at least one neighbour")
    names, codes = np.unique(labels, return_inverse=True)
    k = min(k, len(train))
    shares, winner = np.empty((len(test), len(names))), np.empty(len(test), np.intp)
    for block in nearest(Directions.of(test), Directions.of(train), k, report=report):
        voter = codes[block.neighbours]
        rows = np.arange(len(voter)).repeat(k)
        votes, closeness = np.zeros((2, len(voter), len(names)))
        np.add.at(votes, (rows, voter.ravel()), 1)
        np.add.at(closeness, (rows, voter.ravel()), block.similarity.ravel())
        tied = votes == votes.max(axis=1, keepdims=True)
        winner[block.queries] = np.where(tied, np.round(closeness, 9), -np.inf).argmax(axis=1)
        shares[block.queries] = votes / k
    return Votes(names, names[winner], shares)


def knn_predict(train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, k: int = 20) -> NDArray:
    """Class (M,) of each test row: `knn_votes`, the winners alone."""
    return knn_votes(train_x, train_y, test_x, k).predicted


def knn_accuracy(train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike, k: int = 20) -> Accuracy:
    """Accuracy and balanced accuracy of `knn_predict` against test_y (M,). Split by patient beforehand."""
    predicted = knn_predict(train_x, train_y, test_x, k)
    return accuracy(as_labels(test_y, len(predicted), "test labels"), predicted)
