"""A slide file in physical units: `Slide.open`, `read_patch`, `thumbnail`. No level number leaves this module.

Frame of all coordinates: micrometres from the top-left corner of level 0, x to the right, y down; pixel i of level 0
covers [i, i + 1) * mpp.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from g2l.errors import SlideError
from g2l.slides.backends import Backend, choose, recorded
from g2l.slides.bounds import Bounds, stated_bounds
from g2l.slides.pyramid import NATIVE_TOLERANCE, Level, is_native, levels, margin, pick
from g2l.slides.reader import Reader
from g2l.slides.resolution import Resolution, resolve

# One read never asks for more source pixels than this (48 MiB as RGB): larger ones are put together from parts.
MAX_READ_PIXELS = 1 << 24


class Slide:
    """An open slide. Use it as a context manager; reading from several threads is safe.

    Attributes:
        path: the file.
        mpp: micrometres per level-0 pixel (mean of x and y where they differ; reading honours both).
        mpp_xy: the same along x and along y.
        mpp_source: "file" or "given".
        dimensions: (width, height) in level-0 pixels.
        size_um: (width, height) in micrometres.
        levels: the resolutions that can be read without resampling, finest first.
        backend: the reader in use; backend_reason: why it was chosen.
        tile_map: what `Slide.recorded` needs to open a slide of the backend "tiles".
    """

    def __init__(
        self, reader: Reader, path: Path, resolution: Resolution, reason: str = "", tile_map: str | None = None
    ) -> None:
        self.path, self.backend, self.backend_reason, self.tile_map = path, reader.name, reason, tile_map
        self._reader = reader
        self._closed = False
        self.mpp = (resolution.x + resolution.y) / 2
        self.mpp_xy = (resolution.x, resolution.y)
        self.mpp_source = resolution.source
        self.dimensions: tuple[int, int] = reader.planes[0][:2]
        self.size_um = (self.dimensions[0] * resolution.x, self.dimensions[1] * resolution.y)
        self.levels: list[Level] = levels(reader.planes, self.mpp_xy, reader.shrinks)
        self._finest = [min(level.mpp_x, level.mpp_y) for level in self.levels]
        self._plans: dict[tuple[float, float], _Plan] = {}

    @classmethod
    def open(cls, path: str | Path, mpp: float | None = None, backend: Backend = "auto") -> Self:
        """Open a slide file.

        Args:
            path: any file OpenSlide or tiatoolbox reads (of a DICOM series: any one of its files).
            mpp: um per level-0 pixel; wins over what the file states.
            backend: auto takes the fastest reader whose pixels agree with OpenSlide's on this file.
        Raises:
            SlideError: no such file, not readable, no resolution, or an implausible one.
        """
        path = Path(path)
        if not path.is_file():
            raise SlideError(f"slide {path} does not exist or is not a file; check the path")
        chosen = choose(path, backend)
        try:
            resolution = resolve(path, chosen.reader.properties(), mpp)
        except SlideError:
            chosen.reader.close()
            raise
        return cls(chosen.reader, path, resolution, chosen.reason, chosen.tile_map)

    @classmethod
    def recorded(cls, path: Path, resolution: Resolution, backend: str, tile_map: str | None) -> Self:
        """Open a slide as the index found it: nothing is looked at again, which makes it cheap for tiles."""
        return cls(recorded(path, backend, tile_map), path, resolution, "as indexed", tile_map)

    @cached_property
    def properties(self) -> Mapping[str, str]:
        """What the file says about itself, by OpenSlide's names."""
        return self._reader.properties()

    @property
    def bounds(self) -> Bounds | None:
        """What QuPath crops the slide to, in level-0 px; None: the whole of it."""
        return stated_bounds(self.properties)

    def close(self) -> None:
        """Free the file handle; closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Slide({str(self.path)!r}, mpp={self.mpp:g}, dimensions={self.dimensions})"

    def read_patch(
        self, x: float, y: float, size: int, mpp: float, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Read a square patch.

        Args:
            x, y: the patch's top-left corner in um from the slide's; it may lie outside.
            size: side of the result in px.
            mpp: um per px of the result. The coarsest level that is fine enough is read and resampled (antialiased,
                without shift); a level within 2 % of `mpp` is taken as it is, at the nearest whole pixel.
            out: (size, size, 3) uint8 to write into; made when absent.
        Returns:
            (size, size, 3) uint8 RGB; white outside the slide and where the file holds no pixels.
        Raises:
            SlideError: the file is damaged at this place.
        """
        if out is None:
            out = np.empty((size, size, 3), np.uint8)
        self._region(x, y, mpp, NATIVE_TOLERANCE, out)
        return out

    def thumbnail(self, mpp: float) -> NDArray[np.uint8]:
        """The whole slide at `mpp` um/px: (round(height_um / mpp), round(width_um / mpp), 3) uint8 RGB."""
        width, height = (max(1, round(side / mpp)) for side in self.size_um)
        out = np.empty((height, width, 3), np.uint8)
        self._region(0.0, 0.0, mpp, 1e-6, out)
        return out

    def _region(self, x: float, y: float, mpp: float, tolerance: float, out: NDArray[np.uint8]) -> None:
        plan = self._plans.get((mpp, tolerance)) or self._plan(mpp, tolerance)
        level, scale_x, scale_y, native = plan
        height, width = out.shape[:2]
        left, top = x / level.mpp_x, y / level.mpp_y
        if width * height * scale_x * scale_y > MAX_READ_PIXELS and max(width, height) > 1:
            self._in_two_parts(x, y, mpp, tolerance, out)
        elif native:
            x0 = _within(left, width, level.width, self.size_um[0] / level.mpp_x)
            y0 = _within(top, height, level.height, self.size_um[1] / level.mpp_y)
            self._reader.read(level.source, x0, y0, width, height, level.shrink, out)
        else:
            right, bottom = left + width * scale_x, top + height * scale_y
            x0, x1 = _with_margin(left, right, scale_x, level.width)
            y0, y1 = _with_margin(top, bottom, scale_y, level.height)
            pixels = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
            from_x, from_y = self._reader.read(level.source, x0, y0, x1 - x0, y1 - y0, level.shrink, pixels)
            # HAMMING averages over the source pixels of one result pixel without BOX's jumps at fractional ratios.
            filter_ = Image.Resampling.HAMMING if scale_x * scale_y >= 1 else Image.Resampling.BICUBIC
            box = (
                max(left - from_x, 0.0),
                max(top - from_y, 0.0),
                min(right - from_x, float(x1 - x0)),
                min(bottom - from_y, float(y1 - y0)),
            )
            out[:] = np.asarray(Image.fromarray(pixels).resize((width, height), filter_, box=box))

    def _plan(self, mpp: float, tolerance: float) -> "_Plan":
        level = self.levels[pick(self._finest, mpp, tolerance)]
        scale_x, scale_y = mpp / level.mpp_x, mpp / level.mpp_y
        native = is_native(scale_x, tolerance) and is_native(scale_y, tolerance)
        plan = self._plans[mpp, tolerance] = _Plan(level, scale_x, scale_y, native)
        return plan

    def _in_two_parts(self, x: float, y: float, mpp: float, tolerance: float, out: NDArray[np.uint8]) -> None:
        height, width = out.shape[:2]
        half = max(width, height) // 2
        parts = (out[:, :half], out[:, half:]) if width >= height else (out[:half], out[half:])
        ahead = (half * mpp, 0.0) if width >= height else (0.0, half * mpp)
        self._region(x, y, mpp, tolerance, parts[0])
        self._region(x + ahead[0], y + ahead[1], mpp, tolerance, parts[1])


class _Plan(NamedTuple):
    """How a resolution is read: the level, its px per px of the result, and whether it is taken as it is."""

    level: Level
    scale_x: float
    scale_y: float
    native: bool


def _within(start: float, length: int, end: int, true_end: float) -> int:
    """The nearest whole pixel to begin at.

    A level may lack an odd last pixel of the one above: a patch inside the slide must not lie beyond it for that.
    """
    first = round(start)
    if first + length > end and start + length <= true_end + 1e-6 and end >= length:
        return end - length
    return first


def _with_margin(start: float, stop: float, scale: float, end: int) -> tuple[int, int]:
    """Whole source pixels for [start, stop) plus the filter's support, so that neighbouring patches fit seamlessly.

    The margin stops at the slide's border (there PIL renormalises its taps) unless the patch itself crosses it.
    """
    around = margin(scale)
    hair = 1e-6  # a rounding error beyond the border is not beyond it: it would blend in white
    first = max(math.floor(start - around), min(0, math.floor(start + hair)))
    last = min(math.ceil(stop + around), max(end, math.ceil(stop - hair)))
    return first, max(last, first + 1)
