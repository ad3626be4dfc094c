"""Where patches come from: the protocol of every source, and the slides of a cohort as one."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from g2l.data.kept import Kept
from g2l.slides.cohort import Cohort
from g2l.slides.placing.patches import Patch, Patches
from g2l.slides.placing.visits import Block
from g2l.slides.sampling import Sampler
from g2l.slides.slide import Slide

OPEN_SLIDES = 128
REGIONS = 8  # places of blocks kept for each block whose pixels are: batches are drawn ahead of being read


class Source(Protocol):
    """Patches by number. Picklable; opens nothing before the first `read`; safe for threads."""

    @property
    def size(self) -> int:
        """Side of every patch in px."""
        ...

    def draw(self, numbers: NDArray[np.int64], attempts: NDArray[np.int64] | int = 0) -> Patches:
        """Which patches these numbers are; attempt a > 0 is what replaces attempt a - 1."""
        ...

    def read(self, patch: Patch, out: NDArray[np.uint8]) -> None:
        """Fill `out` (size, size, 3) with the patch's RGB.

        Raises:
            SlideError: it cannot be read.
        """
        ...

    def name(self, slide: int) -> str:
        """What the slide (or whatever the patches are grouped by) is called."""
        ...

    def label(self, patch: Patch) -> str:
        """Its class, "" where none is known."""
        ...

    def path(self, slide: int) -> Path:
        """The file or folder it lies in."""
        ...


class Repeated:
    """The first `count` patches of a source without end: number i is number i % count, also where it is replaced."""

    def __init__(self, source: Source, count: int) -> None:
        self.size = source.size
        self._source, self._count = source, count

    def draw(self, numbers: NDArray[np.int64], attempts: NDArray[np.int64] | int = 0) -> Patches:
        """As `Source.draw`; the patches bear the numbers they have in the source."""
        return self._source.draw(np.asarray(numbers) % self._count, attempts)

    def read(self, patch: Patch, out: NDArray[np.uint8]) -> None:
        """As `Source.read`."""
        self._source.read(patch, out)

    def name(self, slide: int) -> str:
        """As `Source.name`."""
        return self._source.name(slide)

    def label(self, patch: Patch) -> str:
        """As `Source.label`."""
        return self._source.label(patch)

    def path(self, slide: int) -> Path:
        """As `Source.path`."""
        return self._source.path(slide)


class OpenSlides(Kept[int, Slide]):
    """The most recently used slides of a cohort, kept open; bounds file handles and memory of one process."""

    def __init__(self, cohort: Cohort, limit: int = OPEN_SLIDES) -> None:
        """Args: limit: how many stay open; fewer where the system allows this process few open files."""
        super().__init__(cohort.open_slide, min(limit, _affordable()))


def _affordable() -> int:
    """A quarter of the files this process may open: OpenSlide holds one of a slide for every thread that reads it."""
    try:
        import resource  # absent on Windows
    except ImportError:
        return OPEN_SLIDES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_SLIDES if soft == resource.RLIM_INFINITY else max(1, soft // 4)


class CohortSource:
    """The patches that a sampler draws from the slides of a cohort."""

    def __init__(self, sampler: Sampler, slides: Kept[int, Slide] | None = None, blocks: int = 256) -> None:
        """Args:
        slides: open ones, to share with other sources of the cohort; by default its own.
        blocks: kept in memory; as many as visits are mixed, or a block is gone before its next patch is due.
        """
        self.sampler, self.size = sampler, sampler.size
        self._slides = slides or OpenSlides(sampler.cohort)
        self._blocks: Kept[int, tuple[Block, NDArray[np.uint8]]] = Kept(self._read_block, blocks)
        self._regions: dict[int, Block] = {}
        self._kept = blocks
        self._names: list[str] = []
        self._labels: list[str | None] = []

    def draw(self, numbers: NDArray[np.int64], attempts: NDArray[np.int64] | int = 0) -> Patches:
        """As `Source.draw`."""
        drawn = self.sampler.draw(numbers, attempts)
        visits = np.unique(drawn.visit[drawn.visit >= 0])
        if len(visits):
            # All at once: one by one they cost more than their tiles. As with the pixels, the latest are kept.
            self._regions |= dict(zip(visits.tolist(), self.sampler.blocks(visits), strict=True))
            for visit in list(self._regions)[: -REGIONS * self._kept]:
                self._regions.pop(visit, None)
        return drawn

    def read(self, patch: Patch, out: NDArray[np.uint8]) -> None:
        """As `Source.read`. A patch of a visit is cut from the visit's block, which is read once for all of them."""
        if patch.visit < 0:
            self._whole(patch.slide, patch.x, patch.y, patch.size, patch.mpp, out)
            return
        block, pixels = self._blocks.get(patch.visit)
        column, row = round((patch.x - block.x) / block.mpp), round((patch.y - block.y) / block.mpp)
        out[:] = pixels[row : row + patch.size, column : column + patch.size]

    def name(self, slide: int) -> str:
        """As `Source.name`."""
        if not self._names:
            self._names = self.sampler.cohort.column("name")  # a slide's whole record takes longer than its patch
        return self._names[slide]

    def label(self, patch: Patch) -> str:
        """The class of its slide: a weak one."""
        if not self._labels:
            self._labels = self.sampler.cohort.column("label")
        return self._labels[patch.slide] or ""

    def path(self, slide: int) -> Path:
        """As `Source.path`."""
        return self.sampler.cohort[slide].path

    def _read_block(self, visit: int) -> tuple[Block, NDArray[np.uint8]]:
        block = self._regions.get(visit) or self.sampler.block(visit)
        pixels = np.empty((block.size, block.size, 3), np.uint8)
        self._whole(block.slide, block.x, block.y, block.size, block.mpp, pixels)
        return block, pixels

    def _whole(self, slide: int, x: float, y: float, size: int, mpp: float, out: NDArray[np.uint8]) -> None:
        try:
            self._slides.get(slide).read_patch(x, y, size, mpp, out)
        except BaseException:
            # The handle itself may be what has failed, as those of a network mount that came back.
            self._slides.forget(slide)
            raise
