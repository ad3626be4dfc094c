"""The loaders that benchmarks/loading.py compares: batches of patches as a training would get them."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import openslide
import torch
from peers import CACHE_BYTES
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from g2l.data.source import CohortSource, OpenSlides
from g2l.data.stream import PatchStream
from g2l.data.streaming.loader import PatchLoader
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Sampler

BATCH = 64
DRAWN = 20_000  # places for those who have no sampler of their own


class Job(NamedTuple):
    """What is to be loaded: slides (rows) of the cohort in a folder, at a resolution that all of them store."""

    folder: Path
    slides: list[int]
    size: int
    mpp: float

    def sampler(self, placing: Literal["tile", "random"]) -> Sampler:
        """Places of these patches."""
        return Sampler(Cohort.open(self.folder), self.slides, 0, self.size, self.mpp, placing=placing)


Make = Callable[[Job, int, int], Iterator[int]]  # job, workers, threads -> the size of every batch, as it arrives


class Loader(NamedTuple):
    """A way to load, with so many processes, and threads in each.

    cycle: patches after which its work repeats; a measurement covers so many at least.
    """

    name: str
    make: Make
    workers: int
    threads: int
    cycle: int = 0


class _Samples(Dataset[Tensor]):
    """One patch per item, read by OpenSlide from a slide that stays open: what everyone writes."""

    def __init__(self, job: Job) -> None:
        sampler = job.sampler("random")
        self._drawn, self._size = sampler.draw(np.arange(DRAWN)), job.size
        self._paths = {slide: str(sampler.cohort[slide].path) for slide in job.slides}
        self._mpps = {slide: sampler.cohort[slide].mpp for slide in job.slides}
        self._open: dict[int, openslide.OpenSlide] = {}

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> Tensor:
        patch = self._drawn.patch(index % len(self._drawn))
        if patch.slide not in self._open:
            handle = self._open[patch.slide] = openslide.OpenSlide(self._paths[patch.slide])
            handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        corner = round(patch.x / self._mpps[patch.slide]), round(patch.y / self._mpps[patch.slide])
        image = self._open[patch.slide].read_region(corner, 0, (self._size, self._size)).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _plain(job: Job, workers: int, threads: int) -> Iterator[int]:
    yield from map(len, DataLoader(_Samples(job), batch_size=BATCH, num_workers=workers))


def _wsistream(job: Job, workers: int, threads: int, **settings: Any) -> Iterator[int]:
    from capped import CappedBackend
    from wsistream.sampling import RandomSampler  # pyright: ignore[reportMissingImports]
    from wsistream.tissue import OtsuTissueDetector  # pyright: ignore[reportMissingImports]
    from wsistream.torch import WsiStreamDataset  # pyright: ignore[reportMissingImports]

    cohort = Cohort.open(job.folder)
    dataset = WsiStreamDataset(
        slide_paths=[str(cohort[slide].path) for slide in job.slides],
        backend=CappedBackend(),
        tissue_detector=OtsuTissueDetector(),
        sampler=RandomSampler(patch_size=job.size, num_patches=-1, target_mpp=job.mpp),
        seed=0,
        **settings,
    )
    for batch in DataLoader(dataset, batch_size=BATCH, num_workers=workers):
        yield len(batch["image"])


def _wsistream_kept(job: Job, workers: int, threads: int) -> Iterator[int]:
    return _wsistream(job, workers, threads, output_dtype="uint8", tissue_mask_cache_size=len(job.slides))


def _ours(job: Job, workers: int, threads: int, placing: Literal["tile", "random"] = "tile") -> Iterator[int]:
    stream = PatchStream(CohortSource(job.sampler(placing)), BATCH, threads=threads)
    for batch in PatchLoader(stream, workers):
        yield len(batch["images"])


def _ours_anywhere(job: Job, workers: int, threads: int) -> Iterator[int]:
    return _ours(job, workers, threads, "random")


def _bare(job: Job, workers: int, threads: int) -> Iterator[int]:
    """Threads that only read, each over and over into the same memory: what a loader can deliver at most."""
    sampler = job.sampler("tile")
    drawn, slides = sampler.draw(np.arange(DRAWN)), OpenSlides(sampler.cohort)
    patches = [drawn.patch(k) for k in range(DRAWN)]

    def read(start: int) -> int:
        out = np.empty((job.size, job.size, 3), np.uint8)
        for patch in patches[start : start + BATCH]:
            slides.get(patch.slide).read_patch(patch.x, patch.y, patch.size, patch.mpp, out)
        return len(patches[start : start + BATCH])

    with ThreadPoolExecutor(threads) as pool:
        starts = itertools.cycle(range(0, DRAWN, BATCH))
        waiting = [pool.submit(read, next(starts)) for _ in range(2 * threads)]
        while True:
            yield waiting.pop(0).result()
            waiting.append(pool.submit(read, next(starts)))


WSISTREAM = Loader("wsistream, uint8, masks kept", _wsistream_kept, 1, 1)
BARE = Loader("read_patch alone, no loader", _bare, 0, 2)
LOADERS = (
    *(Loader("DataLoader over OpenSlide, float32", _plain, workers, 1) for workers in (0, 1, 2)),
    # It opens 8 slides, looks for tissue on each, and takes 100 patches of each: 25 batches are two such turns.
    Loader("wsistream, as its README", _wsistream, 1, 1, cycle=25 * BATCH),
    *(WSISTREAM._replace(workers=workers) for workers in (0, 1, 2)),
    *(Loader("g2l", _ours, workers, threads) for workers in (0, 1, 2) for threads in (1, 2)),
    Loader("g2l, patches anywhere", _ours_anywhere, 1, 1),
    BARE._replace(threads=1),
    BARE,
)
