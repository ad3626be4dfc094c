"""Which micrometres per pixel a slide has: what its file states, what the user gives, and what cannot be true."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from g2l.errors import SlideError

# A print resolution left in a TIFF tag (72, 96, 300 dpi are 353, 265, 85 um/px) and the overview levels of a DICOM
# series lie far outside this range; every objective between 2.5x and 100x lies inside.
PLAUSIBLE_MPP = (0.1, 4.0)
REMEDY = "give it with --mpp or the manifest's mpp column"
_UM_PER_UNIT = {"centimeter": 1e4, "inch": 25400.0}


class Resolution(NamedTuple):
    """Micrometres per level-0 pixel along x and y, and where they come from ("file" or "given")."""

    x: float
    y: float
    source: str


def stated(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """The resolution the file itself states, plausible or not; None when it states none.

    `openslide.mpp-x/y` first (OpenSlide derives it from the vendor's fields and, for generic TIFFs, from the
    resolution tags). Formats for which OpenSlide ignores those tags (an Aperio file without MPP) may still carry them:
    they are believed only inside the plausible range, where no print default lies.
    """
    x, y = _positive(properties.get("openslide.mpp-x")), _positive(properties.get("openslide.mpp-y"))
    if x or y:
        return x or y or 0.0, y or x or 0.0
    per_unit = _UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    rx, ry = _positive(properties.get("tiff.XResolution")), _positive(properties.get("tiff.YResolution"))
    if per_unit and rx:
        tags = per_unit / rx, per_unit / (ry or rx)
        if all(map(plausible, tags)):
            return tags
    return None


def resolve(path: object, properties: Mapping[str, str], given: float | None) -> Resolution:
    """The resolution to use for the slide `path`: `given` wins over what the file states.

    Raises:
        SlideError: nothing is given and the file states none, or the value is outside `PLAUSIBLE_MPP` (a given value
            too: patches beyond it do not exist, so 250 for 0.25 must not pass).
    """
    low, high = PLAUSIBLE_MPP
    if given is not None:
        if not plausible(given):
            raise SlideError(f"slide {path}: the mpp given, {given:g} um/px, is outside {low:g}-{high:g}; correct it")
        return Resolution(float(given), float(given), "given")
    value = stated(properties)
    if value is None:
        raise SlideError(f"slide {path} states no resolution (openslide.mpp-x is missing); {REMEDY}")
    if not all(map(plausible, value)):
        raise SlideError(
            f"slide {path} states {value[0]:.4g} um/px, outside {low:g}-{high:g} (an overview level or a print "
            f"resolution, not a scan's); {REMEDY}, or leave the file out"
        )
    return Resolution(*value, "file")


def plausible(mpp: float) -> bool:
    """Whether `mpp` (um/px) can be the resolution of a scan."""
    return PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]


def _positive(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
