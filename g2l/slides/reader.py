"""What a `Slide` asks of the thing that reads its file, and OpenSlide as such a reader."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from g2l.errors import SlideError

# OpenSlide keeps a tile cache per handle (32 MiB): a thousand open slides would hold 32 GiB. All share this one.
CACHE_BYTES = 64 << 20


class Plane(NamedTuple):
    """A stored level: its size and that of its tiles in px (tiles 0: not known)."""

    width: int
    height: int
    tile_w: int = 0
    tile_h: int = 0


class Reader(Protocol):
    """Reads whole pixels of stored levels; safe for threads."""

    @property
    def name(self) -> str:
        """Of the backend."""
        ...

    @property
    def planes(self) -> Sequence[Plane]:
        """The stored levels, finest first."""
        ...

    @property
    def shrinks(self) -> Sequence[int]:
        """1, and by what else a level can be divided while it is decoded."""
        ...

    def read(
        self, plane: int, x: int, y: int, width: int, height: int, shrink: int, out: NDArray[np.uint8]
    ) -> tuple[float, float]:
        """Fill `out` (height, width, 3) with RGB from (x, y), in px of the level divided by `shrink`; white where the
        file has nothing.

        Returns:
            The place it was really read from, where that is no whole pixel.
        Raises:
            SlideError: the file cannot be read there.
        """
        ...

    def properties(self) -> Mapping[str, str]:
        """What the file says about itself, by OpenSlide's names."""
        ...

    def close(self) -> None:
        """Free the file."""
        ...


def damaged(path: Path, plane: int, x: int, y: int, why: object) -> SlideError:
    """The error for a place that cannot be read."""
    where = f"damaged at pixel ({x}, {y}) of level {plane}"
    return SlideError(f"slide {path} is {where} ({why}); replace or remove the file")


class OpenSlideReader:
    """Everything OpenSlide opens."""

    name = "openslide"
    shrinks = (1,)

    def __init__(self, path: Path) -> None:
        """Raises SlideError when OpenSlide does not open the file."""
        self._path, self._lock = path, Lock()
        try:
            self.handle = openslide.OpenSlide(str(path))
        except (openslide.OpenSlideError, OSError) as error:
            unknown = isinstance(error, openslide.OpenSlideUnsupportedFormatError)
            why = "no slide format that OpenSlide knows" if unknown else str(error)
            raise SlideError(f"slide {path} cannot be read ({why}); replace or remove the file") from error
        try:
            self.handle.set_cache(_shared_cache())
            about = self.handle.properties
            self.planes = [
                Plane(*size, *(int(about.get(f"openslide.level[{level}].tile-{side}", 0)) for side in SIDES))
                for level, size in enumerate(self.handle.level_dimensions)
            ]
            self.downsamples = list(self.handle.level_downsamples)
        except openslide.OpenSlideError as error:
            self.handle.close()
            raise SlideError(f"slide {path} cannot be read ({error}); replace or remove the file") from error

    def read(
        self, plane: int, x: int, y: int, width: int, height: int, shrink: int, out: NDArray[np.uint8]
    ) -> tuple[float, float]:
        """As `Reader.read`.

        OpenSlide takes whole level-0 pixels and divides by its own downsample (2.0001 for a pyramid of 2), so the
        place is rarely a whole pixel: it then interpolates, and the caller must know from where.
        """
        nominal = self.downsamples[plane]
        corner = round(x * nominal), round(y * nominal)
        handle = self.handle
        try:
            rgba = handle.read_region(corner, plane, (width, height))
        except openslide.OpenSlideError as error:
            self._renew(handle)
            raise damaged(self._path, plane, x, y, error) from error
        if rgba.getchannel("A").getextrema() == (255, 255):
            out[:] = np.asarray(rgba)[..., :3]
        else:
            white = Image.new("RGB", rgba.size, "white")
            white.paste(rgba, mask=rgba)
            out[:] = np.asarray(white)
        return corner[0] / nominal, corner[1] / nominal

    def _renew(self, failed: openslide.OpenSlide) -> None:
        """OpenSlide refuses everything after one error; the rest of the file may well be sound."""
        with self._lock:
            if self.handle is failed:
                try:
                    self.handle = openslide.OpenSlide(str(self._path))
                except (openslide.OpenSlideError, OSError):
                    return  # the next read fails again, with the first reason
                self.handle.set_cache(_shared_cache())

    def properties(self) -> Mapping[str, str]:
        """As `Reader.properties`."""
        return self.handle.properties

    def close(self) -> None:
        """As `Reader.close`."""
        self.handle.close()


SIDES = ("width", "height")


@functools.cache
def _shared_cache() -> openslide.OpenSlideCache:
    return openslide.OpenSlideCache(CACHE_BYTES)
