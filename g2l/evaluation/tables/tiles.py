"""Images and their masks cut into square tiles, written once. Letters: `H` x `W` px of an image, `T` px of a tile.

An encoder makes one token of 14 or 16 px of what it is shown. Of a whole image of 1000 px, shrunk to 224, a nucleus is
less than a token; tiles are seen at the image's own resolution. What a last tile lacks at the right and at the bottom
is filled with the mirrored image, and ignored in its mask: every pixel of an image counts once.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.tables.annotations import IGNORED, Codes

IMAGES, MASKS, COUNTS = "images.npy", "masks.npy", "tiles.json"


class Field(NamedTuple):
    """An image with its annotation, and what is known of them. `id`: the image's path below the data set's root."""

    id: str
    image: Path
    mask: Path
    split: str = ""
    patient: str = ""
    slide: str = ""
    centre: str = ""


Read = Callable[[Field], tuple[NDArray[np.uint8], Codes]]


class Tiles(NamedTuple):
    """Where tiles lie: two stacks (n, T, T, 3) and (n, T, T), and which field each of the n is of."""

    images: Path
    masks: Path
    fields: NDArray[np.int64]


def cut(image: NDArray[np.uint8], codes: Codes, tile: int) -> tuple[NDArray[np.uint8], Codes]:
    """An image (H, W, 3) and its codes (H, W) -> (k, T, T, 3) and (k, T, T), row by row from the top left."""
    height, width = codes.shape
    down, right = -(-height // tile), -(-width // tile)
    room = ((0, down * tile - height), (0, right * tile - width))
    wide = np.pad(image, (*room, (0, 0)), mode="symmetric")
    marked = np.pad(codes, room, constant_values=IGNORED)
    images = wide.reshape(down, tile, right, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    return images, marked.reshape(down, tile, right, tile).swapaxes(1, 2).reshape(-1, tile, tile)


def write_tiles(cache: Path, name: str, fields: list[Field], read: Read, tile: int, settings: object) -> Tiles:
    """The tiles of all fields; those written before, of the same unchanged files with the same settings, are taken.

    Args:
        cache: the folder for tiles of all data sets; these go into a folder of their own in it.
        read: field -> image and codes of the same height and width.
        settings: all else that the codes depend on, plain JSON.
    Raises:
        CohortError: all that is wrong with any field, in one line; or the folder cannot be written.
    """
    if tile < 16:
        raise CohortError(f"tiles of {tile} px are smaller than a token; give 16 px or more")
    stated = [[field.id, *(_state(path) for path in (field.image, field.mask))] for field in fields]
    key = hashlib.sha256(json.dumps([stated, tile, settings], sort_keys=True).encode()).hexdigest()
    folder = cache / f"{name}-{tile}px-{key[:16]}"
    if not (folder / COUNTS).is_file():
        try:
            _write(folder, fields, read, tile)
        except OSError as error:
            raise CohortError(f"tiles cannot be written to {folder} ({error}); give another cache") from error
    counts = json.loads((folder / COUNTS).read_text())
    return Tiles(folder / IMAGES, folder / MASKS, np.repeat(np.arange(len(fields)), counts))


def _state(path: Path) -> list[object]:
    found = path.stat()
    return [str(path), found.st_size, found.st_mtime_ns]


def _write(folder: Path, fields: list[Field], read: Read, tile: int) -> None:
    """Into a folder beside, which then takes the name: a folder of that name is whole."""
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        counts, problems = [], []
        # the number of tiles is known at the end: raw first, so that no more than one image is in memory
        with (partial / "images").open("wb") as images, (partial / "masks").open("wb") as masks:
            for field in fields:
                try:
                    image, codes = read(field)
                    if image.shape[:2] != codes.shape:
                        raise CohortError(
                            f"mask {field.mask} has {codes.shape[1]} x {codes.shape[0]} px, its image {field.id} "
                            f"{image.shape[1]} x {image.shape[0]}; give masks of their images' size"
                        )
                except CohortError as error:
                    problems.append(str(error))
                    continue
                tiles, marked = cut(image, codes, tile)
                images.write(tiles.tobytes())
                masks.write(marked.tobytes())
                counts.append(len(tiles))
        if problems:
            more = f"; and {len(problems) - 3} more like these" if len(problems) > 3 else ""
            raise CohortError("; ".join(problems[:3]) + more)
        total = sum(counts)
        _stack(partial / "images", partial / IMAGES, (total, tile, tile, 3))
        _stack(partial / "masks", partial / MASKS, (total, tile, tile))
        (partial / COUNTS).write_text(json.dumps(counts))
        try:
            partial.replace(folder)
        except OSError:
            if not (folder / COUNTS).is_file():  # else another process was faster, with the very same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _stack(raw: Path, path: Path, shape: tuple[int, ...]) -> None:
    """Raw bytes as an npy file."""
    with path.open("wb") as out, raw.open("rb") as bytes_in:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(out, header)
        shutil.copyfileobj(bytes_in, out, 1 << 24)
    raw.unlink()
