"""Crops and symmetries against numpy, blur against torchvision."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from g2l.data.spatial import crop_by_gather, crop_by_slices, gaussian_blur


@pytest.mark.parametrize("cut", [crop_by_slices, crop_by_gather])
@pytest.mark.parametrize("shape", [(12, 12), (9, 14)])
def test_crop_and_symmetry_are_the_ones_that_numpy_makes(cut, shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, *shape, 3), dtype=np.uint8)
    y, x = rng.integers(0, shape[0] - 7 + 1, 16), rng.integers(0, shape[1] - 7 + 1, 16)
    symmetry = np.arange(16) % 8
    result = cut(torch.from_numpy(images), *(torch.from_numpy(a) for a in (y, x, symmetry)), 7)
    for i, s in enumerate(symmetry):
        square = images[i, y[i] : y[i] + 7, x[i] : x[i] + 7]
        square = square[::-1] if s & 2 else square
        square = square[:, ::-1] if s & 4 else square
        square = square.transpose(1, 0, 2) if s & 1 else square
        np.testing.assert_array_equal(result[i].permute(1, 2, 0), square.astype(np.float32) / np.float32(255))


def test_every_sample_is_blurred_as_torchvision_blurs_it():
    x = torch.rand(4, 3, 20, 23, generator=torch.Generator().manual_seed(0))
    sigma = [0.1, 0.7, 1.3, 2.0]
    blurred = gaussian_blur(x, torch.tensor(sigma), 9)
    for before, after, s in zip(x, blurred, sigma, strict=True):
        torch.testing.assert_close(after, F.gaussian_blur(before, [9, 9], [s, s]), rtol=0, atol=1e-6)
