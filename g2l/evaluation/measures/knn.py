"""k-nearest-neighbour voting on frozen embeddings (cosine), the classifier without anything to tune."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import G2LError
from g2l.evaluation.measures.accuracy import Accuracy, accuracy
from g2l.evaluation.measures.neighbours import as_labels, as_split, nearest, unit_rows


def knn_predict(train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, k: int = 20) -> NDArray:
    """Class of each test row by majority vote of its k nearest training rows in cosine similarity.

    A vote that ends in a tie goes to the tied class whose voters are nearer in sum (largest summed similarity), then to
    the first in sorted order: the answer never depends on the order of the training rows.

    Args:
        train_x: (N, D). train_y: (N,) labels of any type that sorts. test_x: (M, D).
        k: voters; all N rows vote when there are fewer.
    Returns:
        (M,) labels of train_y's type.
    Raises:
        G2LError: k below 1, shapes that do not fit, values that are not finite.
    """
    train, test = as_split(train_x, test_x)
    labels = as_labels(train_y, len(train), "training labels")
    if k < 1:
        raise G2LError(f"k is {k}; a vote needs at least one neighbour")
    names, codes = np.unique(labels, return_inverse=True)
    member = np.eye(len(names))[codes]
    winner = np.empty(len(test), dtype=np.intp)
    for block, similarity, mask in nearest(unit_rows(test), unit_rows(train), min(k, len(train))):
        votes = mask @ member
        closeness = np.round((similarity * mask) @ member, 9)
        tied = votes == votes.max(axis=1, keepdims=True)
        winner[block] = np.where(tied, closeness, -np.inf).argmax(axis=1)
    return names[winner]


def knn_accuracy(train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike, k: int = 20) -> Accuracy:
    """Accuracy and balanced accuracy of `knn_predict` against test_y (M,). Split by patient beforehand."""
    predicted = knn_predict(train_x, train_y, test_x, k)
    return accuracy(as_labels(test_y, len(predicted), "test labels"), predicted)
