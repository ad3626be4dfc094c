"""GPFM's linear head, trained by gradient descent. Letters: N training rows, V validation rows, D width, C classes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.measures.classification import columns, measure_classification
from g2l.evaluation.measures.neighbours import Floats, Report

EPOCHS, BATCH, RATE, LAST_RATE, DECAY = 100, 256, 5e-4, 1e-5, 1e-5


class Head(NamedTuple):
    """Probabilities (M, C) of the sorted classes (C,), the epoch that was kept (from 1), and its AUC on validation."""

    classes: NDArray
    probabilities: NDArray[np.float64]
    epoch: int
    auc: float


def sgd_head(
    train: Floats,
    labels: NDArray,
    val: Floats,
    truth: NDArray,
    test: Floats,
    seed: int = 0,
    epochs: int = EPOCHS,
    report: Report | None = None,
) -> Head:
    """A linear layer on the embeddings as they are: AdamW 5e-4, weight decay 1e-5, batches of 256, a cosine down to
    1e-5 over all steps, and the weights of the epoch with the best validation AUC (the first of equals).

    Where no epoch has an AUC (one class in validation) the last epoch is kept. Same seed, same machine, same answer.

    Args:
        train: (N, D). labels: (N,). val: (V, D). truth: (V,). test: (M, D).
    Source: Ma et al. 2024 (GPFM), ROI classification, and its published program; that program judges on validation
        data where a task has no test part, which is not done here.
    """
    import torch
    from torch.nn.functional import cross_entropy

    classes, codes = np.unique(labels, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(np.asarray(train, np.float32)), torch.from_numpy(codes)
    layer = torch.nn.Linear(x.shape[1], len(classes))
    with torch.no_grad():
        layer.weight.normal_(0.0, 0.01, generator=generator)
        layer.bias.zero_()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=LAST_RATE)

    def judged(rows: Floats) -> NDArray[np.float64]:
        with torch.no_grad():
            return layer(torch.from_numpy(np.asarray(rows, np.float32))).double().softmax(dim=1).numpy()

    best, kept, best_epoch = -np.inf, None, epochs
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(layer(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
        shares = judged(val)
        auc = measure_classification(columns(truth, classes[shares.argmax(axis=1)], classes, shares))["AUC"]
        if auc > best:
            best, best_epoch = auc, epoch
            kept = {name: value.clone() for name, value in layer.state_dict().items()}
        if report is not None:
            report(f"sgd head: epoch {epoch} of {epochs}")
    if kept is not None:
        layer.load_state_dict(kept)
    return Head(classes, judged(test), best_epoch, best if kept is not None else float("nan"))
