"""Patches that were cut already as a source of a stream: number i is a pure function of (seed, i), epochs are exact.

Letters: `S` px of a patch, `n` numbers drawn at once.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g2l.data.cut.encoded import decode
from g2l.data.cut.stores import Store
from g2l.data.kept import Kept
from g2l.errors import SlideError
from g2l.slides.placing.patches import Patch, Patches
from g2l.slides.placing.philox import uniforms
from g2l.slides.sampling import generator

# Streams of the run's random numbers (0 places patches on slides, 1 makes views): an epoch's order; crops and spares.
ORDER, CHANCE = 2, 3
REMEMBERED = 1 << 18  # rows of the epochs kept besides the last two


class EpochSource:
    """Each patch once per epoch, in an order of its own; larger images are cropped at random.

    Numbers e N to e N + N - 1 of a store of N patches are epoch e. A `Patch` of it says in x and y how much of the
    room that the crop has lies left of it and above it, 0 to 1: how large an image is, is known when it is read.
    Attempt 1, 2, ... of a number is any patch of the store.
    """

    def __init__(
        self,
        store: Store,
        slides: NDArray[np.int32],
        mpp: NDArray[np.float64],
        labels: NDArray[np.str_],
        names: Sequence[str],
        seed: int,
        size: int,
    ) -> None:
        """Args:
        slides, mpp, labels: (N,) of every patch of the store: number of its slide, um per px (nan: not known), class
            ("": not known).
        names: of every slide.
        seed: of the run. size: S.
        """
        self.size, self.seed = size, seed
        self._store, self._slides, self._mpp, self._labels, self._names = store, slides, mpp, labels, names
        kept = 2 + REMEMBERED // max(1, len(store))
        self._orders: Kept[int, NDArray[np.int32]] = Kept(partial(_order, seed, len(store)), kept)

    def __len__(self) -> int:
        """Patches of one epoch."""
        return len(self._store)

    def draw(self, numbers: NDArray[np.int64], attempts: NDArray[np.int64] | int = 0) -> Patches:
        """The patches of these numbers, (n,) each."""
        numbers, attempts = np.broadcast_arrays(np.asarray(numbers, np.int64), np.asarray(attempts, np.int64))
        rows, chance = self._rows(numbers, attempts)
        visits = np.full(len(numbers), -1, np.int64)
        slides = self._slides[rows].astype(np.int64)
        return Patches(numbers, attempts, slides, chance[:, 0], chance[:, 1], self._mpp[rows], visits, self.size)

    def row(self, number: int, attempt: int = 0) -> int:
        """Which patch of the store it is."""
        if attempt == 0:
            epoch, k = divmod(number, len(self))
            return int(self._orders.get(epoch)[k])
        return int(self._rows(np.array([number]), np.array([attempt]))[0][0])

    def read(self, patch: Patch, out: NDArray[np.uint8]) -> None:
        """Fill `out` (S, S, 3).

        Raises:
            SlideError: the image cannot be read, or is smaller than S.
        """
        row = self.row(patch.index, patch.attempt)
        pixels = self.image(row, out)
        height, width = pixels.shape[:2]
        if min(height, width) < self.size:
            raise SlideError(
                f"patch {self._store.name(row)} has {width} x {height} px, less than the {self.size} asked; lower the "
                "size of patches, or leave it out"
            )
        if pixels is not out:
            top, left = int(patch.y * (height - self.size + 1)), int(patch.x * (width - self.size + 1))
            out[:] = pixels[top : top + self.size, left : left + self.size]

    def image(self, row: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The whole image of a row, (height, width, 3); `out` itself where the image was decoded into it.

        Raises:
            SlideError: it cannot be read.
        """
        try:
            data = self._store.load(row)
            return decode(data, out) if isinstance(data, bytes) else data
        except (OSError, ValueError) as error:
            raise SlideError(
                f"patch {self._store.name(row)} cannot be read ({error}); replace or remove the file"
            ) from error

    def file(self, row: int) -> str:
        """What the patch of a row is called: its path below the folder."""
        return self._store.name(row)

    def name(self, slide: int) -> str:
        """Of a slide (a group of patches)."""
        return self._names[slide]

    def label(self, patch: Patch) -> str:
        """Its class, "" where none is known."""
        return str(self._labels[self.row(patch.index, patch.attempt)])

    def path(self, slide: int) -> Path:
        """Where its (first) patches lie: a file, or a folder of images."""
        return self._store.place(int(np.argmax(self._slides == slide)))

    def _rows(
        self, numbers: NDArray[np.int64], attempts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Of each number its row, and (n, 4) random numbers of its own."""
        chance = uniforms(self.seed, CHANCE, 0, numbers, attempts)
        rows = (chance[:, 2] * len(self)).astype(np.int64)
        epochs, k = np.divmod(numbers, len(self))
        for epoch in np.unique(epochs).tolist():
            here = (epochs == epoch) & (attempts == 0)
            rows[here] = self._orders.get(epoch)[k[here]]
        return rows, chance


def _order(seed: int, count: int, epoch: int) -> NDArray[np.int32]:
    """The permutation of an epoch of `count` patches."""
    return generator(seed, epoch, ORDER).permutation(np.arange(count, dtype=np.int32))
