"""Regions and patches as GeoJSON that QuPath imports, written one feature at a time.

Keys as QuPath's type adapters read them (0.4 and later): objectType, classification (name and color, without which it
is refused), measurements (an object of numbers). Coordinates are px of level 0 from the corner of the slide's bounds.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.deploy.heatmap.regions import Region
from g2l.deploy.heatmap.shades import Shades

DIGITS = 2


def write_features(file: Path, features: Iterable[dict[str, Any]]) -> int:
    """A FeatureCollection of any length; gives how many. Raises OSError."""
    count = 0
    with file.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for feature in features:
            stream.write((",\n" if count else "\n") + json.dumps(feature, ensure_ascii=False, allow_nan=False))
            count += 1
        stream.write("\n]}\n")
    return count


def region_features(
    regions: Iterable[Region], shades: Shades, corner: NDArray[np.float64], px_mm2: float
) -> Iterator[dict[str, Any]]:
    """An annotation for each region. Args: corner: (2,) of QuPath's frame in px of level 0; px_mm2: area of one px."""
    for number, rings, values, px in regions:
        numbers = zip((f"mean {name}" for name in shades.measured), values.tolist(), strict=True)
        measurements = {**dict(numbers), "area mm2": px * px_mm2}
        yield _feature("annotation", rings, corner, shades, number, measurements)


def patch_features(
    coords: NDArray[np.float64],
    extent: NDArray[np.float64],
    values: NDArray[np.float32],
    shades: Shades,
    corner: NDArray[np.float64],
) -> Iterator[dict[str, Any]]:
    """A detection for each patch that has values, its numbers as measurements."""
    shown = np.flatnonzero(np.isfinite(values).all(axis=1))
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * extent
    for start in range(0, len(shown), 4096):
        part = shown[start : start + 4096]
        for k, number in zip(part.tolist(), shades.sort(values[part]).tolist(), strict=True):
            measurements = dict(zip(shades.measured, values[k].astype(np.float64).tolist(), strict=True))
            yield _feature("detection", [coords[k] + square], corner, shades, number, measurements)


def _feature(
    kind: str,
    rings: list[NDArray[np.float64]],
    corner: NDArray[np.float64],
    shades: Shades,
    number: int,
    measurements: dict[str, float],
) -> dict[str, Any]:
    name, colour = shades.regions[number]
    closed = [np.round(np.concatenate([ring, ring[:1]]) - corner, DIGITS).tolist() for ring in rings]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": closed},
        "properties": {
            "objectType": kind,
            "classification": {"name": name, "color": list(colour)},
            "measurements": {key: float(f"{value:.6g}") for key, value in measurements.items()},
        },
    }
