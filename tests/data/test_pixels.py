"""One image on a CPU: what the batched functions give, to a hundredth of a grey level."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from g2l.data import colour, pixels, spatial

TOLERANCE = 4e-5


def image(side: int = 24) -> NDArray[np.uint8]:
    """Random colours, greys, pure colours, black and white."""
    x = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    x[0] = x[0, :, :1]
    corners = np.array([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)], np.uint8)
    x[1, :8], x[2, :8] = 255 * corners, 50 + 130 * corners
    return x


def batched(name: str, module: object, *amounts: object) -> NDArray[np.float32]:
    x = torch.from_numpy(image()).permute(2, 0, 1)[None] / 255
    return getattr(module, name)(x, *amounts)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("name", "amounts"),
    [
        ("adjust_brightness", [0, 0.6, 1.4]),
        ("adjust_contrast", [0, 0.6, 1.4]),
        ("adjust_saturation", [0, 0.8, 1.2]),
        ("adjust_hue", [-0.5, -0.1, -0.01, 0.01, 0.1, 0.5]),
        ("solarize", [0.0, 128 / 255, 2.0]),
    ],
)
def test_colour_is_that_of_the_batched_functions(name, amounts):
    for amount in amounts:
        result = getattr(pixels, name)(pixels.from_bytes(image()), amount)
        assert result.dtype == np.float32
        expected = batched(name, colour, torch.tensor([amount], dtype=torch.float32))
        np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE)


def test_stain_jitter_is_that_of_the_batched_function():
    rng = np.random.default_rng(1)
    for _ in range(4):
        maps = colour.stain_maps(rng.uniform(0.8, 1.2, (1, 3)), rng.uniform(-0.2, 0.2, (1, 3))).astype(np.float32)
        result = pixels.jitter_stain(image(), maps[0])
        np.testing.assert_allclose(
            result, batched("jitter_stain", colour, torch.from_numpy(maps)), rtol=0, atol=TOLERANCE
        )


@pytest.mark.parametrize("kernel", [1, 3, 9])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_that_of_the_batched_function(sigma, kernel):
    result = pixels.gaussian_blur(pixels.from_bytes(image()), sigma, kernel)
    expected = batched("gaussian_blur", spatial, torch.tensor([sigma]), kernel)
    np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE)
