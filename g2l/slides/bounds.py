"""The part of a slide's canvas that was scanned, where a file states it: QuPath crops to it."""

from collections.abc import Mapping
from typing import NamedTuple


class Bounds(NamedTuple):
    """Left, top, width and height in level-0 pixels."""

    x: int
    y: int
    width: int
    height: int


def stated_bounds(properties: Mapping[str, str]) -> Bounds | None:
    """The bounds by OpenSlide's names (MIRAX, Leica, Hamamatsu, Ventana and Philips files have them, most others not).

    QuPath crops only to all four, and only to whole numbers: what it leaves uncropped has none here either.
    """
    try:
        return Bounds(*(int(properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height")))
    except (KeyError, ValueError):
        return None
