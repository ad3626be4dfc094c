"""Images that were cut from one larger field, found by their edges: they show one piece of tissue of one patient.

Data sets of crops often do not say which crops were neighbours. A split at random then trains on the tissue right
beside the test images. Letters: N images, `H` x `W` px.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The step across the edge of two images, over the steps between the last two lines within them. On the 64 tissue images
# of the 2018 Data Science Bowl that tests use, neighbours have .90-1.10, and all others 2.58 and more.
STEP = 1.7
# grey levels: an edge without any structure (white, black) fits every other of its kind and says nothing
FLAT = 0.5


def joined(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Number of the field (0, 1, ...) of each image: two images whose edges continue one another are of one field.

    Args:
        images: N of (H, W, 3); sizes may differ, and only edges of the same length can continue one another.
    Returns:
        (N,) numbers, in the order of each field's first image.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = _neighbours(images) + _neighbours([image.swapaxes(0, 1) for image in images])
    first, second = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(images), len(images)))
    labels = connected_components(graph, directed=False)[1]
    _, firsts, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[numbers].astype(np.int64)


def _neighbours(images: Sequence[NDArray[np.uint8]]) -> list[tuple[int, int]]:
    """Pairs (left, right) of images that continue one another from left to right."""
    found = []
    heights = np.array([len(image) for image in images])
    for height in np.unique(heights).tolist():
        rows = [row for row in np.flatnonzero(heights == height).tolist() if images[row].shape[1] > 1]
        if len(rows) < 2:
            continue
        # (n, H, 3): the first two columns of each image, and the last two
        first, second, before, last = (
            np.stack([images[row][:, column] for row in rows]).astype(np.float32) for column in (0, 1, -2, -1)
        )
        left, right = np.abs(first - second).mean((1, 2)), np.abs(last - before).mean((1, 2))
        for number, row in enumerate(rows):
            step = np.abs(last[number] - first).mean((1, 2))
            within = (right[number] + left) / 2
            fits = (step < STEP * within) & (left > FLAT) & (right[number] > FLAT)
            fits[number] = False
            found += [(row, rows[other]) for other in np.flatnonzero(fits).tolist()]
    return found
