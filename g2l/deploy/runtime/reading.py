"""Slides -> batches of patches, planned and read by threads ahead of the engine. Letters: b patches, S px of a side."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from g2l.deploy.runtime.plan import Plan, unreadable
from g2l.errors import SlideError
from g2l.slides.indexing.manifest import Entry

AHEAD = 3  # batches that wait for the engine: enough for the time it takes to open the next slide
LOOK_S = 0.2  # between two looks at whether anybody still wants them


@dataclass(frozen=True)
class Begun:
    """A slide whose batches come next."""

    plan: Plan


@dataclass(frozen=True)
class Batch:
    """patches: (b, S, S, 3) uint8 RGB, the next ones of the plan's grid."""

    plan: Plan
    patches: NDArray[np.uint8]


@dataclass(frozen=True)
class Complete:
    """A slide all of whose batches have come; it is closed soon."""

    plan: Plan


@dataclass(frozen=True)
class Failed:
    """A slide that cannot be embedded: its error tells why, and what helps."""

    entry: Entry
    error: SlideError


Item = Begun | Batch | Complete | Failed


class Reading:
    """Goes through slides in a thread of its own. What comes out of each, in order: Begun, its batches and Complete; or
    Failed, instead of all or amid them.

    Use it as a context manager: leaving it ends the threads. Memory holds at most AHEAD batches, those that are being
    read, and the plan of one slide more.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        make_plan: Callable[[Entry], Plan],
        size: int,
        mpp: float,
        batch: int,
        readers: int,
    ) -> None:
        """Args: size, mpp: side of a patch in px, and um per px. batch: patches of one. readers: threads."""
        self._entries, self._make_plan, self._size, self._mpp, self._batch = entries, make_plan, size, mpp, batch
        self._readers = readers
        self._queue: Queue[Item | BaseException | None] = Queue(AHEAD)
        self._ended = Event()
        self._thread = Thread(target=self._run, name="reading", daemon=True)

    def __enter__(self) -> "Reading":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        while True:
            try:
                # A limit, because a wait without one would not be interrupted by Ctrl-C on Windows.
                item = self._queue.get(timeout=LOOK_S)
            except Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(self._readers) as pool:
                for entry in self._entries:
                    if self._ended.is_set():
                        return
                    self._one(entry, pool)
            self._put(None)
        except BaseException as error:  # a fault of ours: whoever waits for batches must hear of it
            self._put(error)

    def _one(self, entry: Entry, pool: ThreadPoolExecutor) -> None:
        try:
            plan = self._make_plan(entry)
        except SlideError as error:
            self._put(Failed(entry, error))
            return
        try:
            self._put(Begun(plan))
            for patches in self._batches(plan, pool):
                if not self._put(Batch(plan, patches)):
                    return
        except SlideError as error:
            self._put(Failed(entry, error))
        else:
            self._put(Complete(plan))
        finally:
            plan.slide.close()

    def _batches(self, plan: Plan, pool: ThreadPoolExecutor) -> Iterator[NDArray[np.uint8]]:
        """Those that are not done yet."""
        count, places = len(plan.grid.um), plan.grid.um.tolist()
        under_way: deque[tuple[NDArray[np.uint8], list[Future[None]]]] = deque()
        starts = iter(range(plan.done.rows, count, self._batch))
        try:
            while True:
                while len(under_way) < 2 and (start := next(starts, None)) is not None:
                    some = places[start : start + self._batch]
                    patches = np.empty((len(some), self._size, self._size, 3), np.uint8)
                    reading = [
                        pool.submit(self._read, plan, x, y, out) for (x, y), out in zip(some, patches, strict=True)
                    ]
                    under_way.append((patches, reading))
                if not under_way:
                    return
                patches, reading = under_way[0]
                for one in reading:
                    one.result()
                under_way.popleft()
                yield patches
        finally:
            # The slide is closed next: nobody may be reading it then.
            for one in (future for _, reading in under_way for future in reading):
                if not one.cancel():
                    one.exception()

    def _read(self, plan: Plan, x: float, y: float, out: NDArray[np.uint8]) -> None:
        try:
            plan.slide.read_patch(x, y, self._size, self._mpp, out)
        except SlideError:
            raise
        except Exception as error:  # as in plan.py: whatever damage leads to costs only its own slide
            raise unreadable(plan.entry, error) from error

    def _put(self, item: Item | BaseException | None) -> bool:
        """False when nobody wants it any more."""
        while not self._ended.is_set():
            try:
                self._queue.put(item, timeout=LOOK_S)
                return True
            except Full:
                continue
        return False
