"""Patches as an endless stream of batches whose content is a pure function of seed and number.

Letters: `B` images of one process and step, `S` pixels of a patch.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Patch, Sampler
from g2l.slides.slide import Slide


class OpenSlides:
    """The most recently used slides of a cohort, kept open; bounds file handles and memory of one process."""

    def __init__(self, cohort: Cohort, limit: int = 32) -> None:
        """Args: limit: how many slides stay open."""
        self._cohort, self._limit = cohort, limit
        self._open: OrderedDict[int, Slide] = OrderedDict()
        self._lock = Lock()

    def get(self, index: int) -> Slide:
        """The slide of this number in the cohort, opened at the resolution the cohort records."""
        with self._lock:
            slide = self._open.pop(index, None)
            if slide is None:
                slide = self._cohort.open_slide(index)
            self._open[index] = slide
            if len(self._open) > self._limit:
                # Not closed by hand: another thread may be reading from it, and dropping the last name closes it.
                self._open.popitem(last=False)
            return slide

    def read(self, patch: Patch) -> NDArray[np.uint8]:
        """The pixels of a patch, (S, S, 3)."""
        return self.get(patch.slide).read_patch(patch.x, patch.y, patch.size, patch.mpp)


def read_patches(cohort: Cohort, patches: Sequence[Patch], threads: int = 2) -> NDArray[np.uint8]:
    """The pixels of patches of one size, (len(patches), S, S, 3), filled in place by threads."""
    slides = OpenSlides(cohort)
    images = np.empty((len(patches), patches[0].size, patches[0].size, 3), np.uint8)

    def fill(slot: int) -> None:
        images[slot] = slides.read(patches[slot])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(len(patches))))
    return images


class PatchStream(IterableDataset[dict[str, Any]]):
    """Whole batches. Slot j of step t on rank r of R holds patch number i = t B R + j R + r (so i mod R = r).

    The numbers do not depend on workers, and a run of R processes with B images sees at each step the same patches
    as one with R B. Starting at step t costs nothing, which makes resuming exact.
    """

    def __init__(
        self,
        sampler: Sampler,
        cohort: Cohort,
        batch_size: int,
        start: int = 0,
        steps: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
    ) -> None:
        """Args:
        batch_size: B.
        start, steps: first step, and how many (None: without end).
        rank, world_size: r and R.
        threads: readers of one worker process.
        """
        self.sampler, self.cohort, self.batch_size = sampler, cohort, batch_size
        self.start, self.steps, self.rank, self.world_size = start, steps, rank, world_size
        self.threads = threads

    def numbers(self, step: int) -> list[int]:
        """The patch numbers of a step on this rank."""
        first = step * self.batch_size * self.world_size + self.rank
        return [first + slot * self.world_size for slot in range(self.batch_size)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield {images: uint8 (B, S, S, 3), index: int64 (B,), slides: B names} step by step."""
        # DataLoader takes batches from its workers in turn: worker w of W makes steps start + w, start + w + W, ...
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        slides = OpenSlides(self.cohort)
        names: dict[int, str] = {}
        step = self.start + offset
        end = float("inf") if self.steps is None else self.start + self.steps
        with ThreadPoolExecutor(self.threads) as pool:
            while step < end:
                numbers = self.numbers(step)
                images = torch.empty(len(numbers), self.sampler.size, self.sampler.size, 3, dtype=torch.uint8)
                rows = images.numpy()

                def fill(slot: int, numbers: list[int] = numbers, rows: NDArray[np.uint8] = rows) -> int:
                    patch = self.sampler.patch(numbers[slot])
                    rows[slot] = slides.read(patch)
                    return patch.slide

                drawn = list(pool.map(fill, range(len(numbers))))
                names |= {slide: self.cohort[slide].name for slide in set(drawn) - names.keys()}
                yield {"images": images, "index": torch.tensor(numbers), "slides": [names[slide] for slide in drawn]}
                step += stride
