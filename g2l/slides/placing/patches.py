"""Where a patch lies, one or many at once."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Patch(NamedTuple):
    """Where patch `index` lies: top-left corner (x, y) in um on the cohort's slide `slide`, `size` px at `mpp`.

    attempt: a > 0 replaces attempt a - 1, which could not be read or was not wanted. visit: the visit whose block holds
    the patch (`Sampler.block`); -1 where it is read on its own.
    """

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple.index; nobody searches a patch
    slide: int
    x: float
    y: float
    mpp: float
    size: int
    attempt: int = 0
    visit: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Patches of one size as columns, all (n,) and named as in `Patch`; `len` is n."""

    index: NDArray[np.int64]
    attempt: NDArray[np.int64]
    slide: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    mpp: NDArray[np.float64]
    visit: NDArray[np.int64]
    size: int

    def __len__(self) -> int:
        return len(self.index)

    def patch(self, k: int) -> Patch:
        """Patch k of these."""
        columns = (self.index, self.slide, self.x, self.y, self.mpp)
        index, slide, x, y, mpp = (column[k].item() for column in columns)
        return Patch(index, slide, x, y, mpp, self.size, self.attempt[k].item(), self.visit[k].item())
