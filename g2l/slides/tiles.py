"""JPEG tiles taken from the file as they are and decoded by libjpeg-turbo, without a canvas in between.

OpenSlide spends more time on compositing than on decoding. Here a patch costs the decoding of the tiles it touches and
one copy; where it is exactly one tile, not even that.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from g2l.slides.reader import OpenSlideReader, Plane, damaged

START = b"\xff\xd8"  # of every JPEG
BASELINE = (0xC0, 0xC1)  # the frame headers of JPEGs that are one scan from top to bottom
BLOCK_ROW = 16  # px: the height of what is coded together, at most
LEFT_OVER = "extraneous bytes before marker"


class Tiles(Protocol):
    """Where encoded tiles come from; safe for threads."""

    @property
    def name(self) -> str:
        """Of the backend."""
        ...

    @property
    def planes(self) -> Sequence[Plane]:
        """The stored levels, finest first."""
        ...

    def encoded(self, plane: int, column: int, row: int) -> bytes | None:
        """A tile as a complete JPEG, or None where the file has none.

        Raises:
            SlideError, OSError or ValueError: the file cannot be read there.
        """
        ...

    def close(self) -> None:
        """Free the file."""
        ...


def colour_marker(ycbcr: bool) -> bytes:
    """The APP14 segment that tells a decoder the colour space.

    Without one it guesses from the component names and takes a scanner's RGB for YCbCr.
    """
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x01" if ycbcr else b"\x00")


class TiledReader:
    """A `Reader` over JPEG tiles; half and quarter size come from decoding fewer coefficients."""

    def __init__(self, path: Path, tiles: Tiles) -> None:
        """Args: path: for messages and properties. tiles: the source, owned from now on."""
        self.name, self.planes = tiles.name, tiles.planes
        sides = [side for plane in tiles.planes for side in (plane.tile_w, plane.tile_h)]
        self.shrinks = tuple(shrink for shrink in (1, 2, 4) if all(side % shrink == 0 for side in sides))
        self._path, self._tiles = path, tiles
        self._scratch = threading.local()

    def read(
        self, plane: int, x: int, y: int, width: int, height: int, shrink: int, out: NDArray[np.uint8]
    ) -> tuple[float, float]:
        """As `Reader.read`; always from the very pixel asked."""
        stored = self.planes[plane]
        tile_w, tile_h = stored.tile_w // shrink, stored.tile_h // shrink
        end_x, end_y = stored.width // shrink, stored.height // shrink
        right, bottom = min(x + width, end_x), min(y + height, end_y)
        left, top = max(x, 0), max(y, 0)
        if right - left < width or bottom - top < height:
            out.fill(255)
        if left >= right or top >= bottom:
            return x, y
        for row in range(top // tile_h, (bottom - 1) // tile_h + 1):
            y0 = row * tile_h
            rows = slice(max(top, y0), min(bottom, y0 + tile_h))
            for column in range(left // tile_w, (right - 1) // tile_w + 1):
                x0 = column * tile_w
                columns = slice(max(left, x0), min(right, x0 + tile_w))
                target = out[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
                try:
                    data = self._tiles.encoded(plane, column, row)
                    if data is None:
                        target.fill(255)
                    elif target.shape[:2] == (tile_h, tile_w) and target.flags.c_contiguous:
                        decode(data, shrink, target)
                    else:
                        tile = decode_top(data, shrink, self._buffer(tile_h, tile_w), rows.stop - y0)
                        target[:] = tile[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
                except (OSError, ValueError) as error:
                    raise damaged(self._path, plane, x0 * shrink, y0 * shrink, error) from error
        # A last pixel that the slide fills only in part repeats its neighbour: what the tile holds beyond is padding,
        # black in many files, and white would be none of the slide's either.
        if stored.width % shrink and right == end_x < x + width:
            out[:, end_x - x] = out[:, end_x - x - 1]
        if stored.height % shrink and bottom == end_y < y + height:
            out[end_y - y] = out[end_y - y - 1]
        return x, y

    def properties(self) -> Mapping[str, str]:
        """As `Reader.properties`, from OpenSlide."""
        reader = OpenSlideReader(self._path)
        try:
            return dict(reader.properties())
        finally:
            reader.close()

    def close(self) -> None:
        """As `Reader.close`."""
        self._tiles.close()

    def _buffer(self, height: int, width: int) -> NDArray[np.uint8]:
        """Memory of this thread for one tile."""
        found: NDArray[np.uint8] | None = getattr(self._scratch, "buffer", None)
        if found is None or found.shape[:2] != (height, width):
            found = self._scratch.buffer = np.empty((height, width, 3), np.uint8)
        return found


def decode(data: bytes, shrink: int, into: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode a JPEG at 1 / `shrink` of its size, which must be that of `into` (height, width, 3); else ValueError."""
    if shrink == 1:
        made = simplejpeg.decode_jpeg(data, "RGB", buffer=into)
    else:
        height, width = into.shape[:2]
        made = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=shrink, buffer=into)
    if made.shape != into.shape:
        raise ValueError(f"a tile of {made.shape[1]} x {made.shape[0]} px where {into.shape[1]} x {into.shape[0]} fit")
    return into


def decode_top(data: bytes, shrink: int, into: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    """As `decode`, but only the upper `rows` rows of `into` are sure to be filled: a JPEG is decoded from the top, and
    an unaligned patch needs just the top of its lower tiles.

    The decoder is told that the picture ends early, and then complains of the bytes that are left. Damage that does not
    upset the decoding itself shows only at a picture's end: here it goes unnoticed more often than in a whole tile.
    """
    # One block row more: the last row's colours are interpolated with those below it.
    enough = (-(-rows * shrink // BLOCK_ROW) + 1) * BLOCK_ROW
    at = _size_field(data) if enough < into.shape[0] * shrink else 0
    if not at:
        return decode(data, shrink, into)
    try:
        decode(data[:at] + enough.to_bytes(2, "big") + data[at + 2 :], shrink, into[: enough // shrink])
    except ValueError as error:
        if LEFT_OVER not in str(error):
            raise
    return into


def _size_field(data: bytes) -> int:
    """Where a baseline JPEG states its height (its width follows); 0 where there is none to be found."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        if data[at + 1] in BASELINE:
            return at + 5
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0
