"""Images of one field are found by their edges, others are not."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from g2l.evaluation.embedding.images import read_image
from g2l.evaluation.tables.seams import joined


def field(seed: int, height: int, width: int):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width, 3)), (2, 2, 0))
    return np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)


def test_quarters_of_fields_come_together_in_any_order():
    quarters, of = [], []
    for seed in range(8):
        whole = field(seed, 96, 128)
        quarters += [whole[:48, :64], whole[:48, 64:], whole[48:, :64], whole[48:, 64:]]
        of += [seed] * 4
    order = np.random.default_rng(0).permutation(len(of))
    numbers = joined([quarters[index] for index in order])
    truth = np.array(of)[order]
    for number in range(8):
        assert len(np.unique(truth[numbers == number])) == 1
    assert numbers.max() == 7


def test_fields_alone_blank_images_and_other_sizes_stay_alone():
    images = [field(seed, 48, 64) for seed in range(20)] + [np.full((48, 64, 3), 255, np.uint8)] * 3
    images += [field(30, 40, 70), field(31, 1, 1)]
    assert joined(images).tolist() == list(range(25))
    assert joined(images[:1]).tolist() == [0]


@pytest.mark.real_data
def test_many_of_the_nuclei_images_were_cut_from_one_field(real_data):
    files = sorted((real_data / "nuclei").glob("[0-9][0-9][0-9].png"))
    numbers = joined([read_image(path) for path in files])
    sizes = np.bincount(numbers)
    assert len(files) == 64 and len(sizes) == 29 and sizes.max() == 4
    # the joint of a pair, looked at from the pixels: 000 continues in 019
    assert numbers[0] == numbers[19] == numbers[52] == numbers[32]
