"""The grid over a slide of a cohort, or some patches drawn from it."""

import numpy as np

from g2l.slides import grid
from g2l.slides.cohort import Cohort
from g2l.slides.grid import Grid
from g2l.slides.sampling import generator

GRID = 4  # stream of random numbers (see slides/sampling.py) that draws some of a grid's patches


def tissue_grid(
    cohort: Cohort,
    slide: int,
    size: int,
    mpp: float,
    min_tissue: float,
    max_patches: int | None = None,
    fingerprint: str = "0",
) -> Grid:
    """As slides/grid.py, of a slide that was indexed.

    Args:
        slide: its number in the cohort.
        size, mpp: side of a patch in px, and um per px.
        max_patches: of more, so many are drawn.
        fingerprint: of the file, on which that draw depends and on nothing else.
    """
    geometry = cohort.geometry
    level0 = geometry.levels[geometry.first_level[slide], :2]  # um per px along x and y
    size_um, mask_mpp = geometry.size_um[slide], cohort.mask_mpp(slide)
    whole = grid.tissue_grid(size_um, level0, cohort.bits(slide), mask_mpp, size, mpp, min_tissue)
    if max_patches is None or len(whole.coords) <= max_patches:
        return whole
    draw = generator(0, int(fingerprint[:15], 16), GRID)
    kept = np.sort(draw.choice(np.arange(len(whole.coords)), max_patches, replace=False))
    return Grid(whole.coords[kept], whole.um[kept])
