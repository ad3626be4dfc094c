"""GPFM's head: it learns, keeps the best epoch of validation, and repeats itself."""

import math

import numpy as np

from g2l.evaluation.measures.head import sgd_head


def parts(seed: int, gap: float = 1.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 900)
    x = (rng.normal(size=(900, 10)) + gap * rng.normal(size=(3, 10))[y]).astype(np.float32)
    names = np.array(["fat", "gland", "stroma"])[y]
    return x[:500], names[:500], x[500:700], names[500:700], x[700:], names[700:]


def test_learns_and_gives_probabilities():
    train_x, train_y, val_x, val_y, test_x, test_y = parts(0)
    head = sgd_head(train_x, train_y, val_x, val_y, test_x, epochs=40)
    assert head.probabilities.shape == (200, 3)
    np.testing.assert_allclose(head.probabilities.sum(axis=1), 1)
    assert (head.classes[head.probabilities.argmax(axis=1)] == test_y).mean() > 0.8
    assert 1 <= head.epoch <= 40


def test_same_seed_same_answer_other_seed_another():
    train_x, train_y, val_x, val_y, test_x, _ = parts(1)
    first, again, other = (sgd_head(train_x, train_y, val_x, val_y, test_x, seed=seed, epochs=3) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    assert not np.array_equal(first.probabilities, other.probabilities)


def test_the_kept_epoch_is_the_best_on_validation():
    """Two classes that validation has the wrong way round: the longer it learns, the worse, and the first is kept."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 2000)
    x = (rng.normal(size=(2000, 10)) + np.outer(y, np.linspace(0, 1, 10))).astype(np.float32)
    names, turned = np.array(["fat", "gland"])[y], np.array(["gland", "fat"])[y]
    right = sgd_head(x[:1000], names[:1000], x[1000:], names[1000:], x[1000:], epochs=15)
    wrong = sgd_head(x[:1000], names[:1000], x[1000:], turned[1000:], x[1000:], epochs=15)
    assert wrong.epoch == 1 < right.epoch
    assert wrong.auc < 0.5 < right.auc


def test_one_class_in_validation_keeps_the_last_epoch():
    train_x, train_y, val_x, _, test_x, _ = parts(3)
    head = sgd_head(train_x, train_y, val_x, np.full(200, "fat"), test_x, epochs=2)
    assert head.epoch == 2
    assert math.isnan(head.auc)


def test_one_step_is_that_of_the_formula():
    """One batch, one epoch: Adam's first step moves each weight by the rate against its gradient's sign."""
    import torch

    x, y = np.eye(2, 4, dtype=np.float32), np.array(["a", "b"])
    start = torch.empty(2, 4).normal_(0.0, 0.01, generator=torch.Generator().manual_seed(5)).double().numpy()
    shares = np.exp(x @ start.T) / np.exp(x @ start.T).sum(axis=1, keepdims=True)
    gradient = (shares - np.eye(2)).T @ x / 2
    weight = start * (1 - 5e-4 * 1e-5) - 5e-4 * np.sign(gradient)
    bias = -5e-4 * np.sign((shares - np.eye(2)).sum(axis=0))
    head = sgd_head(x, y, x, np.array(["a", "a"]), x, seed=5, epochs=1)
    expected = x @ weight.T + bias
    found = np.log(head.probabilities)
    np.testing.assert_allclose(found[:, 0] - found[:, 1], expected[:, 0] - expected[:, 1], atol=1e-5)
