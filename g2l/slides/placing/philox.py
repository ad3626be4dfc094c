"""Random numbers for many counters at once: Philox4x64-10, bit for bit numpy's.

numpy makes one generator per counter, which costs more than everything else about placing a patch.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 10
MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)
KEY_STEPS = np.array([[0x9E3779B97F4A7C15], [0xBB67AE8584CAA73B]], np.uint64)
HALF, LOW = np.uint64(32), np.uint64(2**32 - 1)


def uniforms(
    seed: int, stream: int, block: ArrayLike, index: ArrayLike, attempt: ArrayLike = 0, use: ArrayLike = 0
) -> NDArray[np.float64]:
    """Numbers 4 b to 4 b + 3 (b: `block`) that numpy's Generator(Philox(key, counter)).random() gives.

    Its key is (seed, stream), its counter (0, index, attempt, use).

    Args:
        seed, stream: in [0, 2^64).
        block, index, attempt, use: whole numbers from 0, broadcast against each other to a shape s.
    Returns:
        (*s, 4) float64 in [0, 1).
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    words = np.broadcast_arrays(*(np.asarray(word).astype(np.uint64) for word in (block, index, attempt, use)))
    counter = np.stack([word.ravel() for word in words])
    counter[0] += np.uint64(1)  # numpy counts before it draws
    bits = philox(counter, np.array([[seed], [stream]], np.uint64))
    return ((bits >> np.uint64(11)).T * np.float64(2.0**-53)).reshape(*words[0].shape, 4)


def philox(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Encrypt counters: (4, n) and (2, 1) uint64 -> (4, n)."""
    even, odd = counter[0::2], counter[1::2]
    for _ in range(ROUNDS):
        high, low = _product(MULTIPLIERS, even)
        even, odd = high[::-1] ^ odd ^ key, low[::-1]
        key = key + KEY_STEPS
    return np.stack([even[0], odd[0], even[1], odd[1]])


def _product(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Upper and lower 64 bits of a product, by products of 32-bit halves."""
    a_high, a_low, b_high, b_low = a >> HALF, a & LOW, b >> HALF, b & LOW
    middle = a_high * b_low + (a_low * b_low >> HALF)
    carry = a_low * b_high + (middle & LOW)
    return a_high * b_high + (middle >> HALF) + (carry >> HALF), a * b


class Streams(NamedTuple):
    """n sequences of random numbers, each a pure function of (seed, index, attempt, use).

    seed: of the run. index, attempt: (n,) int64. use: what the numbers are for, so that no two uses share any.
    """

    seed: int
    index: NDArray[np.int64]  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple.index; nobody searches this
    attempt: NDArray[np.int64]
    use: int = 0

    def rows(self, which: NDArray[np.int64]) -> "Streams":
        """Some of the sequences."""
        return self._replace(index=self.index[which], attempt=self.attempt[which])

    def uniforms(self, blocks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Blocks of four numbers of each sequence: (n, len(blocks), 4) in [0, 1)."""
        return uniforms(self.seed, 0, blocks, self.index[:, None], self.attempt[:, None], self.use)
