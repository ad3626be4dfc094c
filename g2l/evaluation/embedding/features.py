"""Embeddings of a table's rows, read from where they were kept. Letters: n rows asked for, D width, P token width."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Bag(NamedTuple):
    """Patches of one slide: embeddings (m, D) float32; x, y (m,) um from the slide's top-left corner; size_um."""

    embeddings: NDArray[np.float32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    size_um: float


class Features(Protocol):
    """What an encoder makes of the rows of a table; the numbers are those of the table."""

    def key_of(self, rows: NDArray[np.int64]) -> str:
        """SHA-256 of encoder, transform, and what these rows show."""
        ...

    def cls(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, D) embeddings of images, in the order asked for."""
        ...

    def tokens(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, h, w, P) patch tokens of images."""
        ...

    def bag(self, row: int) -> Bag:
        """The patches of a slide."""
        ...
