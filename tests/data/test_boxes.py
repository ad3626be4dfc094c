"""Random boxes and symmetries: the distribution is torchvision's, every number belongs to its patch and crop."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torchvision.transforms import RandomResizedCrop

from g2l.data.boxes import BOX, Numbers, random_boxes, symmetries
from g2l.slides.placing.philox import uniforms

ASPECT = (3 / 4, 4 / 3)


def numbers(count: int, crop: int = 0, seed: int = 0) -> Numbers:
    return Numbers.of(seed, np.arange(count), range(crop, crop + 1))


@pytest.mark.parametrize("scale", [(0.32, 1.0), (0.05, 0.32)])
def test_boxes_are_distributed_as_torchvision_s(scale):
    """Two samples of 4000 of the same kind differ by .043 with a probability of 1 in 1000."""
    ours = np.stack(random_boxes(numbers(4000), (256, 256), scale, ASPECT), 1).astype(float)
    image = torch.empty(3, 256, 256)
    torch.manual_seed(0)
    theirs = [RandomResizedCrop.get_params(image, list(scale), list(ASPECT)) for _ in range(4000)]
    theirs = np.array(theirs, float)
    for measure in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0] + b[:, 2] / 2,
        lambda b: b[:, 1] + b[:, 3] / 2,
    ):
        assert kstest(measure(ours), measure(theirs)).statistic < 0.043


def test_areas_are_uniform_and_boxes_lie_inside():
    y, x, height, width = random_boxes(numbers(4000), (256, 256), (0.05, 0.32), ASPECT)
    share = height * width / 256**2
    assert kstest(share, "uniform", args=(0.05, 0.27)).statistic < 0.03
    assert kstest(np.log(width / height), "uniform", args=(np.log(0.75), 2 * np.log(4 / 3))).statistic < 0.03
    assert min(y.min(), x.min()) == 0
    assert max((y + height).max(), (x + width).max()) == 256


def test_what_fits_at_no_attempt_is_the_centre_as_in_torchvision():
    for shape in ((20, 200), (200, 20)):
        boxes = np.stack(random_boxes(numbers(50), shape, (0.9, 1.0), ASPECT), 1)
        expected = RandomResizedCrop.get_params(torch.empty(3, *shape), [0.9, 1.0], list(ASPECT))
        assert (boxes == np.array(expected)).all()


def test_a_box_that_is_drawn_again_takes_the_next_block_of_its_own_numbers():
    """The first attempt that fits, written out from the definition."""
    boxes = np.stack(random_boxes(numbers(300, crop=1, seed=5), (64, 64), (0.9, 1.0), ASPECT), 1)
    again = 0
    for i, box in enumerate(boxes):
        for attempt in range(10):
            area, ratio, y, x = uniforms(5, 1, BOX + attempt, i, 1)
            area, ratio = 64**2 * (0.9 + 0.1 * area), 0.75 * (16 / 9) ** ratio
            high, wide = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
            if high <= 64 and wide <= 64:
                assert box.tolist() == [int(y * (65 - high)), int(x * (65 - wide)), high, wide]
                break
            again += 1
    assert again > 100


def test_numbers_of_a_crop_do_not_depend_on_the_others():
    whole = Numbers.of(3, np.arange(10, 16), range(10))
    part = Numbers.of(3, np.array([14, 11]), range(2, 5))
    expected = whole.blocks(1, 3).reshape(10, 6, 12)[2:5, [4, 1]].reshape(6, 12)
    np.testing.assert_array_equal(part.blocks(1, 3), expected)
    assert len(np.unique(whole.blocks(0, 4))) == 60 * 16


@pytest.mark.parametrize(
    ("flips", "turns", "seen"),
    [
        ((0.5, 0.5), True, range(8)),
        ((0, 0.5), False, (0, 4)),
        ((0.5, 0), False, (0, 2)),
        ((0, 0), False, (0,)),
        ((0, 0), True, (0, 3, 5, 6)),
    ],
)
def test_symmetries_that_are_asked_for_are_equally_likely(flips, turns, seen):
    counts = np.bincount(symmetries(numbers(4000), flips[0], flips[1], turns), minlength=8)
    assert set(np.flatnonzero(counts)) == set(seen)
    spread = (4000 / len(seen) * (1 - 1 / len(seen))) ** 0.5
    assert np.abs(counts[list(seen)] - 4000 / len(seen)).max() <= 4.5 * spread
