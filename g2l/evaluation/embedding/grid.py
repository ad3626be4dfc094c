"""The regular grid of patches over a slide's tissue. Letters: m patches."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.slides.cohort import Cohort
from g2l.slides.coverage import coverage
from g2l.slides.placing.lattice import HAIR
from g2l.slides.sampling import generator

GRID = 4  # stream of random numbers (see slides/sampling.py) that draws some of a grid's patches


class Grid(NamedTuple):
    """coords: (m, 2) top-left corners x, y in px of level 0; um: (m, 2) the same in um from the slide's corner."""

    coords: NDArray[np.int64]
    um: NDArray[np.float64]


def tissue_grid(
    cohort: Cohort,
    slide: int,
    size: int,
    mpp: float,
    min_tissue: float,
    max_patches: int | None = None,
    fingerprint: str = "0",
) -> Grid:
    """Patches side by side from the slide's corner on, each at the nearest whole px of level 0, row by row; those
    that lie inside the slide and of which at least the share `min_tissue` is tissue.

    Args:
        slide: its number in the cohort.
        size, mpp: side of a patch in px, and um per px.
        max_patches: of more, so many are drawn.
        fingerprint: of the file, on which that draw depends and on nothing else.
    """
    geometry = cohort.geometry
    level0 = geometry.levels[geometry.first_level[slide], :2]  # um per px along x and y
    extent, cell = size * mpp, cohort.mask_mpp(slide)
    steps = [np.arange(0, int(geometry.size_um[slide, axis] / extent) + 1) * extent for axis in (0, 1)]
    xs, ys = (np.rint(step / level0[axis]).astype(np.int64) for axis, step in enumerate(steps))
    coords = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    um = coords * level0
    inside = (um + extent <= geometry.size_um[slide] + HAIR).all(axis=1)
    coords, um = coords[inside], um[inside]
    shapes = np.repeat(geometry.mask_shape[slide][None], len(um), axis=0)
    share = coverage(cohort.mask_bytes, shapes, um / cell, np.full(len(um), extent / cell))
    kept = np.flatnonzero(share >= min_tissue)
    if max_patches is not None and len(kept) > max_patches:
        kept = np.sort(generator(0, int(fingerprint[:15], 16), GRID).choice(kept, max_patches, replace=False))
    return Grid(coords[kept], um[kept])
