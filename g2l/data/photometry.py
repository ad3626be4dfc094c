"""Stain, colour and sharpness of crops: how much of each is drawn on the host, then applied on the crops' device.

Letters: n crops.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g2l.data import colour, pixels, spatial
from g2l.data.boxes import COLOUR, Numbers

# Columns of the amounts. Each has a value that changes nothing, so that every crop takes every step on a GPU.
STAINED, BRIGHTNESS, CONTRAST, SATURATION, HUE, COLOURED, SIGMA, THRESHOLD = range(8)
MAP = slice(8, 20)
NEUTRAL = np.array([0, 1, 1, 1, 0, 1, 1e-3, 2, *np.eye(3, 4).ravel()], np.float32)

SOLARIZED = 128 / 255  # values from here upwards are inverted, as published


@dataclass(frozen=True)
class Photometry:
    """The steps in their fixed order: stain, brightness, contrast, saturation, hue, grey, blur, solarize.

    That is the order of the causes: the laboratory stains, the scanner lights and focuses. torchvision's ColorJitter
    shuffles its four steps.

    Args:
        stain, jitter, grayscale: probabilities. stain_strength, brightness, contrast, saturation, hue: amounts.
        blur, solarize: probabilities of crop 0, crop 1, ...; the last one holds for all crops after it.
        blur_kernel: taps. blur_sigma: px.
    """

    stain: float
    stain_strength: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grayscale: float
    blur: Sequence[float]
    blur_kernel: int
    blur_sigma: tuple[float, float]
    solarize: Sequence[float]

    def problems(self, size: int) -> list[str]:
        """What is out of range, for crops of `size` px."""
        shares = {"stain": self.stain, "jitter": self.jitter, "grayscale": self.grayscale}
        shares |= {f"blur {p}": p for p in self.blur} | {f"solarize {p}": p for p in self.solarize}
        ranges = {name: getattr(self, name) for name in ("stain_strength", "brightness", "contrast", "saturation")}
        found = [
            f"{name.split()[0]} is {p}, a probability must be in 0-1" for name, p in shares.items() if not 0 <= p <= 1
        ]
        found += [f"{name} is {r}, it must be in 0-1" for name, r in ranges.items() if not 0 <= r <= 1]
        if not 0 <= self.hue <= 0.5:
            found.append(f"hue is {self.hue}, it must be in 0-0.5 turns")
        taps = self.blur_kernel
        if any(self.blur) and (taps < 1 or taps % 2 == 0 or taps // 2 >= size):
            found.append(f"blur_kernel is {taps}, it must be odd and less than twice the view")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            found.append(f"blur_sigma is {tuple(self.blur_sigma)}, it must rise from a value above 0")
        return found

    def amounts(self, numbers: Numbers) -> NDArray[np.float32]:
        """How much of each step every crop gets: (n, 20), columns as named above; `NEUTRAL` where it takes none."""
        chance, more, factors, scale, bias = np.split(numbers.blocks(COLOUR, 5), 5, axis=1)
        amounts = np.tile(NEUTRAL.astype(np.float64), (len(chance), 1))

        stained = chance[:, 0] < self.stain
        maps = colour.stain_maps(
            1 + self.stain_strength * (2 * scale[stained, :3] - 1), self.stain_strength * (2 * bias[stained, :3] - 1)
        )
        amounts[stained, STAINED] = 1
        amounts[stained, MAP] = maps.reshape(-1, 12)

        jittered = chance[:, 1] < self.jitter
        swing = np.array([self.brightness, self.contrast, self.saturation, self.hue]) * (2 * factors[jittered] - 1)
        amounts[jittered, BRIGHTNESS : HUE + 1] += swing

        amounts[chance[:, 2] < self.grayscale, COLOURED] = 0
        blurred = chance[:, 3] < _of_crop(self.blur, numbers.crop)
        low, high = self.blur_sigma
        amounts[blurred, SIGMA] = low + (high - low) * more[blurred, 0]
        amounts[more[:, 1] < _of_crop(self.solarize, numbers.crop), THRESHOLD] = SOLARIZED
        return amounts.astype(np.float32)

    def on_device(self, images: Tensor, amounts: Tensor) -> Tensor:
        """All crops of a batch together.

        Which kernels run is a matter of the settings, not of the draws: nothing waits for the device, and
        torch.compile sees one graph.

        Args:
            images: (n, 3, size, size) float32 in [0, 1]; not written to.
            amounts: (n, 20) on the same device.
        """
        if self.stain:
            stained = colour.jitter_stain(images, amounts[:, MAP].view(-1, 3, 4))
            images = torch.where(amounts[:, STAINED].view(-1, 1, 1, 1) > 0, stained, images)  # black stays black
        if self.jitter:
            images = colour.adjust_brightness(images, amounts[:, BRIGHTNESS])
            images = colour.adjust_contrast(images, amounts[:, CONTRAST])
            images = colour.adjust_saturation(images, amounts[:, SATURATION])
            images = colour.adjust_hue(images, amounts[:, HUE])
        if self.grayscale:
            images = colour.adjust_saturation(images, amounts[:, COLOURED])
        if any(self.blur):
            images = spatial.gaussian_blur(images, amounts[:, SIGMA], self.blur_kernel)
        if any(self.solarize):
            images = colour.solarize(images, amounts[:, THRESHOLD])
        return images

    def on_cpu(self, image: NDArray[np.uint8], amounts: NDArray[np.float32]) -> NDArray[np.float32]:
        """One crop, (size, size, 3) bytes, with its row of amounts; steps that change nothing are left out."""
        takes, much = (amounts != NEUTRAL).tolist(), amounts.tolist()
        result = pixels.jitter_stain(image, amounts[MAP].reshape(3, 4)) if takes[STAINED] else pixels.from_bytes(image)
        if takes[BRIGHTNESS]:
            result = pixels.adjust_brightness(result, much[BRIGHTNESS])
        if takes[CONTRAST]:
            result = pixels.adjust_contrast(result, much[CONTRAST])
        if takes[SATURATION]:
            result = pixels.adjust_saturation(result, much[SATURATION])
        if takes[HUE]:
            result = pixels.adjust_hue(result, much[HUE])
        if takes[COLOURED]:
            result = pixels.adjust_saturation(result, much[COLOURED])
        if takes[SIGMA]:
            result = pixels.gaussian_blur(result, much[SIGMA], self.blur_kernel)
        if takes[THRESHOLD]:
            result = pixels.solarize(result, much[THRESHOLD])
        return result


def _of_crop(probabilities: Sequence[float], crop: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array(probabilities, np.float64)[np.minimum(crop, len(probabilities) - 1)]
