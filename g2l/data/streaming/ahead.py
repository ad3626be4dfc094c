"""The patches of several batches drawn at once: a draw costs hardly more for a thousand than for a hundred."""

from collections.abc import Callable
from itertools import repeat
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from g2l.slides.placing.patches import Patch, Patches

AT_ONCE = 1024  # patches


class Ahead:
    """Gives the patches of the steps of one process, each once. Safe for threads."""

    def __init__(
        self,
        draw: Callable[[NDArray[np.int64]], Patches],
        numbers: Callable[[int], NDArray[np.int64]],
        stride: int,
        end: float,
    ) -> None:
        """Args:
        draw: numbers -> their patches. numbers: step -> numbers of its patches.
        stride, end: from one step of this process to its next, and where they end.
        """
        self._draw, self._numbers, self._stride, self._end = draw, numbers, stride, end
        self._made: dict[int, list[Patch]] = {}
        self._lock = Lock()

    def patches(self, step: int) -> list[Patch]:
        """The patches of a step."""
        with self._lock:
            if step not in self._made:
                first = self._numbers(step)
                steps = range(step, step + self._stride * max(1, AT_ONCE // len(first)), self._stride)
                numbers = [self._numbers(one) for one in steps if one < self._end]
                drawn = _each(self._draw(np.concatenate(numbers)))
                for one, k in zip(steps, range(0, len(drawn), len(first)), strict=False):
                    self._made[one] = drawn[k : k + len(first)]
            return self._made.pop(step)


def _each(drawn: Patches) -> list[Patch]:
    columns = (drawn.index, drawn.slide, drawn.x, drawn.y, drawn.mpp)
    index, slide, x, y, mpp = (column.tolist() for column in columns)
    return list(map(Patch, index, slide, x, y, mpp, repeat(drawn.size), drawn.attempt.tolist(), drawn.visit.tolist()))
