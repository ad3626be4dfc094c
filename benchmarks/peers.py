"""The readers that benchmarks/loading.py compares, each used as its documentation advises for speed on one core.

Every reader gets the same pixels to read: `size` px from (x, y) in px of the finest level; with `shrink` 2 or 4 the
result has `size` px of a resolution so many times coarser.
"""

import contextlib
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import openslide
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from g2l.slides.slide import Slide
from g2l.slides.tiff import TiffTiles, TileMap

Read = Callable[[int, int, int, int], NDArray[np.uint8]]  # x, y, size, shrink -> (size, size, 3), valid until the next

# OpenSlide keeps 32 MiB of decoded tiles per slide. A small slide fits into that, and then nothing is decoded any more;
# of a slide of full size it holds one tile in a thousand. So that small slides show what full-size ones give:
CACHE_BYTES = 1 << 20


class Peer(NamedTuple):
    """A reader: its name in the table, the distributions any of which provides it, how it opens a slide, and whether it
    is asked for coarser resolutions too.
    """

    name: str
    packages: tuple[str, ...]
    open: Callable[[Slide], Read]
    shrinks: bool = False

    @property
    def version(self) -> str | None:
        """Name and version of the distribution; None where it is not installed."""
        for package in self.packages:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return f"{package} {importlib.metadata.version(package)}"
        return None


def _openslide(slide: Slide) -> Read:
    """What everyone does; a coarser resolution by PIL's bicubic resize."""
    handle = openslide.OpenSlide(str(slide.path))
    handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))

    def read(x: int, y: int, size: int, shrink: int) -> NDArray[np.uint8]:
        image = handle.read_region((x, y), 0, (size * shrink, size * shrink)).convert("RGB")
        return np.asarray(image if shrink == 1 else image.resize((size, size), Image.Resampling.BICUBIC))

    return read


def _tiffslide(slide: Slide) -> Read:
    import tiffslide  # pyright: ignore[reportMissingImports]

    handle = tiffslide.TiffSlide(slide.path)
    return lambda x, y, size, shrink: handle.read_region((x, y), 0, (size, size), as_array=True)


def _wsistream(slide: Slide) -> Read:
    from capped import CappedBackend
    from wsistream.slide import SlideHandle  # pyright: ignore[reportMissingImports]

    handle = SlideHandle(slide.path, backend=CappedBackend())
    return lambda x, y, size, shrink: handle.read_region(x, y, size, size, level=0)


def _fastslide(slide: Slide) -> Read:
    import fastslide  # pyright: ignore[reportMissingImports]

    handle = fastslide.FastSlide.from_file_path(slide.path)
    return lambda x, y, size, shrink: handle.read_region((x, y), 0, (size, size)).numpy()


def _pyvips(slide: Slide) -> Read:
    # its warnings about private TIFF tags would fill the screen
    os.environ.setdefault("VIPS_WARNING", "0")
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    import pyvips  # pyright: ignore[reportMissingImports]

    pyvips.cache_set_max(0)
    region = pyvips.Region.new(pyvips.Image.tiffload(str(slide.path)))

    def read(x: int, y: int, size: int, shrink: int) -> NDArray[np.uint8]:
        return np.frombuffer(region.fetch(x, y, size, size), np.uint8).reshape(size, size, -1)

    return read


def _cucim(slide: Slide) -> Read:
    from cucim import CuImage  # pyright: ignore[reportMissingImports]

    handle: Any = CuImage(str(slide.path))
    return lambda x, y, size, shrink: np.asarray(handle.read_region((x, y), (size, size), 0))


def _limit(slide: Slide) -> Read:
    """Decodes the whole tiles that a patch touches, from bytes in memory: no file access, no cropping, no patch."""
    if slide.backend != TiffTiles.name or slide.tile_map is None:
        raise ValueError("no JPEG tiles in a TIFF")
    tiles = TiffTiles(slide.path, TileMap.from_json(slide.tile_map))
    plane = tiles.planes[0]
    tile_w, tile_h = plane.tile_w, plane.tile_h
    kept: dict[tuple[int, int], bytes | None] = {}  # filled by a first, untimed pass
    buffers = {by: np.empty((tile_h // by, tile_w // by, 3), np.uint8) for by in (1, 2, 4)}

    def read(x: int, y: int, size: int, shrink: int) -> NDArray[np.uint8]:
        buffer, last = buffers[shrink], size * shrink - 1
        for row in range(y // tile_h, (y + last) // tile_h + 1):
            for column in range(x // tile_w, (x + last) // tile_w + 1):
                if (column, row) not in kept:
                    kept[column, row] = tiles.encoded(0, column, row)
                data = kept[column, row]
                if data is None:
                    continue
                if shrink == 1:
                    simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
                else:
                    height, width = buffer.shape[:2]
                    simplejpeg.decode_jpeg(
                        data, "RGB", min_height=height, min_width=width, min_factor=shrink, buffer=buffer
                    )
        return buffer[:0]

    return read


def _ours(slide: Slide) -> Read:
    step_x, step_y = slide.mpp_xy
    buffers: dict[int, NDArray[np.uint8]] = {}

    def read(x: int, y: int, size: int, shrink: int) -> NDArray[np.uint8]:
        out = buffers.get(size)
        if out is None:
            out = buffers[size] = np.empty((size, size, 3), np.uint8)
        return slide.read_patch(x * step_x, y * step_y, size, slide.mpp * shrink, out=out)

    return read


OPENSLIDE = Peer("OpenSlide", ("openslide-python",), _openslide, shrinks=True)
LIMIT = Peer("libjpeg-turbo, whole tiles", ("simplejpeg",), _limit, shrinks=True)
OURS = Peer("g2l", ("g2l",), _ours, shrinks=True)
PEERS = (
    OPENSLIDE,
    Peer("wsistream's OpenSlide", ("wsistream",), _wsistream),
    Peer("tiffslide", ("tiffslide",), _tiffslide),
    Peer("fastslide", ("fastslide",), _fastslide),
    Peer("pyvips", ("pyvips",), _pyvips),
    Peer("cuCIM, CPU", ("cucim-cu13", "cucim-cu12", "cucim"), _cucim),
    LIMIT,
    OURS,
)
