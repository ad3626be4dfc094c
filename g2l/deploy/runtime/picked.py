"""A few patches of the receiver's own slides. Letters: n patches, S their side in px."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.errors import G2LError, SlideError
from g2l.slides.coverage import pack
from g2l.slides.grid import tissue_grid
from g2l.slides.indexing.discover import discover
from g2l.slides.overview import MASK_MPP, look, open_slide

MIN_TISSUE = 0.5
MOST_SLIDES = 8  # opened; a folder may hold thousands


class Picked(NamedTuple):
    """patches: (n, S, S, 3) uint8 RGB, of `slides` slides; left_out: why others of those looked at gave none."""

    patches: NDArray[np.uint8]
    slides: int
    left_out: tuple[str, ...]


def pick_patches(place: Path, count: int, size: int, mpp: float, level0_mpp: float | None = None) -> Picked:
    """Patches of tissue spread over a slide, or over some slides of a folder; the same for the same files.

    Args:
        place: a slide, or a folder of slides.
        count: n; fewer where there is not so much tissue.
        size, mpp: S, and um per px.
        level0_mpp: um per px of level 0 of slides that state none.
    Raises:
        CohortError: no slides are there.
        SlideError: none of those looked at has a patch; the first one's reason.
    """
    slides, _ = discover(place)
    patches: list[NDArray[np.uint8]] = []
    left_out: list[str] = []
    used = min(MOST_SLIDES, count)
    chosen = [slides[number] for number in _spread(len(slides), used)]
    for number, path in enumerate(chosen):
        wanted = (count - sum(map(len, patches))) // (len(chosen) - number)  # what a slide lacks the next ones give
        try:
            patches.append(_of_slide(path, wanted, size, mpp, level0_mpp))
        except G2LError as error:
            left_out.append(str(error))
    if not patches:
        raise SlideError(left_out[0])
    return Picked(np.concatenate(patches), len(patches), tuple(left_out))


def _of_slide(path: Path, count: int, size: int, mpp: float, level0_mpp: float | None) -> NDArray[np.uint8]:
    with open_slide(path, None, level0_mpp) as slide:
        mask = look(slide).mask
        grid = tissue_grid(slide.size_um, slide.mpp_xy, pack(mask), MASK_MPP, size, mpp, MIN_TISSUE)
        if not len(grid.um):
            raise SlideError(f"slide {path} has no patch of {size} px at {mpp:g} um/px with tissue; take another slide")
        places = grid.um[_spread(len(grid.um), count)].tolist()
        return np.stack([slide.read_patch(x, y, size, mpp) for x, y in places])


def _spread(whole: int, count: int) -> list[int]:
    """At most `count` of the numbers below `whole`, evenly spread."""
    return np.unique(np.linspace(0, whole - 1, min(whole, count)).round().astype(int)).tolist()
