"""Outlines of truth and prediction side by side. Letters: `H` x `W` px."""

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.tables.annotations import IGNORED

# Okabe and Ito's colours, told apart by the colour-blind, without those that vanish on pink and purple tissue
COLOURS = np.array(
    [[0, 255, 170], [240, 228, 66], [86, 180, 233], [230, 159, 0], [0, 0, 0], [255, 255, 255], [213, 94, 0]], np.uint8
)
LEAST = 384  # px that a picture's longer side has at least, so that outlines of 2 px can be seen
GAP = 8


def outlines(image: NDArray[np.uint8], codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image (H, W, 3), enlarged by a whole number, with the outline of each class of codes (H, W) in its colour.

    What is not judged is grey.
    """
    from scipy.ndimage import binary_erosion

    times = max(1, -(-LEAST // max(codes.shape)))
    picture, large = (values.repeat(times, axis=0).repeat(times, axis=1) for values in (image.copy(), codes))
    picture[large == IGNORED] = picture[large == IGNORED] // 4 + 144
    for code in np.unique(large).tolist():
        if code in (0, IGNORED):
            continue
        inside = large == code
        edge = inside & ~binary_erosion(inside, iterations=2, border_value=1)
        picture[edge] = COLOURS[(code - 1) % len(COLOURS)]
    return picture


def side_by_side(image: NDArray[np.uint8], truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Truth at the left, prediction at the right, as `outlines` draws them; (H, W, 3) and (H, W) codes."""
    left, right = outlines(image, truth), outlines(image, predicted)
    return np.concatenate([left, np.full((len(left), GAP, 3), 255, np.uint8), right], axis=1)
