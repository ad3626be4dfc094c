"""What teacher and student see of a patch: crop, symmetry, stain, colour, blur, batched on the batch's device.

Letters: B images, S side of the patches, size side of the views (px), n crops of a batch, crop-major.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from g2l.data.boxes import Boxes, Numbers, squares, symmetries
from g2l.data.photometry import Photometry
from g2l.data.rendering import Crops, on_cpu, on_device
from g2l.errors import ConfigError


class Views:
    """Two views of every patch with the same geometry: "student" perturbed in colour and sharpness, "clean" not.

    Random crop, quarter turn, flips; then for "student" alone stain, brightness, contrast, saturation, hue, blur.
    Everything about sample i is a function of (seed, index i), whatever batch, rank or worker it is in; on a CPU the
    results are bitwise so. A CPU and a GPU draw the same numbers.

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
    Attributes:
        crops, locals: global and local crops per image. local_size: side of the local ones.
    Raises:
        ConfigError: values out of range, all of them named.
    """

    crops, locals, local_size = 1, 0, 0

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
        colours = (stain, stain_strength, jitter, brightness, contrast, saturation, hue)
        photometry = Photometry(*colours, 0.0, (blur,), blur_kernel, blur_sigma, (0.0,))
        self._settle(size, (flip, flip), quarter_turns, photometry, photometry.problems(size))

    def _settle(
        self, size: int, flips: tuple[float, float], quarter_turns: bool, photometry: Photometry, problems: list[str]
    ) -> None:
        """Keep the settings; flips: up-down, left-right."""
        if size < 1:
            problems = [*problems, f"size is {size} px, it must be positive"]
        problems = problems + [f"flip is {p}, a probability must be in 0-1" for p in {*flips} if not 0 <= p <= 1]
        if problems:
            raise ConfigError(f"views: {'; '.join(problems)}")
        self.size, self.flips, self.quarter_turns, self.photometry = size, flips, quarter_turns, photometry

    @classmethod
    def published(cls, size: int = 224) -> Self:
        """The views of G2L (Cho et al. 2025): flips, colour jitter and blur, no quarter turns, no stain jitter."""
        return cls(size, quarter_turns=False, stain=0.0)

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        index: Tensor,
        seed: int,
        training: bool,
        names: Sequence[str] = ("student", "clean"),
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
        self._check(images, index, names, training)
        if not training:
            return dict.fromkeys(names, self._centre(images))
        numbers = index.numpy(force=True)
        views = {}
        for kind, crops, size in self._kinds():
            wanted = {name: perturbed for name, perturbed in kind.items() if name in names}
            if wanted:
                drawn = Numbers.of(seed, numbers, crops)
                boxes = np.stack(self._boxes(drawn, (images.shape[1], images.shape[2])), axis=1)
                turns = symmetries(drawn, *self.flips, self.quarter_turns)
                what = Crops(boxes, turns, self.photometry.amounts(drawn), size)
                render = on_cpu if images.device.type == "cpu" else on_device
                views |= render(images, what, self.photometry, wanted)
        return {name: views[name] for name in names}

    def _kinds(self) -> list[tuple[dict[str, bool], range, int]]:
        """Crops that are made together: names and whether perturbed, numbers of the crops, side."""
        return [({"student": True, "clean": False}, range(self.crops), self.size)]

    def _boxes(self, numbers: Numbers, shape: tuple[int, int]) -> Boxes:
        return squares(numbers, shape, self.size)

    def _centre(self, images: Tensor) -> Tensor:
        top, left = (images.shape[1] - self.size) // 2, (images.shape[2] - self.size) // 2
        square = images[:, top : top + self.size, left : left + self.size].permute(0, 3, 1, 2)
        return square.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _check(self, images: Tensor, index: Tensor, names: Sequence[str], training: bool) -> None:
        known = [name for kind, _, _ in self._kinds() for name in kind if training or name != "local"]
        unknown = sorted(set(names) - set(known))
        if unknown:
            mode = "" if training else " outside training"
            raise ConfigError(f"views: unknown {', '.join(unknown)}; there are {' and '.join(known)}{mode}")
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3 or index.shape != images.shape[:1]:
            given = f"{images.dtype} {tuple(images.shape)} with index {tuple(index.shape)}"
            raise ConfigError(f"views: patches must be torch.uint8 (B, S, S, 3) with index (B,), got {given}")
        if min(images.shape[1:3]) < self.size:
            side = min(images.shape[1:3])
            raise ConfigError(
                f"views: a view of {self.size} px does not fit into patches of {side} px; use larger patches"
            )
