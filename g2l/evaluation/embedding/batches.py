"""Parts -> batches, decoded by threads ahead of the network. Letters: `B` images of a batch, `S` px of a side."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g2l.errors import G2LError
from g2l.evaluation.embedding.images import square
from g2l.evaluation.embedding.parts import Part

MAX_BYTES = 1 << 28  # of one batch, and of what is decoded ahead: images of a data set can have any size


@dataclass
class Batch:
    """images: (B, S, S, 3) uint8, all of one part; at: (B,) their numbers in it."""

    part: int
    images: Tensor
    at: NDArray[np.int64]


@dataclass
class Problems:
    """Images that could not be embedded: what is to be said of them, and the numbers of their parts."""

    texts: list[str] = field(default_factory=list)
    parts: set[int] = field(default_factory=set)

    def add(self, part: int, text: str) -> None:
        """One more."""
        self.parts.add(part)
        self.texts.append(text)


class Batches:
    """Every part in turn, in batches of images of one size; no batch holds images of two parts, so what comes out of
    the network does not depend on how many processes share the parts.

    An image that cannot be read is entered in `problems`, and the others go on.
    """

    def __init__(self, parts: Sequence[Part], batch_size: int, threads: int, problems: Problems) -> None:
        self.parts, self._batch_size, self._threads, self.problems = parts, batch_size, threads, problems

    def __iter__(self) -> Iterator[Batch]:
        """Batches of up to `batch_size`, fewer where images are large."""
        waiting: dict[int, list[tuple[int, NDArray[np.uint8]]]] = {}  # by side
        current = held = 0
        with ThreadPoolExecutor(self._threads) as pool:
            for number, k, pixels in self._images(pool):
                if number != current:
                    yield from (_batch(current, some) for some in waiting.values())
                    waiting, current, held = {}, number, 0
                alike = waiting.setdefault(len(pixels), [])
                alike.append((k, pixels))
                held += pixels.nbytes
                if len(alike) == self._batch_size or held > MAX_BYTES:
                    full = (
                        len(pixels)
                        if len(alike) == self._batch_size
                        else max(waiting, key=lambda s: s * s * len(waiting[s]))
                    )
                    held -= sum(one.nbytes for _, one in waiting[full])
                    yield _batch(number, waiting.pop(full))
            yield from (_batch(current, some) for some in waiting.values())

    def _images(self, pool: ThreadPoolExecutor) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """(part, number in it, central square) of every image that can be read, in order."""
        todo = ((number, k) for number, part in enumerate(self.parts) for k in range(part.count))
        queue: deque[tuple[int, int, Future[NDArray[np.uint8]]]] = deque()
        ahead = 2 * self._threads
        try:
            while True:
                for number, k in islice(todo, max(0, ahead - len(queue))):
                    queue.append((number, k, pool.submit(self.parts[number].read, k)))
                if not queue:
                    return
                number, k, reading = queue.popleft()
                try:
                    pixels = square(reading.result())
                except G2LError as error:
                    self.problems.add(number, str(error))
                    continue
                ahead = max(2 * self._threads, min(2 * self._batch_size, MAX_BYTES // pixels.nbytes))
                yield number, k, pixels
        finally:  # whoever stops asking does not wait for what was to be read ahead
            for _, _, reading in queue:
                reading.cancel()


def _batch(number: int, held: Sequence[tuple[int, NDArray[np.uint8]]]) -> Batch:
    images = torch.from_numpy(np.stack([pixels for _, pixels in held]))
    return Batch(number, images, np.array([k for k, _ in held], np.int64))
