"""Amounts: how often, how much, each by numbers of its own; and their application, on both paths the same."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from g2l.data import colour, photometry, pixels, spatial
from g2l.data.boxes import Numbers
from g2l.data.photometry import NEUTRAL, Photometry

SETTINGS: dict[str, Any] = {
    "stain": 0.0,
    "stain_strength": 0.2,
    "jitter": 0.0,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "grayscale": 0.0,
    "blur": (0.0,),
    "blur_kernel": 9,
    "blur_sigma": (0.1, 2.0),
    "solarize": (0.0,),
}
LOUD: dict[str, Any] = {"stain": 1, "jitter": 1, "grayscale": 0.3, "blur": (1,), "solarize": (0.5,)}
STEPS = ("jitter_stain", "adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue", "gaussian_blur")


def settings(**changed: Any) -> Photometry:
    return Photometry(**(SETTINGS | changed))


def numbers(count: int, crops: int = 1) -> Numbers:
    return Numbers.of(0, np.arange(count), range(crops))


def crops(count: int, side: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.manual_seed(0))


def planes(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def test_blur_and_solarize_occur_as_often_as_asked_on_every_crop():
    """Global 0, global 1, and eight local crops that share the last value."""
    amounts = settings(blur=(0.0, 0.9, 0.5), solarize=(0.0, 0.2, 0.0)).amounts(numbers(1000, crops=10))
    blurred = (amounts[:, photometry.SIGMA] >= 0.1).reshape(10, 1000).mean(1)
    assert blurred[0] == 0
    assert blurred[1] == pytest.approx(0.9, abs=0.043)  # 4.5 standard deviations
    assert np.abs(blurred[2:] - 0.5).max() < 0.072
    solarized = (amounts[:, photometry.THRESHOLD] < 1).reshape(10, 1000).mean(1)
    assert solarized[1] == pytest.approx(0.2, abs=0.057)
    assert not solarized[[0, *range(2, 10)]].any()


def test_amounts_are_uniform_in_their_ranges_and_independent():
    amounts = settings(**LOUD).amounts(numbers(2000))
    columns = []
    for column, low, high in ((1, 0.6, 1.4), (2, 0.6, 1.4), (3, 0.8, 1.2), (4, -0.1, 0.1), (6, 0.1, 2.0)):
        assert kstest(amounts[:, column], "uniform", args=(low, high - low)).statistic < 0.045
        columns.append(amounts[:, column])
    columns += [
        amounts[:, photometry.COLOURED],
        amounts[:, photometry.THRESHOLD],
        *amounts[:, photometry.MAP].T[[0, 3]],
    ]
    assert np.abs(np.corrcoef(columns) - np.eye(9)).max() < 0.1


def test_steps_occur_and_amounts_fall_independently_of_each_other():
    half = settings(stain=0.5, jitter=0.5, grayscale=0.5, blur=(0.5,), solarize=(0.5,))
    amounts = half.amounts(numbers(2000))
    steps = amounts[:, [0, 1, 5, 6, 7]] != NEUTRAL[[0, 1, 5, 6, 7]]
    assert np.abs(steps.mean(0) - 0.5).max() < 0.05  # 4.5 standard deviations
    assert np.abs(np.corrcoef(steps.T) - np.eye(5)).max() < 0.1
    sigma = amounts[steps[:, 3], photometry.SIGMA]
    assert kstest(sigma, "uniform", args=(0.1, 1.9)).statistic < 0.065
    assert kstest(amounts[steps[:, 1], photometry.HUE], "uniform", args=(-0.1, 0.2)).statistic < 0.065


def test_one_setting_does_not_move_the_numbers_of_another():
    loud = settings(**LOUD).amounts(numbers(50))
    for name, columns in (("stain", [0, *range(8, 20)]), ("jitter", [1, 2, 3, 4]), ("blur", [6])):
        alone = settings(**{name: LOUD[name]}).amounts(numbers(50))
        np.testing.assert_array_equal(alone[:, columns], loud[:, columns])
        others = np.setdiff1d(np.arange(20), columns)
        assert (alone[:, others] == NEUTRAL[others]).all()


def test_both_paths_agree():
    """With every step on some crops and off on others; to a hundredth of a grey level where nothing is inverted."""
    images = crops(64)
    some = settings(stain=0.5, jitter=0.5, grayscale=0.3, blur=(0.5,), solarize=(0.3,))
    amounts = some.amounts(numbers(64))
    batch = some.on_device(planes(images), torch.from_numpy(amounts)).permute(0, 2, 3, 1).numpy()
    single = np.stack([some.on_cpu(image, row) for image, row in zip(images.numpy(), amounts, strict=True)])
    border = np.abs(single - photometry.SOLARIZED) < 1e-4  # a value on the threshold may fall to either side
    border |= np.abs(1 - single - photometry.SOLARIZED) < 1e-4
    assert border.mean() < 1e-2
    np.testing.assert_allclose(single[~border], batch[~border], rtol=0, atol=4e-5)


def test_what_is_not_drawn_changes_nothing():
    """On the device too, where every crop takes every step: hue alone rounds."""
    images = planes(crops(3))
    neutral = torch.from_numpy(NEUTRAL).expand(3, -1)
    assert torch.equal(settings(**(LOUD | {"jitter": 0})).on_device(images, neutral), images)
    torch.testing.assert_close(settings(**LOUD).on_device(images, neutral), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", [True, False])
def test_steps_follow_each_other_in_the_documented_order(monkeypatch, device):
    """Stain, brightness, contrast, saturation, hue, grey, blur, solarize; each one on what the last one left."""
    called, last = [], []

    def recorder(module: Any, name: str):
        change = getattr(module, name)

        def record(images: Any, *amounts: Any) -> Any:
            called.append(name)
            if device:
                assert not last or torch.equal(images, last[-1])
            last.append(change(images, *amounts))
            return last[-1]

        return record

    for name in (*STEPS, "solarize"):
        module = pixels if not device else spatial if name == "gaussian_blur" else colour
        monkeypatch.setattr(module, name, recorder(module, name))
    all_on = settings(stain=1, jitter=1, grayscale=1, blur=(1,), solarize=(1,))
    amounts = all_on.amounts(numbers(1))
    if device:
        result = all_on.on_device(planes(crops(1)), torch.from_numpy(amounts))
        assert torch.equal(result, last[-1])
    else:
        assert np.array_equal(all_on.on_cpu(crops(1)[0].numpy(), amounts[0]), last[-1])
    assert called == [*STEPS[:5], "adjust_saturation", "gaussian_blur", "solarize"]


def test_the_batched_path_reads_no_value_back():
    """Meta tensors have none: item(), nonzero() or a mask as an index would raise. One graph for torch.compile."""
    boxes, symmetry = torch.zeros(4, 4, device="meta"), torch.zeros(4, device="meta")
    images = torch.zeros(2, 20, 20, 3, dtype=torch.uint8, device="meta")
    views = spatial.resized_crops(images, boxes, symmetry, 16)
    loud = settings(**LOUD)
    assert loud.on_device(views, torch.zeros(4, 20, device="meta")).shape == (4, 3, 16, 16)
    compiled = torch.compile(loud.on_device, backend="eager", fullgraph=True)
    x, amounts = planes(crops(3)), torch.from_numpy(loud.amounts(numbers(3)))
    assert torch.equal(compiled(x, amounts), loud.on_device(x, amounts))
