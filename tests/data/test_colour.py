"""Colour changes against torchvision (one image at a time) and scikit-image."""

import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed
from torchvision.transforms.v2 import functional as F

from g2l.data import colour


def images(count: int = 6, side: int = 17) -> torch.Tensor:
    """Random colours, and the ones where hue and saturation are delicate: greys, pure colours, black, white."""
    x = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    x[:, :, 0] = x[:, :1, 0]
    corners = torch.tensor([[r, g, b] for r in (0.0, 1) for g in (0.0, 1) for b in (0.0, 1)]).T
    x[:, :, 1, :8] = corners
    x[:, :, 2, :8] = 0.2 + 0.5 * corners
    return x


@pytest.mark.parametrize(
    ("name", "amounts"),
    [
        ("adjust_brightness", [0, 0.85, 1, 1.15, 1.7, 3]),
        ("adjust_contrast", [0, 0.85, 1, 1.15, 1.7, 3]),
        ("adjust_saturation", [0, 0.9, 1, 1.1, 1.7, 3]),
        ("adjust_hue", [-0.5, -0.3, -0.05, 0, 0.05, 0.5]),
    ],
)
def test_every_sample_gets_what_torchvision_gives_it(name, amounts):
    x = images(len(amounts))
    kept = x.clone()
    changed = getattr(colour, name)(x, torch.tensor(amounts, dtype=torch.float32))
    for before, after, amount in zip(x, changed, amounts, strict=True):
        # at most a hundredth of a grey level apart
        torch.testing.assert_close(after, getattr(F, name)(before, float(amount)), rtol=0, atol=4e-5)
    torch.testing.assert_close(x, kept, rtol=0, atol=0)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_hue_comes_back_after_a_whole_turn_and_keeps_maximum_and_minimum():
    x = images(2)
    half = colour.adjust_hue(x, torch.tensor([0.5, 0.2]))
    torch.testing.assert_close(half.amax(1), x.amax(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(half.amin(1), x.amin(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(colour.adjust_hue(half, torch.tensor([0.5, -0.2])), x, rtol=0, atol=1e-5)


def stained(count: int, side: int = 16) -> torch.Tensor:
    """Pixels made of stains: no amount is negative, so that scikit-image clips none, and none is near black."""
    amounts = np.random.default_rng(0).uniform(0, 0.07, (count, side, side, 3))  # times ln(1e6): absorbances to 1
    return torch.from_numpy(hed2rgb(amounts)).permute(0, 3, 1, 2).float()


def test_stain_jitter_scales_and_shifts_what_scikit_image_measures():
    rng = np.random.default_rng(1)
    x, scale, bias = stained(5), rng.uniform(0.8, 1.2, (5, 3)), rng.uniform(0, 0.2, (5, 3))
    changed = colour.jitter_stain(x, torch.from_numpy(colour.stain_maps(scale, bias)).float())
    for before, after, a, b in zip(x, changed, scale, bias, strict=True):
        amounts = rgb2hed(before.permute(1, 2, 0).double().numpy())
        expected = hed2rgb(amounts * a + b / np.log(1e6))
        np.testing.assert_allclose(after.permute(1, 2, 0), expected, rtol=0, atol=1e-5)


def test_stain_jitter_of_nothing_changes_nothing_but_black():
    """Black has no absorbance; it becomes half a grey level."""
    x = images(4)
    one, none = np.ones((4, 3)), np.zeros((4, 3))
    same = colour.jitter_stain(x, torch.from_numpy(colour.stain_maps(one, none)).float())
    torch.testing.assert_close(same, x.clamp(min=0.5 / 255), rtol=0, atol=1e-5)
    eosin = torch.from_numpy(colour.stain_maps(one[:1], np.array([[0, 0.1, 0]]))).float()
    tinted = colour.jitter_stain(torch.ones(1, 3, 4, 4), eosin)
    expected = np.exp(-0.1 * colour.RGB_FROM_HED[1]).tolist()
    assert tinted[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_solarize_and_grey_are_those_of_torchvision():
    x = images(4)
    for threshold in (0.0, 0.5, 128 / 255, 2.0):
        solarized = colour.solarize(x, torch.full((4,), threshold))
        expected = F.solarize(x, min(threshold, 1.0)) if threshold <= 1 else x
        assert torch.equal(solarized, expected)
    grey = colour.adjust_saturation(x, torch.tensor([0.0, 1, 0, 1]))
    torch.testing.assert_close(grey[::2], F.rgb_to_grayscale(x[::2], num_output_channels=3), rtol=0, atol=1e-6)
    assert torch.equal(grey[1::2], x[1::2])
