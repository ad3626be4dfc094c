"""Patches as an endless stream of batches whose content is a pure function of seed and number.

Letters: `B` images of one process and step, `S` pixels of a patch.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from g2l.data.source import OpenSlides, Source
from g2l.data.streaming.ahead import Ahead
from g2l.data.streaming.buffers import Pool
from g2l.data.streaming.crew import Crew
from g2l.data.streaming.filling import Filling
from g2l.data.streaming.reading import PatchReader
from g2l.data.streaming.ring import Parcel, Ring, Slots
from g2l.data.streaming.screen import SCREENS, Quality
from g2l.errors import G2LError, SlideError
from g2l.slides.cohort import Cohort
from g2l.slides.placing.patches import Patch


class PatchStream(IterableDataset[dict[str, Any]]):
    """Whole batches. Slot j of step t on rank r of R holds patch number i = first + t B R + j R + r.

    The numbers do not depend on workers, and a run of R processes with B images sees at each step the same patches
    as one with R B. Starting at step t costs nothing, which makes resuming exact. Threads fill the next batches while
    one is in use.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        start: int = 0,
        steps: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        prefetch: int = 2,
        timeout: float = 120.0,
        quality: Quality = "none",
        drop_slides: bool = True,
        first: int = 0,
    ) -> None:
        """Args:
        batch_size: B.
        start, steps: first step, and how many (None: without end).
        rank, world_size: r and R.
        threads: readers of one process.
        prefetch: batches that are filled while one is in use.
        timeout: seconds that reading one patch may take.
        quality: what a patch must pass (streaming/screen.py); the next attempt of its number replaces one that does
            not.
        drop_slides: read a slide no more after three failed patches.
        first: number of the first patch of step 0, which a run that goes on with other B or R shifts (also below 0, as
            long as the steps from `start` on are not).
        """
        self.source, self.batch_size = source, batch_size
        self.start, self.steps, self.rank, self.world_size = start, steps, rank, world_size
        self.threads, self.prefetch, self.timeout, self.first = threads, prefetch, timeout, first
        self.pin = False  # memory for copies to a GPU, where this process makes the batches itself
        self.ring: Ring | None = None  # what workers fill; `PatchLoader` makes it
        self._reader = PatchReader(source, SCREENS[quality], drop_slides)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a batch's images."""
        return self.batch_size, self.source.size, self.source.size, 3

    def numbers(self, step: int) -> NDArray[np.int64]:
        """The patch numbers of a step on this rank, (B,)."""
        within = (step * self.batch_size + np.arange(self.batch_size)) * self.world_size + self.rank
        return self.first + within

    def __iter__(self) -> Iterator[Any]:
        """Yield step by step {images: uint8 (B, S, S, 3), index, attempt: int64 (B,), place: float64 (B, 3), slides: B
        names, labels: B classes ("": not known), faults: a list of faults.Fault}. A place is x and y in um, and um/px.

        Raises:
            SlideError: too many patches in a row cannot be read, or a file does not answer.
        """
        # DataLoader takes batches from its workers in turn: worker w of W makes steps start + w, start + w + W, ...
        worker = get_worker_info()
        if worker is None:
            yield from self._batches(Pool(self.shape, self.prefetch + 3, self.pin), 0, 1)
        elif self.ring is None:
            yield from self._batches(Pool(self.shape, self.prefetch + 3), worker.id, worker.num_workers)
        else:
            try:
                yield from self._batches(Slots(self.ring, worker.id), worker.id, worker.num_workers)
            except G2LError as error:
                yield Parcel(error=error)

    def _batches(self, memory: Pool | Slots, offset: int, stride: int) -> Iterator[Any]:
        step, end = self.start + offset, inf if self.steps is None else self.start + self.steps
        waiting: deque[Filling] = deque()
        ahead = Ahead(self.source.draw, self.numbers, stride, end)
        with Crew(self.threads, self.timeout) as crew:
            while step < end or waiting:
                while step < end and len(waiting) <= self.prefetch:
                    filling = self._begun(crew, memory, ahead, step)
                    if filling is None:
                        break
                    waiting.append(filling)
                    step += stride
                if waiting:
                    # No name of ours may hold the batch while it is in use: its memory is to come back.
                    yield self._finished(crew, memory, waiting.popleft())
                else:
                    time.sleep(1e-3)

    def _begun(self, crew: Crew, memory: Pool | Slots, ahead: Ahead, step: int) -> Filling | None:
        images = memory.take()
        if images is None:
            return None
        filling = Filling(self._reader, crew, self.numbers(step), partial(ahead.patches, step), images)
        filling.begin()
        return filling

    def _finished(self, crew: Crew, memory: Pool | Slots, filling: Filling) -> Any:
        stuck = crew.wait(filling.done)
        if stuck is not None:
            raise SlideError(
                f"{self.source.path(stuck.slide)} has not answered for {self.timeout:g} s (a hung network mount?); "
                "check the storage, or raise data.timeout"
            )
        if filling.error is not None:
            raise filling.error
        return memory.deliver(filling.images, filling.columns())


def read_patches(cohort: Cohort, patches: Sequence[Patch], threads: int = 2) -> NDArray[np.uint8]:
    """The pixels of patches of one size, (len(patches), S, S, 3), each read on its own, filled in place by threads."""
    slides = OpenSlides(cohort)
    images = np.empty((len(patches), patches[0].size, patches[0].size, 3), np.uint8)

    def fill(slot: int) -> None:
        patch = patches[slot]
        slides.get(patch.slide).read_patch(patch.x, patch.y, patch.size, patch.mpp, images[slot])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(len(patches))))
    return images
