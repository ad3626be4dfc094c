"""One look at a whole slide: opened with the resolution it has or is given, its overview, and where its tissue is."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.errors import SlideError
from g2l.slides.slide import Slide
from g2l.slides.tissue import from_geojson, tissue_mask

MASK_MPP = 16.0  # um per mask cell: a 224 px patch at 0.5 um/px covers 7 x 7; 100,000 slides fit into about 20 GB
MOST_UM = 500_000.0  # the longest slides have 200 mm; one of metres would be read for minutes
FINGERPRINT_BYTES = 1 << 16


class Overview(NamedTuple):
    """pixels: (about h, about w, 3) uint8 RGB of the whole slide at MASK_MPP; mask: (h, w) bool, True is tissue."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def open_slide(path: Path, mpp: float | None, fallback: float | None) -> Slide:
    """Open a slide. Args: mpp: um per px of level 0, which wins; fallback: for a slide that states no plausible one.

    Raises:
        SlideError: as `Slide.open`.
    """
    if mpp is not None or fallback is None:
        return Slide.open(path, mpp)
    try:
        return Slide.open(path)
    except SlideError:
        return Slide.open(path, fallback)


def look(slide: Slide, outline: str | None = None) -> Overview:
    """The overview of a slide and its tissue mask, which covers it to its last px.

    Args: outline: a GeoJSON file, as QuPath exports it, whose polygons are the tissue instead of the computed mask.
    Raises:
        SlideError: it is implausibly long, damaged, or has no tissue. CohortError: the outline holds no polygon.
    """
    if max(slide.size_um) > MOST_UM:
        raise SlideError(
            f"slide {slide.path} would be {max(slide.size_um) / 1000:.4g} mm long (a damaged header, or a wrong mpp); "
            "correct the mpp, or replace the file"
        )
    pixels = slide.thumbnail(MASK_MPP)
    shape = (-int(-slide.size_um[1] // MASK_MPP), -int(-slide.size_um[0] // MASK_MPP))
    if outline:
        document = json.loads(Path(outline).read_text(encoding="utf-8"))
        mask = from_geojson(document, shape, MASK_MPP, slide.mpp_xy, slide.bounds)
    else:
        mask = _fit(tissue_mask(pixels, MASK_MPP), shape)
    if not mask.any():
        raise SlideError(
            f"slide {slide.path}: no tissue was found on it; look at it, and give its outline as GeoJSON in the "
            "manifest's tissue column if there is some"
        )
    return Overview(pixels, mask)


def fingerprint(path: Path) -> str:
    """SHA-1 over size, first and last 64 KiB: tells a replaced file without reading gigabytes."""
    digest = hashlib.sha1(usedforsecurity=False)
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(FINGERPRINT_BYTES))
        file.seek(max(0, size - FINGERPRINT_BYTES))
        digest.update(file.read(FINGERPRINT_BYTES))
    return digest.hexdigest()


def _fit(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Extend the last row and column where the slide ends within a cell that the thumbnail rounded away."""
    missing = [max(0, want - have) for want, have in zip(shape, mask.shape, strict=True)]
    return np.pad(mask, [(0, missing[0]), (0, missing[1])], mode="edge")[: shape[0], : shape[1]]
