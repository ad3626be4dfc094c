"""Two global and several local crops of every patch, for self-distillation.

Letters: B images, S side of the patches (px).
"""

from typing import Self

from g2l.data.boxes import Boxes, Numbers, random_boxes
from g2l.data.photometry import Photometry
from g2l.data.views import Views


class MultiCrop(Views):
    """Crops of random area and aspect, each resized, turned and perturbed for itself.

    A view "student" or "clean" is (2 B, 3, size, size): all images' crop 0, then all images' crop 1. "local" is
    (locals B, 3, local_size, local_size) in the same order, perturbed; there is none outside training. Resizing is
    antialiased and bicubic. The order of the steps is that of `Views`, then grey and solarize. The defaults are for
    tissue: all eight symmetries, stain jitter, the colour strengths of `Views`, and no grey or solarize, since stains
    carry meaning; `published` has GPFM's.

    Args:
        size, local_size: sides of the crops in px; 98 is 7 patches of 14, take 96 for patches of 16.
        locals: how many local crops.
        scale, local_scale: least and largest area of a crop, as a share of the patch.
        aspect: least and largest width / height of a crop before it is resized.
        flip, vertical_flip: probabilities of mirroring left-right and up-down.
        quarter_turns, stain, stain_strength, jitter, brightness, contrast, saturation, hue: as in `Views`.
        grayscale: probability of grey.
        blur, solarize: probabilities for global crop 0, global crop 1, and each local crop. Blur of 0, .9, .5 is what
            DINOv2's and GPFM's public code does; its arguments read 1, .1, .5, which it takes for the opposite.
        blur_kernel: taps of the blur, odd. blur_sigma: least and largest sigma in px.
    Raises:
        ConfigError: values out of range, all of them named.
    Source: Oquab et al. 2024 (DINOv2); Ma et al. 2024 (GPFM), arXiv 2407.18449. Theirs takes the four colour steps in
        random order, here it is fixed.
    """

    crops = 2

    def __init__(
        self,
        size: int = 224,
        local_size: int = 98,
        locals: int = 8,
        scale: tuple[float, float] = (0.32, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.32),
        aspect: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        vertical_flip: float = 0.5,
        quarter_turns: bool = True,
        stain: float = 0.5,
        stain_strength: float = 0.05,
        jitter: float = 0.8,
        brightness: float = 0.15,
        contrast: float = 0.15,
        saturation: float = 0.1,
        hue: float = 0.05,
        grayscale: float = 0.0,
        blur: tuple[float, float, float] = (0.1, 0.1, 0.1),
        blur_kernel: int = 9,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        solarize: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        colours = (stain, stain_strength, jitter, brightness, contrast, saturation, hue, grayscale)
        photometry = Photometry(*colours, tuple(blur), blur_kernel, blur_sigma, tuple(solarize))
        problems = photometry.problems(min(size, local_size) if locals else size)
        for name, (low, high) in {"scale": scale, "local_scale": local_scale}.items():
            if not 0 < low <= high <= 1:
                problems.append(f"{name} is {(low, high)}, it must rise from a value above 0 to at most 1")
        if not 0 < aspect[0] <= aspect[1]:
            problems.append(f"aspect is {tuple(aspect)}, it must rise from a value above 0")
        if locals < 0 or (locals and local_size < 1):
            problems.append(f"locals is {locals} of {local_size} px, neither may be negative")
        self._settle(size, (vertical_flip, flip), quarter_turns, photometry, problems)
        self.locals, self.local_size = locals, local_size
        self.scale, self.local_scale, self.aspect = scale, local_scale, aspect

    @classmethod
    def published(cls, size: int = 224, local_size: int = 98) -> Self:
        """The views of GPFM's public code: mirrored left-right only, grey and solarize, no stain jitter."""
        return cls(
            size,
            local_size,
            vertical_flip=0.0,
            quarter_turns=False,
            stain=0.0,
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
            grayscale=0.2,
            blur=(0.0, 0.9, 0.5),  # what the code does; its arguments read 1, .1, .5 and mean the opposite there
            solarize=(0.0, 0.2, 0.0),
        )

    def _kinds(self) -> list[tuple[dict[str, bool], range, int]]:
        local = ({"local": True}, range(self.crops, self.crops + self.locals), self.local_size)
        return [*super()._kinds(), *([local] if self.locals else [])]

    def _boxes(self, numbers: Numbers, shape: tuple[int, int]) -> Boxes:
        scale = self.scale if len(numbers.crop) and numbers.crop[0] < self.crops else self.local_scale
        return random_boxes(numbers, shape, scale, self.aspect)
