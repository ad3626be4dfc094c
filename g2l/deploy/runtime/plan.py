"""What is to be embedded of one slide: where its tissue is, the patches on it, and what its files will say of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from g2l.deploy.runtime.partial import Partial
from g2l.errors import G2LError, SlideError
from g2l.slides.coverage import pack
from g2l.slides.grid import Grid, attributes, tissue_grid
from g2l.slides.indexing.manifest import Entry
from g2l.slides.outlines import contours
from g2l.slides.overview import MASK_MPP, fingerprint, look, open_slide
from g2l.slides.slide import Slide
from g2l.slides.tissue import to_geojson

PICTURE_PX = 1000
LINE = (0, 122, 94)


@dataclass(frozen=True)
class Settings:
    """What all slides of a run share.

    Attributes:
        bundle, format: SHA-256 of the bundle, and name of its format: with the slide, all that features depend on.
        size, mpp: side of a patch in px, and um per px. width: of an embedding.
        min_tissue: share of a patch that must be tissue.
        level0_mpp: um per px of level 0 of slides that state none.
        batch_size, threads: of the engine; the last bits of features depend on them.
    """

    bundle: str
    format: str
    size: int
    mpp: float
    width: int
    min_tissue: float
    level0_mpp: float | None
    batch_size: int
    threads: int


@dataclass
class Plan:
    """An open slide and what is to be done with it.

    Attributes:
        key: of its features. grid: its patches; those before `done.rows` are computed.
        about: attributes of the HDF5 file. outline, picture: GeoJSON and JPEG of its tissue.
    """

    entry: Entry
    slide: Slide
    key: str
    grid: Grid
    done: Partial
    about: dict[str, str | int | float]
    outline: bytes
    picture: bytes


def keys(entry: Entry, settings: Settings) -> list[str]:
    """What the features of a slide may be called by: one key for each resolution its level 0 may turn out to have.

    Raises:
        OSError: the file cannot be read.
    """
    stated: list[float | None] = [None, settings.level0_mpp] if settings.level0_mpp else [None]
    outline = entry.given.get("tissue")
    depends = {
        "bundle": settings.bundle,
        "format": settings.format,
        "min_tissue": settings.min_tissue,
        "slide": fingerprint(entry.path),
        "tissue": hashlib.sha256(Path(outline).read_bytes()).hexdigest() if outline else None,
    }
    return [_digest(depends | {"given": mpp}) for mpp in ([entry.mpp] if entry.mpp is not None else stated)]


def make_plan(entry: Entry, settings: Settings, folder: Path) -> Plan:
    """Open a slide, find its tissue, and lay the grid over it. Args: folder: of partial results.

    Raises:
        SlideError: whatever is wrong with the slide, in one line.
    """
    slide: Slide | None = None
    try:
        slide = open_slide(entry.path, entry.mpp, settings.level0_mpp)
        return _plan(entry, slide, settings, folder)
    except BaseException as error:
        if slide is not None:
            slide.close()
        if isinstance(error, SlideError) or not isinstance(error, Exception):
            raise
        if isinstance(error, G2LError):
            raise SlideError(f"slide {entry.path}: {error}") from error
        # A damaged file makes the libraries raise anything, and must cost only its own slide.
        raise unreadable(entry, error) from error


def unreadable(entry: Entry, error: Exception) -> SlideError:
    """The error for a slide that made a library fail."""
    what = " ".join(str(error).split())
    return SlideError(f"slide {entry.path} cannot be read ({type(error).__name__}: {what}); replace the file")


def _plan(entry: Entry, slide: Slide, settings: Settings, folder: Path) -> Plan:
    size, mpp, least = settings.size, settings.mpp, settings.min_tissue
    mask = look(slide, entry.given.get("tissue")).mask
    grid = tissue_grid(slide.size_um, slide.mpp_xy, pack(mask), MASK_MPP, size, mpp, least)
    if not len(grid.coords):
        raise SlideError(
            f"slide {entry.path} has no patch of {size} px at {mpp:g} um/px with {least:.0%} tissue; lower "
            "--min_tissue, or leave it out"
        )
    possible = keys(entry, settings)
    key = possible[-1] if slide.mpp_source == "given" else possible[0]
    # Rows of another grid (another version of a library) or of other batches must not be taken up.
    depends = {"key": key, "batch": settings.batch_size, "threads": settings.threads, "coords": _hash(grid.coords)}
    rows = Partial(folder / f"{_digest(depends)[:32]}.rows", len(grid.coords), settings.width, settings.batch_size)
    about = attributes(entry.name, size, mpp, slide.mpp, *slide.dimensions)
    outline = json.dumps(to_geojson(mask, MASK_MPP, slide.mpp_xy, slide.bounds)).encode()
    return Plan(entry, slide, key, grid, rows, about, outline, _picture(slide, mask))


def _picture(slide: Slide, mask: NDArray[np.bool_]) -> bytes:
    """JPEG of the slide with the outline of its tissue, the longer side of PICTURE_PX or fewer."""
    mpp = max(slide.mpp, max(slide.size_um) / PICTURE_PX)
    image = slide.thumbnail(mpp)
    for polygon in contours(mask):
        # 4 fractional bits; cv2 counts from pixel centres
        rings = [np.round((ring * MASK_MPP / mpp - 0.5) * 16).astype(np.int32) for ring in polygon]
        cv2.polylines(image, rings, True, LINE, 2, cv2.LINE_AA, shift=4)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return jpeg.tobytes()


def _hash(array: NDArray[np.int64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
