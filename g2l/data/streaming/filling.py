"""A batch while threads fill it."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from g2l.data.streaming.crew import Crew, Seat
from g2l.data.streaming.faults import Fault
from g2l.data.streaming.reading import PatchReader
from g2l.slides.placing.patches import Patch, Patches


class Filling:
    """`begin` hands the work to the crew; `done` is set when it is complete or has failed (`error`)."""

    def __init__(
        self,
        reader: PatchReader,
        crew: Crew,
        numbers: NDArray[np.int64],
        drawn: Callable[[], list[Patch]],
        images: Tensor,
    ) -> None:
        """Args: numbers: (B,) of the patches. drawn: gives these patches. images: (B, S, S, 3) uint8, to be filled."""
        self.images, self.done = images, Event()
        self.error: Exception | None = None
        self._reader, self._crew, self._numbers, self._first = reader, crew, numbers, drawn
        self._rows = images.numpy()
        self._patches: list[Patch] = []
        self._drawn: dict[int, Patches] = {}
        self._faults: list[Fault] = []
        self._slots: Iterator[int] = iter(range(len(numbers)))
        self._ended = count(1)

    def begin(self) -> None:
        """Have it drawn and filled; returns at once."""
        self._crew.submit(self._draw)

    def columns(self) -> dict[str, Any]:
        """What the batch says of its patches: index, attempt (B,) int64, place (B, 3) float64, and lists."""
        source = self._reader.source
        return {
            "index": self._numbers,
            "attempt": np.array([patch.attempt for patch in self._patches]),
            "place": np.array([(patch.x, patch.y, patch.mpp) for patch in self._patches]),
            "slides": [source.name(patch.slide) for patch in self._patches],
            "labels": [source.label(patch) for patch in self._patches],
            "faults": self._faults,
        }

    def _draw(self, seat: Seat) -> None:
        try:
            self._patches = self._first()
        except Exception as error:
            self._fail(error)
            return
        for _ in range(self._crew.threads):
            self._crew.submit(self._fill)

    def _fill(self, seat: Seat) -> None:
        # All threads take their slots from one iterator, which costs less than a task for each and shares the work
        # out evenly to the last patch.
        patches, rows, read = self._patches, self._rows, self._reader.read
        try:
            for slot in self._slots:
                if self._crew.dismissed or self.error:
                    break
                patches[slot] = read(patches[slot], rows[slot], partial(self._another, slot), seat, self._faults)
        except Exception as error:
            self._fail(error)
        seat.end()
        if next(self._ended) == self._crew.threads:
            self.done.set()

    def _another(self, slot: int, attempt: int) -> Patch:
        # For all slots at once, which takes hardly longer than for one: a strict screen rejects many of them.
        if attempt not in self._drawn:
            self._drawn[attempt] = self._reader.source.draw(self._numbers, attempt)
        return self._drawn[attempt].patch(slot)

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.done.set()
