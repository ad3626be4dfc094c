"""Which patches a user means: places in px of level 0, or annotations of a GeoJSON from QuPath. Letter: N patches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import ConfigError
from g2l.slides.bounds import Bounds
from g2l.slides.tissue import polygons_of

AT_ONCE = 64  # sides of a polygon compared with all patches in one go


def chosen_patches(
    like: str, coords: NDArray[np.float64], extent: NDArray[np.float64], bounds: Bounds | None
) -> NDArray[np.int64]:
    """Numbers of the patches meant.

    Args:
        like: "x,y;x,y", places in px of level 0 as `coords` counts them: the patch that holds each; or a GeoJSON file:
            the patches whose centre lies in its polygons (of a polygon too small for that, the one at its middle) or
            that hold its points.
        coords: (N, 2) corners of the patches; extent: (2,) their sides.
        bounds: of the slide: GeoJSON counts from there.
    Raises:
        ConfigError: neither of both, or a place where there is no patch.
    """
    file = Path(like)
    if file.suffix.lower() in (".geojson", ".json") or file.is_file():
        points, polygons = _annotations(file, np.asarray(bounds or (0, 0), np.float64)[:2])
    else:
        points, polygons = _points(like), []
    found = [_holding(point, coords, extent, like) for point in points]
    centres = coords + extent / 2
    for rings in polygons:
        inside = np.flatnonzero(_inside(centres, rings))
        middle = (rings[0].min(axis=0) + rings[0].max(axis=0)) / 2
        found.append(inside if len(inside) else _holding(middle, coords, extent, like))
    return np.unique(np.concatenate(found))


def _points(text: str) -> list[NDArray[np.float64]]:
    try:
        points = [np.array([float(number) for number in pair.split(",")]) for pair in text.split(";") if pair.strip()]
    except ValueError:
        points = []
    if not points or any(point.shape != (2,) or not np.isfinite(point).all() for point in points):
        raise ConfigError(
            f'--like {text} is neither a GeoJSON file nor places like "1200,3400;5600,7800" in px of level 0'
        )
    return points


def _annotations(
    file: Path, corner: NDArray[np.float64]
) -> tuple[list[NDArray[np.float64]], list[list[NDArray[np.float64]]]]:
    """Points, and polygons as rings, in px of level 0."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--like {file} cannot be read as GeoJSON ({error}); export the annotations again") from error
    try:
        points = [np.asarray(point, np.float64)[:2] + corner for point in _points_of(document)]
        polygons = [[np.asarray(r, np.float64)[:, :2] + corner for r in rings] for rings in polygons_of(document)]
    except (ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"--like {file} holds what is no list of [x, y] ({error}); export it again") from error
    polygons = [rings for rings in polygons if rings]
    if not points and not polygons:
        raise ConfigError(f"--like {file} holds no polygon and no point; export annotations of areas or points")
    if not all(np.isfinite(part).all() for part in [*points, *(ring for rings in polygons for ring in rings)]):
        raise ConfigError(f"--like {file} holds numbers that are not finite; export it again")
    return points, polygons


def _points_of(document: Any) -> list[Any]:
    if isinstance(document, list):
        return [point for part in document for point in _points_of(part)]
    if not isinstance(document, dict):
        return []
    if document.get("type") == "Point":
        return [document.get("coordinates", [])]
    if document.get("type") == "MultiPoint":
        return list(document.get("coordinates", []))
    return _points_of(document.get("features") or document.get("geometries") or document.get("geometry") or [])


def _holding(
    point: NDArray[np.float64], coords: NDArray[np.float64], extent: NDArray[np.float64], like: str
) -> NDArray[np.int64]:
    """The patches that hold a point."""
    found = np.flatnonzero(((coords <= point) & (point < coords + extent)).all(axis=1))
    if not len(found):
        away = float(np.abs(coords + extent / 2 - point).max(axis=1).min())
        raise ConfigError(
            f"--like {like}: no patch holds the place {point[0]:.0f}, {point[1]:.0f} (the next one's centre is "
            f"{away:.0f} px of level 0 away); choose places on embedded tissue"
        )
    return found


def _inside(centres: NDArray[np.float64], rings: list[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """(N,) whether each lies in the polygon: an odd number of sides to its right."""
    low, high = rings[0].min(axis=0), rings[0].max(axis=0)
    near = np.flatnonzero(((centres >= low) & (centres <= high)).all(axis=1))
    x, y = centres[near, :1], centres[near, 1:]
    odd = np.zeros(len(near), np.bool_)
    for ring in rings:
        stop = np.roll(ring, -1, axis=0)
        level = ring[:, 1] == stop[:, 1]
        ring, stop = ring[~level], stop[~level]
        for start in range(0, len(ring), AT_ONCE):
            (ax, ay), (bx, by) = ring[start : start + AT_ONCE].T, stop[start : start + AT_ONCE].T
            passed = (ay <= y) != (by <= y)
            right = x < ax + (y - ay) / (by - ay) * (bx - ax)
            odd ^= (passed & right).sum(axis=1) % 2 == 1
    inside = np.zeros(len(centres), np.bool_)
    inside[near] = odd
    return inside
