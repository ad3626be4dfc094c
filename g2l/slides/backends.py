"""Which reader serves a file: the fastest whose pixels were compared with OpenSlide's on this very file."""

import json
import logging
import struct
from pathlib import Path
from typing import Literal, NamedTuple

from g2l.errors import SlideError
from g2l.slides.dicom import DicomTiles, open_again, series
from g2l.slides.probes import difference, structured
from g2l.slides.reader import OpenSlideReader, Reader
from g2l.slides.tiff import TiffTiles, TileMap, UnsuitableError, map_tiles
from g2l.slides.tiles import TiledReader

Backend = Literal["auto", "tiles", "openslide", "wsidicom", "tiatoolbox"]
# Grey levels, mean over a probe. Decoders differ by rounding (below .5); taking RGB for YCbCr gives about 50.
MOST_DIFFERENCE = 2.0


class Chosen(NamedTuple):
    """A reader, why it was taken, and what lets `recorded` open it again without looking."""

    reader: Reader
    reason: str
    tile_map: str | None = None


def choose(path: Path, backend: Backend = "auto") -> Chosen:
    """Open a file with the backend asked for, or the fastest exact one.

    Raises:
        SlideError: nothing opens the file, or the backend asked for is not fit for it.
    """
    if backend == "tiatoolbox":
        return _toolbox(path, "asked for")
    try:
        plain = OpenSlideReader(path)
    except SlideError:
        if backend != "auto" or not _is_tiff(path):
            raise
        return _toolbox(path, "OpenSlide does not open it")
    if backend == "openslide":
        return Chosen(plain, "asked for")
    try:
        chosen = _direct(path, plain)
    except UnsuitableError as unsuitable:
        if backend == "auto":
            return Chosen(plain, str(unsuitable))
        plain.close()
        raise SlideError(f"slide {path} is not fit for backend {backend} ({unsuitable}); use auto") from unsuitable
    except BaseException:
        plain.close()
        raise
    plain.close()
    return chosen


def recorded(path: Path, backend: str, tile_map: str | None) -> Reader:
    """Open a file as the index did, without looking again.

    Raises:
        SlideError: it cannot be opened, or has changed.
    """
    if backend == TiffTiles.name and tile_map is not None:
        return TiledReader(path, TiffTiles(path, TileMap.from_json(tile_map)))
    if backend == DicomTiles.name and tile_map is not None:
        return TiledReader(path, open_again(path, **json.loads(tile_map)))
    return choose(path, backend if backend in ("openslide", "tiatoolbox") else "auto").reader  # type: ignore[arg-type]


def _direct(path: Path, plain: OpenSlideReader) -> Chosen:
    """A reader of encoded tiles, compared with OpenSlide; UnsuitableError says why there is none."""
    vendor = plain.properties().get("openslide.vendor", "")
    if "openslide.region[1].x" in plain.properties():
        raise UnsuitableError("several scanned regions on one canvas")
    sizes = [plane[:2] for plane in plain.planes]
    if vendor == "dicom":
        files = series(path)
        tile_map = json.dumps({"sizes": sizes, "files": [file.name for file in files]})
        reader = TiledReader(path, DicomTiles(files, sizes))
    else:
        found = map_tiles(path, sizes, vendor)
        tile_map, reader = found.to_json(), TiledReader(path, TiffTiles(path, found))
    try:
        shown = structured(reader)
        rated = [difference(reader, plain, plane, shown) for plane in range(len(plain.planes))]
        compared = [one for one in rated if one is not None]
        if rated[0] is None:
            raise UnsuitableError("nowhere enough structure to compare pixels of the finest level with OpenSlide's")
        if max(compared) > MOST_DIFFERENCE:
            level = rated.index(max(compared))
            raise UnsuitableError(f"pixels of level {level} differ from OpenSlide's by {max(compared):.3g} grey levels")
    except SlideError as error:
        reader.close()
        raise UnsuitableError(f"its tiles do not decode: {error}") from error
    except UnsuitableError:
        reader.close()
        raise
    reason = f"JPEG tiles, {max(compared):.2f} grey levels from OpenSlide's on {len(compared)} of {len(rated)} levels"
    return Chosen(reader, reason, tile_map)


def _is_tiff(path: Path) -> bool:
    """Whether it is worth the seconds that importing tiatoolbox takes."""
    import tifffile

    log = logging.getLogger("tifffile")  # says on the screen what the rejection will say better
    before, log.disabled = log.disabled, True
    try:
        with tifffile.TiffFile(path) as tiff:
            return len(tiff.pages) > 0
    except (tifffile.TiffFileError, struct.error, ValueError, OSError, IndexError, KeyError, TypeError):
        return False
    finally:
        log.disabled = before


def _toolbox(path: Path, why: str) -> Chosen:
    from g2l.slides.toolbox import ToolboxReader

    return Chosen(ToolboxReader(path), why)
