"""Thumbnail -> tissue mask -> GeoJSON, and back from GeoJSON.

Masks are boolean with one cell per thumbnail pixel; True is tissue. The frame of GeoJSON is QuPath's: level-0 pixels
from the corner of what the file calls its bounds (`Slide.bounds`), to which QuPath crops; without bounds, the slide's.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.slides.bounds import Bounds
from g2l.slides.outlines import contours, fill

DILATE_UM = 32.0  # across the ellipse that grows the dark class; components smaller than it are specks
CLOSE_UM = 48.0  # radius that joins the strands of fatty tissue
HOLE_MM2 = 0.05  # holes up to this belong to the tissue: fat lobules, vessels, gland lumina
FAT_MM2 = 1.0  # and up to this, when most of the hole does not look like the glass outside (lobules of fat)
SPECK_MM2 = 0.01  # components below this are dust and printed dots (a disc of 113 um)
DUST_MM2 = 0.1  # up to this size, what has no more colour than the glass is dust too
BLACK = 25  # brightest channel of padding and scanner gaps; stained tissue is never this dark at 16 um/px
MIN_CONTRAST = 10.0  # grey levels between the two classes below which a slide holds one class only
GLASS_CHROMA = 28.0  # colour of the bright class above which it is no glass (measured: glass 0-17, pale tissue 37-81)


def tissue_mask(thumbnail: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """The tissue on a thumbnail.

    What is darker than the glass is found as tiatoolbox's MorphologicalMasker finds it (Otsu's threshold on grey,
    specks removed, dilated), without the seconds and the gigabyte that importing it costs every process. Around it
    stand corrections: black padding is never tissue; gaps up to 96 um and holes up to 0.05 mm2 are closed, because fat
    and lumina are as bright as glass and yet tissue, larger holes up to 1 mm2 when they hold more than glass (strands
    of fat); components below 0.01 mm2, or below 0.1 mm2 and colourless, are dust. Otsu always finds two classes: when
    they are less than 10 grey levels apart the slide is blank, and when the bright one is coloured there is no glass
    and all is tissue (a crop from inside a section).

    Args:
        thumbnail: (h, w, 3) uint8 RGB.
        mpp: um per thumbnail pixel; the sizes above were chosen at 16.
    Returns:
        (h, w) bool.
    """
    black = thumbnail.max(axis=2) < BLACK
    # Padding must not take part in choosing the threshold: it would split the slide into black and everything else.
    shown = np.where(black[..., None], np.uint8(255), thumbnail)
    grey = np.asarray(cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    chroma = shown.max(axis=2) - shown.min(axis=2)
    if grey.min() == grey.max():  # one class only, for which there is no threshold
        return np.zeros(grey.shape, dtype=np.bool_)
    # Otsu's dark class includes the threshold.
    below = grey <= cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]
    bright = ~below & ~black
    if bright.any() and np.median(chroma[bright]) > GLASS_CHROMA:
        return ~black
    if not below.any() or not bright.any() or grey[bright].mean() - grey[below].mean() < MIN_CONTRAST:
        return np.zeros(grey.shape, dtype=np.bool_)
    mask = _tidy(_grown(below, mpp) & ~black, mpp)
    mask = _with_fat(mask, grey, chroma, mpp) & ~black
    return _without_dust(mask, chroma, mpp)


def _grown(dark: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Without specks, and dilated by the ellipse that they are smaller than."""
    size = max(1, round(DILATE_UM / mpp))
    ellipse = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), dtype=np.uint8)
    kept = _without_small(dark, int(ellipse.sum()), connectivity=8)
    return np.asarray(cv2.dilate(kept.astype(np.uint8), ellipse), dtype=np.bool_)


def _tidy(mask: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    radius = max(1, round(CLOSE_UM / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    padded = np.pad(mask.astype(np.uint8), radius)  # else closing treats the border as tissue
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc)[radius:-radius, radius:-radius].astype(np.bool_)
    cell_mm2 = (mpp / 1000) ** 2
    filled = ~_without_small(~closed, HOLE_MM2 / cell_mm2, keep_at_border=True)
    return _without_small(filled, SPECK_MM2 / cell_mm2)


def _without_small(
    mask: NDArray[np.bool_], least: float, keep_at_border: bool = False, connectivity: int = 4
) -> NDArray[np.bool_]:
    """Drop components of fewer than `least` cells; those that touch the border may only seem small."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    labels = np.asarray(labels, dtype=np.int32)
    keep = np.asarray(stats)[:, cv2.CC_STAT_AREA] >= least
    if keep_at_border:
        edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        keep[np.unique(edge)] = True
    keep[0] = False
    return keep[labels] if count > 1 else np.zeros_like(mask)


def _with_fat(
    mask: NDArray[np.bool_], grey: NDArray[np.uint8], chroma: NDArray[np.uint8], mpp: float
) -> NDArray[np.bool_]:
    """Fill enclosed holes of which most is neither as bright nor as colourless as the glass outside."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    labels = np.asarray(labels, dtype=np.int32)
    outer = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    outside = np.isin(labels, outer[outer > 0])
    if not outside.any():
        return mask
    unlike = _beyond(grey, outside) | _beyond(chroma, outside)
    filled = mask.copy()
    for k, box in _boxes(stats, FAT_MM2 / (mpp / 1000) ** 2):
        hole = labels[box] == k
        if k not in outer and unlike[box][hole].mean() > 0.5:
            filled[box] |= hole
    return filled


def _beyond(values: NDArray[np.uint8], sample: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where `values` lie more than three robust standard deviations (and 3 levels) from the sample's median."""
    centre = float(np.median(values[sample]))
    spread = 1.4826 * float(np.median(np.abs(values[sample] - centre)))
    return np.abs(values - centre) > 3 * spread + 3


def _without_dust(mask: NDArray[np.bool_], chroma: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Drop small components that are no more coloured than the glass."""
    if mask.all():
        return mask
    glass = float(np.median(chroma[~mask]))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    labels = np.asarray(labels, dtype=np.int32)
    kept = mask.copy()
    for k, box in _boxes(stats, DUST_MM2 / (mpp / 1000) ** 2):
        speck = labels[box] == k
        if np.median(chroma[box][speck]) < glass + 4:
            kept[box] &= ~speck
    return kept


def _boxes(stats: NDArray[Any], largest: float) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """The components of up to `largest` cells and where they lie: looking only there keeps thousands of them cheap."""
    for k in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] <= largest).tolist():
        x, y, width, height = stats[k, :4].tolist()
        if k:
            yield k, (slice(y, y + height), slice(x, x + width))


def largest_square(mask: NDArray[np.bool_]) -> int:
    """Side, in cells, of a square that is all tissue (the largest with an odd side)."""
    padded = np.pad(mask.astype(np.uint8), 1)
    radius = cv2.distanceTransform(padded, cv2.DIST_C, 3).max()
    return max(0, 2 * round(float(radius)) - 1)


def to_geojson(
    mask: NDArray[np.bool_], mask_mpp: float, mpp: Sequence[float], bounds: Bounds | None = None
) -> dict[str, Any]:
    """The mask's outline as a FeatureCollection of polygons with holes, in QuPath's frame and with the keys it reads.

    Args:
        mask_mpp: um per cell; mpp: um per level-0 pixel in x and y.
        bounds: of the slide, as `Slide.bounds` gives them.
    """
    scale, corner = mask_mpp / np.asarray(mpp, dtype=np.float64), np.asarray(bounds or (0, 0))[:2]
    features: list[dict[str, Any]] = []
    for polygon in contours(mask):
        closed = [np.round(np.concatenate([ring, ring[:1]]) * scale - corner, 2).tolist() for ring in polygon]
        # QuPath refuses a classification without a colour.
        properties = {"objectType": "annotation", "classification": {"name": "Tissue", "color": [0, 160, 90]}}
        features.append(
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": closed}, "properties": properties}
        )
    return {"type": "FeatureCollection", "features": features}


def from_geojson(
    document: Any, shape: tuple[int, int], mask_mpp: float, mpp: Sequence[float], bounds: Bounds | None = None
) -> NDArray[np.bool_]:
    """The union of all polygons of a GeoJSON document as a mask of `shape` (h, w) cells. Args: as in `to_geojson`.

    Raises:
        CohortError: the document holds no polygon, or one without coordinates.
    """
    scale, corner = np.asarray(mpp, dtype=np.float64) / mask_mpp, np.asarray(bounds or (0, 0))[:2]
    polygons = list(polygons_of(document))
    if not polygons:
        raise CohortError("the GeoJSON holds no Polygon or MultiPolygon; export the annotation's geometry")
    mask = np.zeros(shape, dtype=np.bool_)
    for polygon in polygons:
        try:
            rings = [(np.asarray(ring, dtype=np.float64)[:, [0, 1]] + corner) * scale for ring in polygon]
            if not all(np.isfinite(ring).all() for ring in rings):
                raise ValueError("not a finite number")
            fill(mask, rings)
        except (ValueError, TypeError, IndexError) as error:
            raise CohortError(f"a polygon of the GeoJSON is no list of [x, y] ({error}); export it again") from error
    return mask


def polygons_of(document: Any) -> list[list[Any]]:
    """The rings of every polygon, wherever in a GeoJSON document it stands."""
    if isinstance(document, list):
        return [polygon for part in document for polygon in polygons_of(part)]
    if not isinstance(document, dict):
        return []
    kind = document.get("type")
    if kind == "Polygon":
        return [document.get("coordinates", [])]
    if kind == "MultiPolygon":
        return list(document.get("coordinates", []))
    parts = document.get("features") or document.get("geometries") or document.get("geometry") or []
    return polygons_of(parts)


def area_mm2(mask: NDArray[np.bool_], mpp: float) -> float:
    """Tissue area in mm2: cells times the area of one."""
    return math.fsum([int(mask.sum()) * (mpp / 1000) ** 2])
