"""The regular grid of patches over a slide's tissue. Letters: m patches; h, w rows and columns of the tissue mask."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.slides.coverage import coverage

HAIR = 1e-6  # um, as placing/lattice.py has it: a rounding error beyond a border is not beyond it
UM_AT_10X = 10.0  # magnification times um per px: 0.5 um/px is called 20x


class Grid(NamedTuple):
    """coords: (m, 2) top-left corners x, y in px of level 0; um: (m, 2) the same in um from the slide's corner."""

    coords: NDArray[np.int64]
    um: NDArray[np.float64]


def tissue_grid(
    size_um: ArrayLike,
    level0: Sequence[float] | NDArray[np.float64],
    bits: NDArray[np.uint8],
    mask_mpp: float,
    size: int,
    mpp: float,
    min_tissue: float,
) -> Grid:
    """Patches side by side from the slide's corner on, each at the nearest whole px of level 0, row by row; those
    that lie inside the slide and of which at least the share `min_tissue` is tissue.

    Args:
        size_um: (width, height) of the slide. level0: its um per px of level 0 along x and y.
        bits: (h, ceil(w / 8)) packed tissue mask (coverage.pack), which covers the slide; mask_mpp: um per cell.
        size, mpp: side of a patch in px, and um per px.
    """
    whole, step_um, extent = np.asarray(size_um, np.float64), np.asarray(level0, np.float64), size * mpp
    steps = [np.arange(0, int(whole[axis] / extent) + 1) * extent for axis in (0, 1)]
    xs, ys = (np.rint(step / step_um[axis]).astype(np.int64) for axis, step in enumerate(steps))
    coords = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    um = coords * step_um
    inside = (um + extent <= whole + HAIR).all(axis=1)
    coords, um = coords[inside], um[inside]
    shapes = np.repeat(np.array([[bits.shape[0], 8 * bits.shape[1], 0]]), len(um), axis=0)
    share = coverage(bits, shapes, um / mask_mpp, np.full(len(um), extent / mask_mpp))
    kept = np.flatnonzero(share >= min_tissue)
    return Grid(coords[kept], um[kept])


def attributes(
    name: str, size: int, mpp: float, level0_mpp: float, width: int, height: int
) -> dict[str, str | int | float]:
    """What an HDF5 file says of the patches in it: by TRIDENT's names, and our own in um.

    Args:
        name: of the slide. size, mpp: side of a patch in px, and um per px.
        level0_mpp: um per px of level 0. width, height: of level 0 in px.
    """
    return {
        "name": name,
        "patch_size": size,
        "patch_size_level0": round(size * mpp / level0_mpp),
        "level0_magnification": UM_AT_10X / level0_mpp,
        "target_magnification": UM_AT_10X / mpp,
        "overlap": 0,
        "level0_width": width,
        "level0_height": height,
        "level0_mpp": level0_mpp,
        "mpp": mpp,
        "size_um": size * mpp,
    }
