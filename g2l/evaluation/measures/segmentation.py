"""Overlap of predicted and true pixels. Letters: I images, C classes (background is none), `H` x `W` px."""

import math

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.tables.annotations import IGNORED
from g2l.evaluation.tasks.task import Predictions

TRUE, FALSE, MISSED = "tp_", "fp_", "fn_"
# column: how many classes have true pixels in any image, the same in every row, since a measure sees nothing but rows
CLASSES = "classes"


def count_pixels(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """True positives, false positives and false negatives of each class in one image.

    Pixels whose truth is 255 are left out, whatever was predicted there; what is predicted is never left out for its
    own sake.

    Args:
        truth: (H, W) codes: 0 background, 1 to C the classes, 255 not judged.
        predicted: (H, W) codes 0 to C.
    Returns:
        (3, C) px.
    """
    judged = truth != IGNORED
    pairs = truth[judged].astype(np.int64) * (classes + 1) + predicted[judged]
    table = np.bincount(pairs, minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)
    right = np.diag(table)
    return np.stack([right, table.sum(axis=0) - right, table.sum(axis=1) - right])[:, 1:]


def measure_segmentation(predictions: Predictions) -> dict[str, float]:
    """Dice and intersection over union from columns `tp_<class>`, `fp_<class>`, `fn_<class>` of I images.

    Dice = 2 tp / (2 tp + fp + fn) of one class in one image. Where an image has none of a class, and none was
    predicted, it is undefined and left out (not 1: that would reward a class for being rare); where some was
    predicted, it is 0.

    Returns:
        `Dice`: mean over classes of `Dice <class>`, which is the mean over images.
        `mean IoU`: mean over classes of `IoU <class>` = tp / (tp + fp + fn) of the pixels of all images together.
        `pixel IoU`: tp / (tp + fp + fn) summed over classes too, so that large classes count more.
        nan where undefined; classes that are undefined are left out of means. One class has no value of its own.
        Drawn images that lost a class (fewer have true pixels than the column `classes` says of the whole) have neither
        a value of that class nor the two means over classes: the mean over those left is another metric.
    """
    classes = [name.removeprefix(TRUE) for name in predictions if name.startswith(TRUE)]
    counts = np.array([[predictions[kind + name] for name in classes] for kind in (TRUE, FALSE, MISSED)], np.float64)
    tp, fp, fn = counts  # (C, I)
    dice = _mean(_share(2 * tp, 2 * tp + fp + fn))
    tp, fp, fn = counts.sum(axis=2)
    iou = _share(tp, tp + fp + fn)
    here = tp + fn > 0
    lost = CLASSES in predictions and here.sum() < predictions[CLASSES][0]
    if lost:
        dice[~here] = iou[~here] = math.nan
    values = {
        "Dice": math.nan if lost else float(_mean(dice)),
        "mean IoU": math.nan if lost else float(_mean(iou)),
        "pixel IoU": float(_share(tp.sum(), (tp + fp + fn).sum())),
    }
    if len(classes) > 1:
        for number, name in enumerate(classes):
            values |= {f"Dice {name}": float(dice[number]), f"IoU {name}": float(iou[number])}
    return values


def undefined_images(predictions: Predictions) -> dict[str, int]:
    """Class -> images that have none of it, and for which none was predicted: those that its Dice leaves out."""
    classes = [name.removeprefix(TRUE) for name in predictions if name.startswith(TRUE)]
    seen = {name: np.sum([predictions[kind + name] for kind in (TRUE, FALSE, MISSED)], axis=0) for name in classes}
    return {name: int((pixels == 0).sum()) for name, pixels in seen.items()}


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole; nan where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), math.nan), where=np.asarray(whole) > 0)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without undefined values; nan where all are."""
    defined = ~np.isnan(values)
    return _share(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))
