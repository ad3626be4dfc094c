"""Region maps: which tissue class each place of a slide belongs to, as an indexed PNG that any viewer shows in colour.

Value 0 is "none" (background, artefacts, unlabelled); value k > 0 is `classes[k - 1]`. Two PNG text chunks make the
file complete: `mpp` (micrometres per map pixel) and `classes` (a JSON list of names). The map's top-left corner is the
slide's.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from g2l.errors import SlideError

PALETTE = (
    (255, 255, 255), (148, 0, 211), (230, 97, 1), (27, 158, 119), (31, 60, 180), (247, 182, 210), (255, 221, 51),
    (120, 94, 60), (86, 180, 233), (153, 153, 153), (178, 24, 43), (102, 194, 165),
)  # fmt: skip


@dataclass(frozen=True)
class Regions:
    """A slide's region map: `array` uint8 (h, w), 0 = none; `mpp` um per map pixel; `classes` named from value 1 on."""

    array: np.ndarray
    mpp: float
    classes: tuple[str, ...]

    def label(self, x_um: float, y_um: float, extent_um: float, purity: float = 0.9) -> str | None:
        """The class of a square footprint, or None where none holds `purity` of it.

        Args:
            x_um, y_um: top-left corner, um from the slide's top-left corner.
            extent_um: side of the square, um.
            purity: least share of the footprint's area; what lies outside the map counts as none.
        """
        weights = np.zeros(256)
        rows, row_share = self._span(y_um, extent_um, self.array.shape[0])
        cols, col_share = self._span(x_um, extent_um, self.array.shape[1])
        area = row_share[:, None] * col_share[None, :]
        np.add.at(weights, self.array[rows[:, None], cols[None, :]], area)
        best = int(weights[1:].argmax()) + 1
        total = (extent_um / self.mpp) ** 2
        # The tolerance keeps rounding from refusing a footprint that is pure.
        return self.classes[best - 1] if weights[best] >= purity * total * (1 - 1e-9) > 0 else None

    def _span(self, start_um: float, extent_um: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Map indices under [start, start + extent), and how much of each (0..1] is covered."""
        low, high = start_um / self.mpp, (start_um + extent_um) / self.mpp
        index = np.arange(max(math.floor(low), 0), min(math.ceil(high), limit))
        return index, np.minimum(index + 1, high) - np.maximum(index, low)


def read_regions(path: str | Path) -> Regions:
    """Read a region map written by `write_regions`; SlideError when it is unreadable or incomplete."""
    try:
        with Image.open(path) as image:
            image.load()
            text = dict(getattr(image, "text", {}))
            array = np.asarray(image)
    except OSError as error:
        reason = "is absent" if isinstance(error, FileNotFoundError) else "cannot be read as a PNG"
        raise SlideError(f"region map {path} {reason}; draw or export it again") from error
    try:
        mpp, classes = float(text["mpp"]), tuple(str(name) for name in json.loads(text["classes"]))
    except (KeyError, ValueError, TypeError) as error:
        raise SlideError(
            f"region map {path} lacks the PNG text chunks mpp and classes; write it with g2l.slides.regions"
        ) from error
    if array.ndim != 2 or array.dtype != np.uint8 or array.max(initial=0) > len(classes) or not 0 < mpp < math.inf:
        raise SlideError(f"region map {path} must be an indexed PNG with values 0..{len(classes)} and a positive mpp")
    return Regions(array, mpp, classes)


def write_regions(path: str | Path, array: np.ndarray, mpp: float, classes: Sequence[str]) -> None:
    """Write `array` uint8 (h, w) as an indexed PNG whose text chunks state `mpp` and `classes`; replaces atomically."""
    image = Image.fromarray(np.ascontiguousarray(array, np.uint8)).convert("P")
    image.putpalette([value for colour in PALETTE for value in colour])
    text = PngImagePlugin.PngInfo()
    text.add_text("mpp", repr(float(mpp)))
    text.add_text("classes", json.dumps(list(classes)))
    temporary = Path(path).with_name(Path(path).name + ".part")
    image.save(temporary, "PNG", pnginfo=text)
    temporary.replace(path)
