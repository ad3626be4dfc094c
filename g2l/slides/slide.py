"""A slide file in physical units: `Slide.open`, `read_patch`, `thumbnail`. No level number leaves this module.

Frame of all coordinates: micrometres from the top-left corner of level 0, x to the right, y down; pixel i of level 0
covers [i, i + 1) * mpp.
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from g2l.errors import SlideError
from g2l.slides.resolution import resolve

# A level within this share of the asked mpp is taken as it is: resampling by less than 1 % costs sharpness and buys
# nothing. The patch is then at most 1 % wider or narrower than asked.
NATIVE_TOLERANCE = 0.01
# One read never asks for more source pixels than this (64 MiB as RGBA): larger ones are put together from parts.
MAX_READ_PIXELS = 1 << 24
# OpenSlide keeps a tile cache per handle (32 MiB): a thousand open slides would hold 32 GiB. All share this one.
CACHE_BYTES = 64 << 20


class Slide:
    """An open slide. Use it as a context manager; reading from several threads is safe.

    Attributes:
        path: the file.
        mpp: micrometres per level-0 pixel (mean of x and y where they differ; reading honours both).
        mpp_xy: the same along x and along y.
        mpp_source: "file" or "given".
        dimensions: (width, height) in level-0 pixels.
        size_um: (width, height) in micrometres.
        backend: the reader in use.
        properties: what the reader tells about the file.
    """

    backend = "openslide"

    def __init__(self, handle: openslide.OpenSlide, path: Path, mpp: float | None) -> None:
        self.path = path
        self._handle = handle
        self._closed = False
        self.properties: Mapping[str, str] = handle.properties
        self._mpp_x, self._mpp_y, self.mpp_source = resolve(path, self.properties, mpp)
        self.mpp = (self._mpp_x + self._mpp_y) / 2
        self.mpp_xy = (self._mpp_x, self._mpp_y)
        self.dimensions: tuple[int, int] = handle.dimensions
        self.size_um = (self.dimensions[0] * self._mpp_x, self.dimensions[1] * self._mpp_y)
        self._levels: list[tuple[int, int]] = [(w, h) for w, h in handle.level_dimensions]
        self._nominal: list[float] = list(handle.level_downsamples)
        self._downsamples = [
            _true_downsample(self.dimensions, level, nominal)
            for level, nominal in zip(self._levels, self._nominal, strict=True)
        ]

    @classmethod
    def open(cls, path: str | Path, mpp: float | None = None) -> Self:
        """Open a slide file.

        Args:
            path: any file OpenSlide reads (of a DICOM series: any one of its files).
            mpp: um per level-0 pixel; wins over what the file states.
        Raises:
            SlideError: no such file, not readable, no resolution, or an implausible one.
        """
        path = Path(path)
        if not path.is_file():
            raise SlideError(f"slide {path} does not exist or is not a file; check the path")
        try:
            handle = openslide.OpenSlide(str(path))
        except (openslide.OpenSlideError, OSError) as error:
            why = "no slide format that OpenSlide knows" if _unsupported(error) else str(error)
            raise SlideError(f"slide {path} cannot be read ({why}); replace or remove the file") from error
        try:
            handle.set_cache(_shared_cache())
            return cls(handle, path, mpp)
        except openslide.OpenSlideError as error:
            handle.close()
            raise SlideError(f"slide {path} cannot be read ({error}); replace or remove the file") from error
        except SlideError:
            handle.close()
            raise

    def close(self) -> None:
        """Free the file handle; closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Slide({str(self.path)!r}, mpp={self.mpp:g}, dimensions={self.dimensions})"

    def read_patch(self, x: float, y: float, size: int, mpp: float) -> NDArray[np.uint8]:
        """Read a square patch.

        Args:
            x, y: the patch's top-left corner in um from the slide's; it may lie outside.
            size: side of the result in px.
            mpp: um per px of the result. The coarsest level that is fine enough is read and resampled (antialiased,
                without shift); a level within 1 % of `mpp` is taken as it is, at the nearest whole pixel.
        Returns:
            (size, size, 3) uint8 RGB; white outside the slide and where the file holds no pixels.
        Raises:
            SlideError: the file is damaged at this place.
        """
        return self._region(x, y, size, size, mpp, NATIVE_TOLERANCE)

    def thumbnail(self, mpp: float) -> NDArray[np.uint8]:
        """The whole slide at `mpp` um/px: (round(height_um / mpp), round(width_um / mpp), 3) uint8 RGB."""
        width, height = (max(1, round(side / mpp)) for side in self.size_um)
        return self._region(0.0, 0.0, width, height, mpp, tolerance=0.0)

    def _region(self, x: float, y: float, width: int, height: int, mpp: float, tolerance: float) -> NDArray[np.uint8]:
        level = self._level_for(mpp, max(tolerance, 1e-6))
        down = self._downsamples[level]
        scale_x, scale_y = mpp / (self._mpp_x * down), mpp / (self._mpp_y * down)  # level px per px of the result
        left, top = x / (self._mpp_x * down), y / (self._mpp_y * down)
        if width * height * scale_x * scale_y > MAX_READ_PIXELS and max(width, height) > 1:
            return self._in_two_parts(x, y, width, height, mpp, tolerance)
        if abs(scale_x - 1) <= tolerance and abs(scale_y - 1) <= tolerance:
            pixels, _, _ = self._read_level(level, round(left), round(top), width, height)
            return np.array(pixels)  # a copy: PIL's own buffer is read-only
        right, bottom = left + width * scale_x, top + height * scale_y
        columns, rows = self._levels[level]
        x0, x1 = _with_margin(left, right, scale_x, columns)
        y0, y1 = _with_margin(top, bottom, scale_y, rows)
        pixels, from_x, from_y = self._read_level(level, x0, y0, x1 - x0, y1 - y0)
        # HAMMING averages over the source pixels of one result pixel without BOX's jumps at fractional ratios.
        filter_ = Image.Resampling.HAMMING if scale_x * scale_y >= 1 else Image.Resampling.BICUBIC
        box = (
            max(left - from_x, 0.0),
            max(top - from_y, 0.0),
            min(right - from_x, float(x1 - x0)),
            min(bottom - from_y, float(y1 - y0)),
        )
        return np.array(pixels.resize((width, height), filter_, box=box))

    def _in_two_parts(
        self, x: float, y: float, width: int, height: int, mpp: float, tolerance: float
    ) -> NDArray[np.uint8]:
        if width >= height:
            half = width // 2
            first = self._region(x, y, half, height, mpp, tolerance)
            second = self._region(x + half * mpp, y, width - half, height, mpp, tolerance)
            return np.concatenate([first, second], axis=1)
        half = height // 2
        first = self._region(x, y, width, half, mpp, tolerance)
        second = self._region(x, y + half * mpp, width, height - half, mpp, tolerance)
        return np.concatenate([first, second], axis=0)

    def _level_for(self, mpp: float, tolerance: float) -> int:
        """The coarsest level that is not coarser than `mpp` (level 0 when even that is)."""
        asked = mpp / min(self._mpp_x, self._mpp_y) * (1 + tolerance)
        return max((i for i, down in enumerate(self._downsamples) if down <= asked), default=0)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> tuple[Image.Image, float, float]:
        """Read pixels [x, x + width) x [y, y + height) of a level: RGB, and the place in level px it really begins.

        OpenSlide takes whole level-0 pixels and divides by its own downsample (2.0001 for a pyramid of 2), so the
        place is rarely a whole pixel: it then interpolates, and the caller must know from where.
        """
        nominal = self._nominal[level]
        corner = round(x * nominal), round(y * nominal)
        try:
            rgba = self._handle.read_region(corner, level, (width, height))
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"slide {self.path} is damaged at level-0 pixel {corner} ({error}); replace or remove the file"
            ) from error
        return _on_white(rgba), corner[0] / nominal, corner[1] / nominal


def _on_white(rgba: Image.Image) -> Image.Image:
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=alpha)
    return white


def _with_margin(start: float, stop: float, scale: float, end: int) -> tuple[int, int]:
    """Whole source pixels for [start, stop) plus the filter's support, so that neighbouring patches fit seamlessly.

    The margin stops at the slide's border (there PIL renormalises its taps) unless the patch itself crosses it.
    """
    margin = 2 * max(scale, 1.0) + 1
    hair = 1e-6  # a rounding error beyond the border is not beyond it: it would blend in white
    first = max(math.floor(start - margin), min(0, math.floor(start + hair)))
    last = min(math.ceil(stop + margin), max(end, math.ceil(stop - hair)))
    return first, max(last, first + 1)


def _true_downsample(full: tuple[int, int], level: tuple[int, int], nominal: float) -> float:
    """The whole number behind a level's downsample, where the level's size is consistent with one.

    OpenSlide states the ratio of the sizes, and sizes are rounded: 9923 -> 4961 -> ... -> 155 px reads as 64.2. Taken
    at its word, the far edge of a coarse level is misplaced by up to a pixel of that level.
    """
    whole = round(nominal)
    if whole >= 1 and all(math.floor(a / whole) <= b <= math.ceil(a / whole) for a, b in zip(full, level, strict=True)):
        return float(whole)
    return nominal


def _unsupported(error: Exception) -> bool:
    return isinstance(error, openslide.OpenSlideUnsupportedFormatError)


@functools.cache
def _shared_cache() -> openslide.OpenSlideCache:
    return openslide.OpenSlideCache(CACHE_BYTES)
