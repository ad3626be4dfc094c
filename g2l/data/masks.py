"""Which patch tokens the student does not see: blockwise masks of iBOT, drawn on the host.

Letters: B images, h and w sides of the token grid, N = h w tokens.
"""

from collections.abc import Iterator
from math import exp, log, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g2l.errors import ConfigError
from g2l.slides.placing.philox import uniforms

STREAM = 4  # of the run's random numbers (0 places patches, 1 makes views, 2 and 3 belong to cut/epochs.py)
OWN, BLOCKS, RUN = 0, 1, 2  # uses: of a number; of the blocks of its mask; of the run
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio
TRIES = 10  # blocks in a row that may not fit before a mask is left as it is
AT_ONCE = 48  # blocks drawn together, enough for nearly every mask


def draw_masks(
    index: Tensor,
    seed: int,
    grid: tuple[int, int],
    crops: int = 2,
    ratio: tuple[float, float] = (0.1, 0.5),
    smallest: int = 4,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """One mask for one of the crops of every image; its other crops have none.

    Which crop, how many tokens and which ones is a function of (seed, number) alone. A mask is the union of blocks and
    stays at or below its share of the tokens, rounded down. The shares of n consecutive numbers are spread over `ratio`
    as a golden-ratio sequence: every n-th part of it is hit about once.

    Args:
        index: (B,) int64, the patches' numbers in the run, on the CPU.
        grid: (h, w) of the patch tokens.
        ratio: least and largest share of the tokens.
        smallest: tokens of the smallest block, unless fewer are left to mask; the largest has half of all.
        aspect: least and largest height / width of a block; its logarithm is uniform.
    Returns:
        (crops B, N) bool on the CPU, True = masked, crop-major.
    Raises:
        ConfigError: ratio or aspect out of range.
    Source: Zhou et al. 2022 (iBOT); Oquab et al. 2024 (DINOv2). DINOv2 masks a random half of the crops of a batch and
    divides `ratio` evenly over them, so that a mask depends on its batch.
    """
    if not 0 <= ratio[0] <= ratio[1] <= 1 or not 0 < aspect[0] <= aspect[1]:
        raise ConfigError(f"masks: ratio {ratio} must rise within 0-1 and aspect {aspect} from above 0; set them so")
    numbers = index.numpy(force=True).astype(np.uint64)
    tokens = grid[0] * grid[1]
    start = np.uint64(uniforms(seed, STREAM, 0, 0, 0, RUN)[0] * 2.0**53) << np.uint64(11)
    place = (start + numbers * np.uint64(GOLDEN)) / 2.0**64  # wraps around: the fractional part of number / golden
    targets = (tokens * (ratio[0] + (ratio[1] - ratio[0]) * place)).astype(np.int64)
    chosen = (uniforms(seed, STREAM, 0, numbers, 0, OWN)[:, 0] * crops).astype(np.int64)

    blocks = uniforms(seed, STREAM, np.arange(AT_ONCE), numbers[:, None], 0, BLOCKS)  # (B, AT_ONCE, 4)
    masks = np.zeros((crops, len(numbers), tokens), bool)
    for row, (number, target, first) in enumerate(zip(numbers, targets.tolist(), blocks, strict=True)):
        bits = _mask(grid, target, smallest, aspect, _endless(seed, number, first))
        masks[chosen[row], row] = _unpacked(bits, tokens)
    return torch.from_numpy(masks.reshape(-1, tokens))


def _endless(seed: int, number: np.uint64, first: NDArray[np.float64]) -> Iterator[list[float]]:
    """The four numbers of each block of a mask, for as long as they are asked for."""
    yield from first.tolist()
    block = len(first)
    while True:
        yield from uniforms(seed, STREAM, np.arange(block, block + AT_ONCE), number, 0, BLOCKS).tolist()
        block += AT_ONCE


def _mask(
    grid: tuple[int, int], target: int, smallest: int, aspect: tuple[float, float], random: Iterator[list[float]]
) -> int:
    """A union of at most `target` tokens, as a whole number: bit i w + j is token (i, j)."""
    height, width = grid
    low, stretch = log(aspect[0]), log(aspect[1] / aspect[0])
    mask = tries = 0
    while tries < TRIES and mask.bit_count() < target:
        most = min(target - mask.bit_count(), height * width // 2)
        size, shape, top, left = next(random)
        area, ratio = smallest + (most - smallest) * size, exp(low + stretch * shape)
        high, wide = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        tries += 1
        if not (0 < high < height and 0 < wide < width):
            continue
        row = ((1 << wide) - 1) << int(left * (width - wide + 1))
        block = _repeated(row, high, width) << int(top * (height - high + 1)) * width
        if 0 < (block & ~mask).bit_count() <= most:
            mask, tries = mask | block, 0
    return mask


def _repeated(row: int, times: int, width: int) -> int:
    """The bits of a row, in so many rows."""
    return row * (((1 << times * width) - 1) // ((1 << width) - 1))


def _unpacked(bits: int, count: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(bits.to_bytes(-(-count // 8), "little"), np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little").view(bool)
