"""Readers against each other on the same places of the same slides, one after another.

What counts is processor time, of all threads together: it says what a core can do, also on a machine that is busy with
something else, and with a reader that starts threads of its own.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from peers import LIMIT, OPENSLIDE, PEERS, Peer, Read

from g2l.errors import CohortError, SlideError
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Sampler
from g2l.slides.slide import Slide

CHECKED = 24  # patches of a case whose pixels are compared
WARM = 48, 1.0  # patches of every slide that a reader may read before it counts, and for how many seconds at most
FAR = 1 << 30  # numbers of patches that only warm up, far from those that count
Place = tuple[int, int, int]  # slide of the race, x, y in px of its finest level
Say = Callable[[str], None]


class Row(NamedTuple):
    """What one reader did in one case; the figures are None where it could not, and `note` says why.

    rate: patches per second of processor time. to_openslide, of_limit: ratios. difference: mean grey levels from
    OpenSlide's pixels.
    """

    slides: str
    size: int
    placing: str
    shrink: int
    reader: str
    rate: float | None = None
    to_openslide: float | None = None
    of_limit: float | None = None
    difference: float | None = None
    note: str = ""


class Race:
    """Slides that are read with one backend, open in every reader.

    Attributes:
        half: whether half their finest resolution comes from decoding at half size.
    """

    def __init__(self, cohort: Cohort, slides: dict[int, Slide], half: bool, say: Say) -> None:
        """Args: slides: number in the cohort -> the slide. say: gets a line for whatever is left out."""
        self.half = half
        self._cohort, self._numbers, self.slides, self._say = cohort, list(slides), list(slides.values()), say
        self.backend = self.slides[0].backend
        self._reads = {peer.name: _opened(peer, self.slides) for peer in PEERS}
        self._warm = False

    @property
    def title(self) -> str:
        """Which slides, and how they are read."""
        names = [slide.path.stem for slide in self.slides]
        many = names[0] if len(names) == 1 else f"{len(names)} slides ({names[0]}, ...)"
        return f"{many}, backend {self.backend}"

    def run(self, size: int, placing: str, shrink: int, seconds: float, rounds: int) -> list[Row]:
        """One case.

        Args:
            size: of a patch in px. placing: "tile" or "random". shrink: 1, or 2 for patches of half the finest
            resolution. seconds: of processor time for OpenSlide. rounds: into which they are divided.
        Returns:
            A row per reader; none where no slide has place for such patches.
        """
        samplers = self._samplers(size, placing, shrink)
        if not samplers:
            return []
        checked = self._places(samplers, shrink, 0, CHECKED)
        peers = [peer for peer in PEERS if shrink == 1 or peer.shrinks]
        notes = {peer.name: reads for peer in peers if isinstance(reads := self._reads[peer.name], str)}
        differences = self._compare(peers, checked, size, shrink, notes)
        active = [peer for peer in peers if peer.name not in notes]
        if not self._warm:
            self._warm_up(active, self._places(samplers, shrink, FAR, WARM[0] * len(samplers)), size, shrink)
        count = max(8, round(self._pass(OPENSLIDE, checked, size, shrink) * seconds / rounds))
        rates: dict[str, list[float]] = {peer.name: [] for peer in active}
        # Places never seen before in every round: a cache that outlives a patch helps as little as in training.
        places = self._places(samplers, shrink, CHECKED, count * rounds)
        if LIMIT in active:
            self._reads[LIMIT.name] = _opened(LIMIT, self.slides)
            self._pass(LIMIT, places, size, shrink)  # brings the tiles' bytes into memory, this case's only
        for turn in range(rounds):
            part = places[turn * count : (turn + 1) * count]
            for peer in active[turn % len(active) :] + active[: turn % len(active)]:
                rates[peer.name].append(self._pass(peer, part, size, shrink))
        rows: list[Row] = []
        for peer in peers:
            row = Row(self.title, size, placing, shrink, peer.name, note=notes.get(peer.name, ""))
            if peer in active:
                own = rates[peer.name]
                row = row._replace(
                    rate=statistics.median(own),
                    to_openslide=_ratio(own, rates[OPENSLIDE.name]),
                    of_limit=_ratio(own, rates[LIMIT.name]) if LIMIT in active else None,
                    difference=differences.get(peer.name),
                )
            rows.append(row)
        return rows

    def _warm_up(self, peers: Sequence[Peer], places: Sequence[Place], size: int, shrink: int) -> None:
        """Let the readers fill what they keep: pyvips takes memory for two rows of tiles of every slide at first."""
        self._warm = True
        for peer in peers:
            until = time.perf_counter() + WARM[1]
            for start in range(0, len(places), 8):
                self._pass(peer, places[start : start + 8], size, shrink)
                if time.perf_counter() > until:
                    break

    def _pass(self, peer: Peer, places: Sequence[Place], size: int, shrink: int) -> float:
        """Read all places: patches per second of processor time."""
        reads = self._reads[peer.name]
        started = time.process_time()
        for slide, x, y in places:
            reads[slide](x, y, size, shrink)  # type: ignore[operator]
        return len(places) / (time.process_time() - started)

    def _compare(
        self, peers: Sequence[Peer], places: Sequence[Place], size: int, shrink: int, notes: dict[str, str]
    ) -> dict[str, float]:
        """Mean difference of every reader from OpenSlide; those that fail get a note."""
        found: dict[str, float] = {}
        truth: list[NDArray[np.int16]] = []
        for peer in peers:
            reads = self._reads[peer.name]
            if isinstance(reads, str):
                continue
            differences: list[float] = []
            for k, (slide, x, y) in enumerate(places):
                try:
                    pixels = reads[slide](x, y, size, shrink)
                except Exception as error:  # every library has its own kinds
                    notes[peer.name] = f"cannot read {self.slides[slide].path.name}: {first_line(error)}"
                    break
                if peer is OPENSLIDE:
                    truth.append(pixels.astype(np.int16))
                if peer is not LIMIT:
                    differences.append(float(np.abs(pixels - truth[k]).mean()))
            if differences:
                found[peer.name] = float(np.mean(differences))
        if OPENSLIDE.name in notes:
            raise SlideError(f"nothing to compare with: OpenSlide {notes[OPENSLIDE.name]}")
        return found

    def _samplers(self, size: int, placing: str, shrink: int) -> dict[int, Sampler]:
        """Of every slide that has place for such patches."""
        found: dict[int, Sampler] = {}
        for k, (number, slide) in enumerate(zip(self._numbers, self.slides, strict=True)):
            try:
                found[k] = Sampler(self._cohort, [number], 0, size, slide.mpp * shrink, placing=placing)  # type: ignore[arg-type]
            except CohortError as error:
                self._say(f"left out: {error}")
        return found

    def _places(self, samplers: dict[int, Sampler], shrink: int, first: int, count: int) -> list[Place]:
        """At least `count` places, beginning with number `first` of every slide, the slides in turns."""
        columns: list[list[Place]] = []
        for k, sampler in samplers.items():
            drawn = sampler.draw(np.arange(first, first - (-count // len(samplers))))
            step_x, step_y = (mpp * shrink for mpp in self.slides[k].mpp_xy)
            x, y = np.rint(drawn.x / step_x).astype(int) * shrink, np.rint(drawn.y / step_y).astype(int) * shrink
            columns.append([(k, *corner) for corner in zip(x.tolist(), y.tolist(), strict=True)])
        return [place for row in zip(*columns, strict=True) for place in row]


def races(cohort: Cohort, numbers: Sequence[int], say: Say) -> list[Race]:
    """The slides of these numbers, a race for those that are read alike."""
    groups: dict[tuple[str, bool], dict[int, Slide]] = {}
    for number in numbers:
        try:
            slide = cohort.open_slide(number)
        except SlideError as error:
            say(f"left out: {error}")
            continue
        # Half the finest resolution: not stored, but to be had by decoding at half size.
        half = any(level.source == 0 and level.shrink == 2 for level in slide.levels)
        groups.setdefault((slide.backend, half), {})[number] = slide
    return [Race(cohort, slides, half, say) for (_, half), slides in groups.items()]


def first_line(error: Exception) -> str:
    """A library's message, cut to what fits into a table."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100]


def _ratio(of: Sequence[float], to: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def _opened(peer: Peer, slides: Sequence[Slide]) -> list[Read] | str:
    """A reader's handles on all slides, or why there are none."""
    if peer.version is None:
        return "not installed"
    reads: list[Read] = []
    for slide in slides:
        try:
            reads.append(peer.open(slide))
        except Exception as error:  # every library has its own kinds
            return f"cannot open {slide.path.name}: {first_line(error)}"
    return reads
