"""Overlap of pixels: against torchmetrics, against numpy on masks, and where it is undefined."""

import math
import time

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index
from torchmetrics.functional.segmentation import dice_score

from g2l.evaluation.measures.segmentation import count_pixels, measure_segmentation, undefined_images
from g2l.evaluation.statistics.bootstrap import interval

NAMES = ("gland", "nucleus", "stroma")


def columns(truths, predictions, names=NAMES):
    counts = np.stack([count_pixels(t, p, len(names)) for t, p in zip(truths, predictions, strict=True)])
    found = {"id": np.arange(len(counts)).astype(str)}
    for kind, prefix in enumerate(("tp_", "fp_", "fn_")):
        found |= {prefix + name: counts[:, kind, c] for c, name in enumerate(names)}
    return found


def masks(seed: int, images: int = 6, side: int = 20, codes: int = 4, ignored: float = 0.1):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, codes, (images, side, side)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, codes, truth.shape)).astype(np.uint8)
    truth[rng.random(truth.shape) < ignored] = 255
    return truth, predicted


def plain(truth, predicted, code):
    """Dice and IoU of one class, from sets of pixels."""
    seen = truth != 255
    a, b = (truth == code) & seen, (predicted == code) & seen
    both, either = (a & b).sum(), (a | b).sum()
    return (2 * both / (a.sum() + b.sum()), both / either) if either else (math.nan, math.nan)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_sets_of_pixels_on_random_masks(seed):
    truth, predicted = masks(seed)
    truth[0][truth[0] == 2] = 0  # a class that one image lacks
    values = measure_segmentation(columns(truth, predicted))
    for code, name in enumerate(NAMES, start=1):
        dice = [plain(t, p, code)[0] for t, p in zip(truth, predicted, strict=True)]
        assert values[f"Dice {name}"] == pytest.approx(np.nanmean(dice))
        assert values[f"IoU {name}"] == pytest.approx(plain(truth, predicted, code)[1])
    assert values["Dice"] == pytest.approx(np.mean([values[f"Dice {name}"] for name in NAMES]))
    assert values["mean IoU"] == pytest.approx(np.mean([values[f"IoU {name}"] for name in NAMES]))


def test_agrees_with_torchmetrics():
    truth, predicted = masks(7, ignored=0)
    values = measure_segmentation(columns(truth, predicted))
    t, p = (torch.from_numpy(x).long() for x in (truth, predicted))
    each = dice_score(p, t, 4, include_background=False, average="none", input_format="index")
    assert values["Dice"] == pytest.approx(float(each.mean()), abs=1e-6)
    assert [values[f"Dice {name}"] for name in NAMES] == pytest.approx(each.mean(0).tolist(), abs=1e-6)
    jaccard = multiclass_jaccard_index(p, t, 4, average="none")
    assert [values[f"IoU {name}"] for name in NAMES] == pytest.approx(jaccard[1:].tolist(), abs=1e-6)
    truth, predicted = masks(8)
    values = measure_segmentation(columns(truth, predicted))
    t, p = (torch.from_numpy(x).long() for x in (truth, predicted))
    jaccard = multiclass_jaccard_index(p, t, 256, average="none", ignore_index=255)
    assert [values[f"IoU {name}"] for name in NAMES] == pytest.approx(jaccard[1:4].tolist(), abs=1e-6)


def test_pixel_iou_lets_large_classes_count_more_and_mean_iou_does_not():
    truth = np.zeros((1, 10, 10), np.uint8)
    truth[0, :9], truth[0, 9] = 1, 2
    predicted = np.ones_like(truth)
    values = measure_segmentation(columns(truth, predicted, NAMES[:2]))
    assert values["mean IoU"] == pytest.approx(0.9 / 2)
    assert values["pixel IoU"] == pytest.approx(90 / (100 + 10))


def test_ignored_pixels_are_those_of_the_truth_whatever_is_predicted_there():
    truth, predicted = masks(1)
    other = np.where(truth == 255, (predicted + 1) % 4, predicted).astype(np.uint8)
    assert (count_pixels(truth, other, 3) == count_pixels(truth, predicted, 3)).all()
    # a code that is predicted is never left out for its own sake
    wrong = np.full_like(truth, 1)
    counted = count_pixels(truth, wrong, 3)
    assert counted[:2, 0].sum() == (truth != 255).sum()


def test_full_and_empty_masks():
    full, empty = np.ones((1, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint8)
    one = ("nucleus",)
    assert measure_segmentation(columns(full, full, one))["Dice"] == 1
    assert measure_segmentation(columns(full, empty, one))["Dice"] == 0
    assert measure_segmentation(columns(empty, full, one))["Dice"] == 0
    assert all(math.isnan(value) for value in measure_segmentation(columns(empty, empty, one)).values())


def test_an_image_with_none_of_a_class_in_truth_and_prediction_is_left_out_and_counted():
    full, empty = np.ones((1, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint8)
    found = columns(np.concatenate([full, empty]), np.concatenate([full, empty]), ("nucleus",))
    assert measure_segmentation(found)["Dice"] == 1
    assert undefined_images(found) == {"nucleus": 1}
    found = columns(np.concatenate([full, empty]), np.concatenate([full, full]), ("nucleus",))
    assert measure_segmentation(found)["Dice"] == 0.5
    assert undefined_images(found) == {"nucleus": 0}


def test_drawn_images_that_lost_a_class_have_no_mean_over_classes():
    """One image of 30 holds a class that is missed; some others have pixels of it that are none."""
    truth = np.ones((30, 8, 8), np.uint8)
    truth[3, 0] = 2
    predicted = np.ones_like(truth)
    predicted[5, 0, 0] = 2
    names = np.char.mod("%02d", np.arange(30))
    found = columns(truth, predicted, NAMES[:2]) | {"id": names, "patient": names, "classes": np.full(30, 2)}
    whole = measure_segmentation(found)
    assert whole["Dice gland"] > 0.9 and whole["Dice nucleus"] == 0 and whole["Dice"] < 0.5
    without = measure_segmentation({name: np.delete(column, 3) for name, column in found.items()})
    assert without["Dice gland"] > 0.9 and without["pixel IoU"] > 0.9
    assert all(math.isnan(without[name]) for name in ("Dice", "mean IoU", "Dice nucleus", "IoU nucleus"))
    drawn = interval(measure_segmentation, found, 400)
    assert drawn["Dice"].undefined == pytest.approx(math.exp(-1), abs=0.06) and math.isnan(drawn["Dice"].high)
    assert drawn["pixel IoU"].undefined == 0


def test_one_class_has_no_value_of_its_own():
    truth, predicted = masks(3, codes=2)
    assert set(measure_segmentation(columns(truth, predicted, ("nucleus",)))) == {"Dice", "mean IoU", "pixel IoU"}


def test_drawn_images_are_measured_again_quickly():
    truth, predicted = masks(4, images=50)
    found = columns(truth, predicted)
    rows = np.random.default_rng(0).integers(0, 50, 2000)
    drawn = {name: column[rows] for name, column in found.items()}
    values, seconds = {}, []
    for _ in range(5):
        start = time.perf_counter()
        values = measure_segmentation(drawn)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02
    whole = measure_segmentation(columns(truth[rows], predicted[rows]))
    assert values == pytest.approx(whole)
