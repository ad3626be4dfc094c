"""One patch as it ends up in a batch: read, read again, replaced by the number's next attempt, screened."""

import time
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from g2l.data.source import Source
from g2l.data.streaming.crew import Seat
from g2l.data.streaming.faults import STRIKES, Fault, Strikes
from g2l.data.streaming.screen import Screen
from g2l.errors import SlideError
from g2l.slides.placing.patches import Patch

PAUSE = 0.1  # seconds before a read is tried again: a network mount may need a moment
MOST_FAILED = 16  # patches that may fail with none between them that can be read: then all is lost
MOST_REJECTED = 15  # attempts of one number that a screen may reject; the next is taken as it is
MOST_ATTEMPTS = 200  # of one number; those on dropped slides cost no read


class PatchReader:
    """Reads patches of a source for one process. What it gives depends on number and pixels alone, faults aside."""

    def __init__(self, source: Source, screen: Screen | None = None, drop: bool = True) -> None:
        """Args:
        screen: what a patch must pass; None: nothing.
        drop: read a slide no more after three failed patches; not right where patches are files of their own.
        """
        self.source, self._screen, self._strikes = source, screen, Strikes(STRIKES if drop else None)
        self._warned = False

    def read(
        self, patch: Patch, out: NDArray[np.uint8], another: Callable[[int], Patch], seat: Seat, faults: list[Fault]
    ) -> Patch:
        """Fill `out` (S, S, 3) with the patch or, where it cannot be had, with the next attempt of its number.

        Args:
            another: attempt -> the patch it is. seat: of the thread that reads. faults: gets what went wrong.
        Returns:
            The patch that was read.
        Raises:
            SlideError: nothing can be read any more.
        """
        rejected = 0
        while patch.attempt < MOST_ATTEMPTS:
            if patch.slide not in self._strikes.dropped and self._filled(patch, out, seat, faults):
                if self._screen is None or rejected == MOST_REJECTED or self._screen(out, patch.mpp):
                    return patch
                rejected += 1
                if rejected == MOST_REJECTED and not self._warned:
                    self._warned = True
                    warnings.warn(
                        f"{rejected} patches in a row did not pass data.quality, and the next is taken as it is; look "
                        "whether the rule is made for such slides",
                        stacklevel=2,
                    )
            patch = another(patch.attempt + 1)
        dropped = sorted(self._strikes.dropped)
        names = ", ".join(str(self.source.path(slide)) for slide in dropped[:3])
        raise SlideError(
            f"none of {MOST_ATTEMPTS} attempts at patch {patch.index} could be read; {len(dropped)} slides are given "
            f"up ({names}); check the disk, or replace or remove them"
        )

    def _filled(self, patch: Patch, out: NDArray[np.uint8], seat: Seat, faults: list[Fault]) -> bool:
        """Read a patch, if need be twice. Returns whether it could be read."""
        seat.begin(patch)
        try:
            self.source.read(patch, out)
            self._strikes.in_a_row = 0
            return True
        except SlideError as error:
            reason = str(error)
        seat.end()
        time.sleep(PAUSE)
        seat.begin(patch)
        what = "recovered"
        try:
            self.source.read(patch, out)
            self._strikes.in_a_row = 0
        except SlideError as error:
            reason = str(error)
            what = "dropped" if self._strikes.add(patch.slide) else "replaced"
        path = str(self.source.path(patch.slide))
        faults.append(Fault(self.source.name(patch.slide), path, patch.index, patch.attempt, what, reason))
        if what == "dropped":
            warnings.warn(f"{path} is read no more after {STRIKES} failed patches, the last: {reason}", stacklevel=2)
        if self._strikes.in_a_row >= MOST_FAILED:
            raise SlideError(f"{MOST_FAILED} patches in a row could not be read, the last: {reason}")
        return what == "recovered"
