"""Crops and symmetries against torchvision and numpy, blur against torchvision."""

import numpy as np
import pytest
import torch
from skimage.data import immunohistochemistry
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from g2l.data.spatial import cut, gaussian_blur, resized_crops

BOXES = [(0, 0, 40, 37), (3, 4, 20, 30), (10, 11, 7, 9), (5, 6, 24, 24), (0, 13, 40, 24), (39, 36, 1, 1)]


def tissue(count: int) -> Tensor:
    """Pieces of a real stained section, (count, 40, 37, 3)."""
    section = torch.from_numpy(immunohistochemistry())
    return torch.stack([section[50 * i : 50 * i + 40, 60 * i : 60 * i + 37] for i in range(count)])


def noise(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 40, 37, 3), dtype=torch.uint8, generator=torch.manual_seed(0))


def expected(image: Tensor, box: tuple[int, int, int, int], symmetry: int, size: int) -> Tensor:
    """torchvision's crop and resize of floats, then numpy's symmetries."""
    y, x, height, width = box
    part = image[y : y + height, x : x + width].permute(2, 0, 1).float() / 255
    part = F.resize(part, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True).clamp(0, 1).numpy()
    part = part[:, ::-1] if symmetry & 2 else part
    part = part[:, :, ::-1] if symmetry & 4 else part
    return torch.from_numpy((part.transpose(0, 2, 1) if symmetry & 1 else part).copy())


@pytest.mark.parametrize("images", [noise(6), tissue(6)])
@pytest.mark.parametrize("crops", [1, 2])
def test_batched_crops_are_those_of_torchvision(images, crops):
    """Larger and smaller boxes, one of 24 x 24, one pixel; crop-major order."""
    boxes = (BOXES + BOXES[::-1])[: 6 * crops]
    symmetry = [0, 1, 2, 4, 7, 5, 6, 3, 0, 1, 2, 3][: 6 * crops]
    result = resized_crops(images, torch.tensor(boxes).float(), torch.tensor(symmetry), 24)
    assert result.is_contiguous()
    for row, (box, s) in enumerate(zip(boxes, symmetry, strict=True)):
        torch.testing.assert_close(result[row], expected(images[row % 6], box, s, 24), rtol=0, atol=2e-6)


def test_single_crops_are_those_of_torchvision_to_one_grey_level():
    """Bytes are rounded and clipped between the two directions, as Pillow does it."""
    for image, box, s in zip(tissue(6), BOXES, [0, 1, 2, 4, 7, 5], strict=True):
        crop = torch.from_numpy(cut(image, box, s, 24)).permute(2, 0, 1) / 255
        difference = 255 * (crop - expected(image, box, s, 24)).abs()
        assert difference.max() < 1.1
        assert difference.mean() < 0.35


@pytest.mark.parametrize("shape", [(12, 12), (9, 14)])
def test_a_box_of_the_crop_s_size_is_not_resampled(shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, *shape, 3), dtype=np.uint8)
    y, x = rng.integers(0, shape[0] - 7 + 1, 16), rng.integers(0, shape[1] - 7 + 1, 16)
    symmetry = np.arange(16) % 8
    given = torch.from_numpy(images)
    boxes = np.stack([y, x, np.full(16, 7), np.full(16, 7)], 1)
    batch = resized_crops(given, torch.from_numpy(boxes).float(), torch.from_numpy(symmetry), 7)
    for i, s in enumerate(symmetry):
        square = images[i, y[i] : y[i] + 7, x[i] : x[i] + 7]
        square = square[::-1] if s & 2 else square
        square = square[:, ::-1] if s & 4 else square
        square = square.transpose(1, 0, 2) if s & 1 else square
        np.testing.assert_array_equal(cut(given[i], tuple(boxes[i].tolist()), int(s), 7), square)
        np.testing.assert_array_equal(batch[i].permute(1, 2, 0), square.astype(np.float32) / np.float32(255))


def test_every_sample_is_blurred_as_torchvision_blurs_it():
    x = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    sigma = [0.1, 0.7, 1.3, 2.0]
    blurred = gaussian_blur(x, torch.tensor(sigma), 9)
    for before, after, s in zip(x, blurred, sigma, strict=True):
        torch.testing.assert_close(after, F.gaussian_blur(before, [9, 9], [s, s]), rtol=0, atol=1e-6)


def test_blur_of_almost_no_width_changes_nothing():
    x = torch.rand(2, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gaussian_blur(x, torch.tensor([1e-3, 1e-2]), 9), x)
