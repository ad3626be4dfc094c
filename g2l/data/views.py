"""What teacher and student see of a patch: crop, symmetry, stain, colour, blur, batched on the batch's device.

Letters: B images, S side of the patches, size side of the views (px).
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g2l.data.colour import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, jitter_stain
from g2l.data.spatial import crop, gaussian_blur
from g2l.errors import ConfigError
from g2l.slides.sampling import generator

NAMES = ("student", "clean")
STREAM = 1  # of the run's random numbers; stream 0 places the patches

# columns of a sample's uniform numbers; all are drawn always, so that one setting does not move another's numbers
_Y, _X, _TURN, _FLIP_Y, _FLIP_X, _STAIN, _JITTER, _BLUR, _SIGMA = range(9)
_FACTORS, _SCALE, _BIAS, _DRAWS = slice(9, 13), slice(13, 16), slice(16, 19), 19


class Views:
    """Two views of every patch with the same geometry: "student" perturbed in colour and sharpness, "clean" not.

    The order is fixed (torchvision's ColorJitter shuffles its four steps): random crop, quarter turn, flips; then for
    "student" alone stain, brightness, contrast, saturation, hue, blur. That is the order of the causes: the laboratory
    stains, the scanner lights and focuses. Everything about sample i is a function of (seed, index i), whatever batch,
    rank or worker it is in; on a CPU the results are bitwise so.

    Args:
        size: side of the views; patches must be at least as large.
        flip: probability of mirroring left-right, and again of mirroring up-down.
        quarter_turns: also turn by 0, 90, 180 or 270 degrees; with flips all eight symmetries are equally likely.
        stain: probability of the stain jitter.
        stain_strength: haematoxylin, eosin and DAB each times 1 +- this, plus +- this in natural absorbance. Tellez et
            al. 2019 call 0.05 light and 0.2 strong.
        jitter: probability of the four colour steps together.
        brightness, contrast, saturation: factors are uniform in 1 +- this.
        hue: turn uniform in +- this, in whole turns, at most 0.5.
        blur: probability of the blur.
        blur_kernel: taps of the blur, odd. blur_sigma: least and largest sigma in px.
    Raises:
        ConfigError: values out of range, all of them named.
    """

    def __init__(
        self,
        size: int = 224,
        flip: float = 0.5,
        quarter_turns: bool = True,
        stain: float = 0.5,
        stain_strength: float = 0.05,
        jitter: float = 0.5,
        brightness: float = 0.15,
        contrast: float = 0.15,
        saturation: float = 0.1,
        hue: float = 0.05,
        blur: float = 0.1,
        blur_kernel: int = 9,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
    ) -> None:
        shares = {"flip": flip, "stain": stain, "jitter": jitter, "blur": blur}
        ranges = {"stain_strength": stain_strength, "brightness": brightness, "contrast": contrast}
        ranges["saturation"] = saturation
        problems = [f"{name} is {p}, a probability must be in 0-1" for name, p in shares.items() if not 0 <= p <= 1]
        problems += [f"{name} is {r}, it must be in 0-1" for name, r in ranges.items() if not 0 <= r <= 1]
        if not 0 <= hue <= 0.5:
            problems.append(f"hue is {hue}, it must be in 0-0.5 turns")
        if size < 1:
            problems.append(f"size is {size} px, it must be positive")
        if blur > 0 and (blur_kernel < 1 or blur_kernel % 2 == 0 or blur_kernel // 2 >= size):
            problems.append(f"blur_kernel is {blur_kernel}, it must be odd and less than twice the view")
        if not 0 < blur_sigma[0] <= blur_sigma[1]:
            problems.append(f"blur_sigma is {tuple(blur_sigma)}, it must rise from a value above 0")
        if problems:
            raise ConfigError(f"views: {'; '.join(problems)}")
        self.size = size
        self.flip, self.quarter_turns = flip, quarter_turns
        self.stain, self.stain_strength = stain, stain_strength
        self.jitter, self.ranges = jitter, np.array([brightness, contrast, saturation, hue])
        self.blur, self.blur_kernel, self.blur_sigma = blur, blur_kernel, tuple(blur_sigma)

    @classmethod
    def published(cls, size: int = 224) -> Self:
        """The views of G2L (Cho et al. 2025): flips, colour jitter and blur, no quarter turns, no stain jitter."""
        return cls(size, quarter_turns=False, stain=0.0)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, index: Tensor, seed: int, training: bool, names: Sequence[str] = NAMES
    ) -> dict[str, Tensor]:
        """Views of a batch.

        Args:
            images: (B, S, S, 3) uint8 on any device.
            index: (B,) int64, the patches' numbers in the run; on the CPU it costs no synchronisation.
            seed: of the run.
            training: False gives the centre crop under every name, the same tensor, and draws nothing.
            names: which of "student" and "clean" to compute.
        Returns:
            name -> (B, 3, size, size), float32, RGB in [0, 1].
        Raises:
            ConfigError: patches smaller than the view or of another type, unknown names.
        """
        self._check(images, index, names)
        if not training:
            centre = self._centre(images)
            return dict.fromkeys(names, centre)
        draws = np.array([generator(seed, i, STREAM).random(_DRAWS) for i in index.tolist()]).reshape(-1, _DRAWS)
        shape = (len(images), 3, self.size, self.size)
        views = {name: torch.empty(shape, device=images.device) for name in names}
        # on a CPU one image after the other, since its 600 kB stay in the cache from step to step
        step = 1 if images.device.type == "cpu" else max(1, len(images))
        for first in range(0, len(images), step):
            block = slice(first, first + step)
            view = self._crop(images[block], draws[block])
            if "clean" in views:
                views["clean"][block] = view
            if "student" in views:
                views["student"][block] = self._perturb(view, draws[block])
        return views

    def _crop(self, images: Tensor, draws: NDArray[np.float64]) -> Tensor:
        room = np.array(images.shape[1:3]) - self.size + 1
        y, x = (draws[:, [_Y, _X]] * room).astype(np.int64).T
        turns = (4 * draws[:, _TURN]).astype(np.int64) * self.quarter_turns
        # k quarter turns are a transposition for odd k, and mirrored rows and columns as the two tables say
        rows = np.array([0, 0, 1, 1])[turns] ^ (draws[:, _FLIP_Y] < self.flip)
        columns = np.array([0, 1, 1, 0])[turns] ^ (draws[:, _FLIP_X] < self.flip)
        symmetry = turns % 2 + 2 * rows + 4 * columns
        return crop(images, torch.from_numpy(y), torch.from_numpy(x), torch.from_numpy(symmetry), self.size)

    def _perturb(self, images: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """Stain, colour and blur; writes into `images`."""
        swing = 2 * draws - 1
        stain, jitter, blur = (draws[:, [_STAIN, _JITTER, _BLUR]] < [self.stain, self.jitter, self.blur]).T
        scale, bias = 1 + self.stain_strength * swing[:, _SCALE], self.stain_strength * swing[:, _BIAS]
        images = _where(stain, jitter_stain, images, scale, bias)
        factors = np.array([1, 1, 1, 0]) + self.ranges * swing[:, _FACTORS]
        steps = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
        for change, factor in zip(steps, factors.T, strict=True):
            images = _where(jitter, change, images, factor)
        low, high = self.blur_sigma
        sigma = low + (high - low) * draws[:, _SIGMA]
        return _where(blur, lambda x, s: gaussian_blur(x, s, self.blur_kernel), images, sigma)

    def _centre(self, images: Tensor) -> Tensor:
        top, left = (images.shape[1] - self.size) // 2, (images.shape[2] - self.size) // 2
        square = images[:, top : top + self.size, left : left + self.size].permute(0, 3, 1, 2)
        return square.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _check(self, images: Tensor, index: Tensor, names: Sequence[str]) -> None:
        unknown = sorted(set(names) - set(NAMES))
        if unknown:
            raise ConfigError(f"views: unknown {', '.join(unknown)}; there are {' and '.join(NAMES)}")
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3 or index.shape != images.shape[:1]:
            given = f"{images.dtype} {tuple(images.shape)} with index {tuple(index.shape)}"
            raise ConfigError(f"views: patches must be torch.uint8 (B, S, S, 3) with index (B,), got {given}")
        if min(images.shape[1:3]) < self.size:
            side = min(images.shape[1:3])
            raise ConfigError(
                f"views: a view of {self.size} px does not fit into patches of {side} px; use larger patches"
            )


def _where(
    chosen: NDArray[np.bool_], change: Callable[..., Tensor], images: Tensor, *amounts: NDArray[np.float64]
) -> Tensor:
    """`change` applied to the chosen samples only, the others untouched; may write into `images`."""
    if not chosen.any():
        return images
    given: list[Any] = [torch.from_numpy(a[chosen]).to(images.device, images.dtype) for a in amounts]
    if chosen.all():
        return change(images, *given)
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(images.device)
    return images.index_copy_(0, rows, change(images[rows], *given))
