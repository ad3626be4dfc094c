"""Where the JPEG tiles of a TIFF or SVS lie: read once, kept in the cohort, so that opening a slide parses nothing."""

import base64
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile

from g2l.errors import SlideError
from g2l.slides.reader import Plane
from g2l.slides.tiles import START, colour_marker

JPEG, RGB, YCBCR, CONTIGUOUS = 7, 2, 6, 1  # TIFF's numbers for compression, photometric and planar configuration
# Scanners leave out tiles of bare glass; OpenSlide shows them white, but an Aperio file's it fills from other levels.
FILLED_IN = ("aperio",)


class UnsuitableError(Exception):
    """These tiles cannot be read directly; the message says why."""


@dataclass(frozen=True, slots=True)
class Where:
    """An array of numbers in the file: its position, and how many bytes each number has."""

    at: int
    width: int


@dataclass(frozen=True, slots=True)
class TiledPlane:
    """A level: its size and that of its tiles in px, tiles per row, the arrays of the tiles' offsets and lengths, and
    which of the map's heads its tiles need.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    columns: int
    offsets: Where
    lengths: Where
    head: int


@dataclass(frozen=True, slots=True)
class TileMap:
    """The tiles of a file.

    heads: what stands before a tile's own bytes to make it a complete JPEG (start, colour space, shared tables).
    """

    file_bytes: int
    order: Literal["little", "big"]
    planes: tuple[TiledPlane, ...]
    heads: tuple[bytes, ...]

    def to_json(self) -> str:
        """As JSON."""
        plain = asdict(self) | {"heads": [base64.b64encode(head).decode() for head in self.heads]}
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "TileMap":
        """The inverse of `to_json`."""
        plain: dict[str, Any] = json.loads(text)
        planes = tuple(
            TiledPlane(
                tuple(one["size"]),
                tuple(one["tile"]),
                one["columns"],
                Where(**one["offsets"]),
                Where(**one["lengths"]),
                one["head"],
            )
            for one in plain["planes"]
        )
        heads = tuple(base64.b64decode(head) for head in plain["heads"])
        return cls(plain["file_bytes"], plain["order"], planes, heads)


def map_tiles(path: Path, sizes: Sequence[tuple[int, int]], vendor: str = "") -> TileMap:
    """Find the tiles of the levels of these sizes (width, height; OpenSlide's), finest first.

    Args:
        vendor: OpenSlide's name of the format.
    Raises:
        UnsuitableError: no TIFF, striped, not JPEG, tiles missing where OpenSlide would fill them in, and the like.
    """
    if not hasattr(os, "pread"):
        raise UnsuitableError("this system cannot read at a position (pread)")
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = _pages(tiff, sizes)
            heads: list[bytes] = []
            planes = tuple(_plane(page, heads, vendor) for page in pages)
            order: Literal["little", "big"] = "little" if tiff.byteorder == "<" else "big"
    except (tifffile.TiffFileError, struct.error, ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise UnsuitableError(f"no TIFF with an index of tiles ({error})") from error
    return TileMap(path.stat().st_size, order, planes, tuple(heads))


def _pages(tiff: tifffile.TiffFile, sizes: Sequence[tuple[int, int]]) -> list[tifffile.TiffPage]:
    tiled = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
    if not tiled:
        raise UnsuitableError("striped, not tiled")
    chosen = []
    for size in sizes:
        same = [page for page in tiled if (page.imagewidth, page.imagelength) == tuple(size)]
        if len(same) != 1:
            raise UnsuitableError(f"{len(same)} tiled images of {size[0]} x {size[1]} px, the size of a level")
        chosen.append(same[0])
    return chosen


def _plane(page: tifffile.TiffPage, heads: list[bytes], vendor: str) -> TiledPlane:
    if page.compression != JPEG:
        name = getattr(page.compression, "name", page.compression)
        raise UnsuitableError(f"tiles are {name}, not JPEG")
    if page.photometric not in (RGB, YCBCR) or page.samplesperpixel != 3 or page.bitspersample != 8:
        raise UnsuitableError("not three colours of 8 bits")
    if page.planarconfig != CONTIGUOUS or page.imagedepth != 1:
        raise UnsuitableError("colours or focal planes are stored apart")
    lengths = np.asarray(page.databytecounts)
    if vendor in FILLED_IN and not lengths.all():
        raise UnsuitableError("tiles without data, which OpenSlide fills from other levels")
    tables = page.jpegtables or START + b"\xff\xd9"
    head = START + colour_marker(page.photometric == YCBCR) + tables[2:-2]
    if head not in heads:
        heads.append(head)
    columns, rows = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    if len(lengths) != columns * rows:
        raise UnsuitableError(f"{len(lengths)} tiles where {columns} x {rows} are due")
    offsets, counts = page.tags["TileOffsets"], page.tags["TileByteCounts"]
    return TiledPlane(
        (page.imagewidth, page.imagelength),
        (page.tilewidth, page.tilelength),
        columns,
        Where(offsets.valueoffset, _width(offsets)),
        Where(counts.valueoffset, _width(counts)),
        heads.index(head),
    )


def _width(tag: tifffile.TiffTag) -> int:
    return {3: 2, 4: 4, 13: 4, 16: 8, 18: 8}[int(tag.dtype)]


class TiffTiles:
    """The tiles of an open file. Nothing is held in memory: a tile's place is looked up in the file itself."""

    name = "tiles"

    def __init__(self, path: Path, tile_map: TileMap) -> None:
        """Raises SlideError when the file cannot be opened or has another size than the map was made for."""
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise SlideError(f"slide {path} cannot be read ({error.strerror}); check the file or its disk") from error
        # A file of the same length that is another one shows at its first tile, which then starts as no JPEG does.
        if os.fstat(self._file).st_size != tile_map.file_bytes:
            self.close()
            raise SlideError(f"slide {path} has changed since it was indexed; run g2l index again")
        self._map = tile_map
        self.planes = [Plane(*plane.size, *plane.tile) for plane in tile_map.planes]

    def encoded(self, plane: int, column: int, row: int) -> bytes | None:
        """As `Tiles.encoded`."""
        stored, order = self._map.planes[plane], self._map.order
        number = row * stored.columns + column
        offset = int.from_bytes(self._entry(stored.offsets, number), order)
        length = int.from_bytes(self._entry(stored.lengths, number), order)
        if not length or not offset:
            return None
        if offset + length > self._map.file_bytes:
            raise ValueError("the tile lies beyond the end of the file")
        data = self._bytes(offset, length)
        if data[:2] != START:
            raise ValueError("the tile is no JPEG")
        return self._map.heads[stored.head] + data[2:]

    def _entry(self, array: Where, number: int) -> bytes:
        return self._bytes(array.at + number * array.width, array.width)

    def _bytes(self, at: int, count: int) -> bytes:
        data = os.pread(self._file, count, at)
        if len(data) < count:
            raise ValueError("the file is cut off")
        return data

    def close(self) -> None:
        """As `Tiles.close`."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()
