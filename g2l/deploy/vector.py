"""The test vector: patches and what PyTorch makes of them, by which a receiver proves that the bundle works.

Letters: `n` patches, `S` their side in px, `D` embedding width, `C` candidates.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g2l.data.demo import Order, cohort_orders, draw_slide
from g2l.data.drawing.layout import CLASSES, MAP_MPP, Layout

VECTOR = "test_vector.h5"
COUNT = 64
SEED = 640
SLIDE_UM, LARGEST_UM = 900.0, 2700.0  # side of a drawn slide: for small patches, and where those of many um allow it
SLIDES_AT_ONCE = 3  # one of each centre, so that stain and scanner differ
MIN_TISSUE = 0.6


def draw_patches(size: int, mpp: float, count: int = COUNT, seed: int = SEED) -> NDArray[np.uint8]:
    """Patches of tissue that is drawn, not a patient's: every class and centre of the embedded cohort in turn.

    Args:
        size: S. mpp: um per px. count: n.
    Returns:
        (n, S, S, 3) uint8 RGB, the same for the same arguments.
    """
    rounds = [_candidates(size, mpp, seed)]
    while sum(len(found) for found in rounds) < count:  # a patch may be so large that a slide has room for few
        rounds.append(_candidates(size, mpp, seed + len(rounds)))
    return np.concatenate(rounds)[:count]


def write_vector(file: Path, patches: NDArray[np.uint8], embeddings: NDArray[np.float32], source: str) -> None:
    """Writes HDF5 with `patches` (n, S, S, 3) uint8 and `embedding` (n, D) float32.

    Args:
        embeddings: PyTorch's, in float32.
        source: "drawn" or "real".
    """
    import h5py

    memory = io.BytesIO()  # on a full disk HDF5 would end with pages of its own words
    with h5py.File(memory, "w") as vector:
        vector.create_dataset("patches", data=patches, chunks=(1, *patches.shape[1:]), compression="gzip", shuffle=True)
        vector.create_dataset("embedding", data=embeddings)
        vector.attrs.update({"source": source, "reference": "PyTorch, float32", "colour_order": "RGB"})
    file.write_bytes(memory.getvalue())


def _candidates(size: int, mpp: float, seed: int) -> NDArray[np.uint8]:
    """(C, S, S, 3) patches of three slides, those of each centre and class in turn."""
    import cv2

    wide = max(SLIDE_UM, min(5 * size * mpp, LARGEST_UM), 1.5 * size * mpp)
    orders = cohort_orders()
    chosen = [orders[number * len(orders) // SLIDES_AT_ONCE] for number in range(SLIDES_AT_ONCE)]
    turns: list[tuple[int, int, int, NDArray[np.uint8]]] = []
    for centre, order in enumerate(chosen):
        rgb, layout, stain_mpp = _slide(seed, order, wide)
        side = max(1, round(size * mpp / stain_mpp))
        seen = dict.fromkeys(range(len(CLASSES)), 0)
        for x, y, kind in _places(layout, side * stain_mpp, seed):
            left, top = (
                min(round(at / stain_mpp), limit - side) for at, limit in ((x, rgb.shape[1]), (y, rgb.shape[0]))
            )
            window = rgb[top : top + side, left : left + side]
            how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
            patch = (
                window if side == size else np.asarray(cv2.resize(window, (size, size), interpolation=how), np.uint8)
            )
            turns.append((seen[kind], kind, centre, patch))
            seen[kind] += 1
    return np.stack([patch for *_, patch in sorted(turns, key=lambda turn: turn[:3])])


def _slide(seed: int, order: Order, wide: float) -> tuple[NDArray[np.uint8], Layout, float]:
    rgb, layout, _, stain = draw_slide(seed, order, wide)
    return rgb, layout, stain.mpp


def _places(layout: Layout, side: float, seed: int) -> list[tuple[float, float, int]]:
    """Corners (x, y) in um of squares that hold tissue and do not overlap, in random order, with the class of most of
    each; at least one: the best there is.
    """
    kinds = layout.class_map()
    cells = max(1, round(side / MAP_MPP))
    found, best = [], (-1.0, 0.0, 0.0, 0)
    for row in range(0, kinds.shape[0] - cells + 1, cells):
        for column in range(0, kinds.shape[1] - cells + 1, cells):
            counts = np.bincount(kinds[row : row + cells, column : column + cells].ravel(), minlength=len(CLASSES) + 1)
            share, kind = 1 - counts[0] / cells**2, int(counts[1:].argmax())
            place = (column * MAP_MPP, row * MAP_MPP, kind)
            best = max(best, (share, *place))
            if share >= MIN_TISSUE:
                found.append(place)
    found = found or [best[1:]]
    return [found[k] for k in np.random.default_rng(seed).permutation(len(found))]
