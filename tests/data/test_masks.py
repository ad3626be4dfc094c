"""Blockwise masks: how many, how large, for whom; the same whatever the batch; as iBOT's own procedure draws them."""

from math import exp, log, sqrt
from random import Random

import numpy as np
import pytest
import torch

from g2l.data import masks as module
from g2l.data.masks import draw_masks
from g2l.errors import ConfigError

GRID = (16, 16)


@pytest.fixture(scope="module")
def masks() -> torch.Tensor:
    """Of numbers 0 to 2047: (crops, B, N)."""
    return draw_masks(torch.arange(2048), 0, GRID).view(2, 2048, 256)


def test_exactly_one_crop_of_every_image_is_masked(masks):
    masked = masks.any(2)
    assert (masked.sum(0) == 1).all()
    assert masked[0].double().mean() == pytest.approx(0.5, abs=0.05)  # 4.5 standard deviations
    three = draw_masks(torch.arange(300), 0, GRID, crops=3).view(3, 300, 256).any(2)
    assert (three.sum(0) == 1).all()
    assert (three.sum(1) > 60).all()
    assert draw_masks(torch.arange(5), 0, GRID, crops=1).any(1).all()


def test_masks_have_76_of_256_tokens_on_average_and_never_more_than_128(masks):
    count = masks.any(0).sum(1)
    assert count.double().mean() == pytest.approx(76.3, abs=1)
    assert count.max() <= 128
    assert count.min() >= 20


def blockwise(random: Random, target: int) -> np.ndarray:
    """iBOT's procedure written out from the papers, with blocks of 4 to 128 tokens and up to ten tries for each."""
    mask = np.zeros(GRID, bool)
    for _ in range(target):
        most = min(target - mask.sum(), 128)
        for _ in range(10):
            area, ratio = random.uniform(4, most), exp(random.uniform(log(0.3), -log(0.3)))
            high, wide = round(sqrt(area * ratio)), round(sqrt(area / ratio))
            if high >= 16 or wide >= 16:
                continue
            y, x = random.randint(0, 16 - high), random.randint(0, 16 - wide)
            block = mask[y : y + high, x : x + wide]
            if 0 < block.size - block.sum() <= most:
                block[:] = True
                break
        else:
            break
    return mask


def test_masks_are_those_of_the_procedure(masks):
    """Number of tokens, number of borders and how often each token is masked, against 600 of the reference."""
    random = Random(0)
    theirs = np.stack([blockwise(random, int(256 * random.uniform(0.1, 0.5))) for _ in range(600)])
    ours = masks.any(0).view(-1, *GRID).numpy()
    assert ours.sum((1, 2)).mean() == pytest.approx(theirs.sum((1, 2)).mean(), abs=5)
    for axis in (1, 2):
        borders = [np.diff(m.astype(int), axis=axis).astype(bool).sum((1, 2)) for m in (ours, theirs)]
        assert borders[0].mean() == pytest.approx(borders[1].mean(), abs=1.6)
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 0.1


def test_shares_are_stratified_over_any_run_of_numbers():
    """32 numbers in a row have nearly the tokens of an even spread: independent ones lie up to 30 tokens from it."""
    for first in (0, 1234567, 2**40):
        count = draw_masks(torch.arange(first, first + 32), 7, GRID).view(2, 32, 256).any(0).sum(1).sort().values
        even = torch.linspace(25.6, 128, 33)
        assert ((count - (even[1:] + even[:-1]) / 2).abs() < 9).all()
        assert count.double().mean() == pytest.approx(76.3, abs=4)


def test_a_mask_is_a_function_of_seed_and_number_alone():
    index = torch.arange(50, 70)
    whole = draw_masks(index, 3, GRID).view(2, 20, 256)
    order = torch.tensor([13, 2, 7])
    assert torch.equal(draw_masks(index[order], 3, GRID).view(2, 3, 256), whole[:, order])
    assert not torch.equal(draw_masks(index, 4, GRID).view(2, 20, 256), whole)
    assert len({mask.numpy().tobytes() for mask in whole.any(0)}) == 20


def test_how_many_blocks_are_drawn_together_makes_no_difference(monkeypatch):
    index = torch.arange(20)
    whole = draw_masks(index, 3, GRID)
    monkeypatch.setattr(module, "AT_ONCE", 3)
    assert torch.equal(draw_masks(index, 3, GRID), whole)


def test_masks_are_blocks_of_the_grid_also_where_it_is_not_square():
    masks = draw_masks(torch.arange(200), 0, (6, 20), ratio=(0.05, 0.05)).view(2, 200, 6, 20).any(0)
    for mask in masks.numpy():  # 6 tokens: one block at first, of 4 to 6
        rows, _ = np.nonzero(mask)
        assert 4 <= len(rows) <= 6
        assert np.ptp(rows) < 6
    assert (masks.double().mean(0)[1:-1, 1:-1] > 0).all()
    height, width = np.array([[mask.any(1).sum(), mask.any(0).sum()] for mask in masks.numpy()]).T
    assert (height > width).any()
    assert (width > height).any()


def test_nothing_to_mask():
    assert not draw_masks(torch.arange(3), 0, GRID, ratio=(0, 0)).any()
    assert draw_masks(torch.arange(0), 0, GRID).shape == (0, 256)
    with pytest.raises(ConfigError, match="ratio"):
        draw_masks(torch.arange(3), 0, GRID, ratio=(0.5, 0.1))
