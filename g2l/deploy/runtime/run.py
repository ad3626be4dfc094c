"""One run of `embed`: the slides that are not done, batch by batch, each into its file as soon as it is complete."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g2l.deploy.runtime.engines import Engine
from g2l.deploy.runtime.features import count_of, state, write_features
from g2l.deploy.runtime.folder import PICTURES, TISSUE, replace_bytes, writing
from g2l.deploy.runtime.plan import Plan, Settings, keys, make_plan, unreadable
from g2l.deploy.runtime.progress import Progress
from g2l.deploy.runtime.reading import Batch, Begun, Complete, Failed, Item, Reading
from g2l.deploy.runtime.summary import SlideRow, Status
from g2l.slides.indexing.manifest import Entry

AT_ONCE = 16  # files looked at: a network mount takes milliseconds for each, but serves many at once


class Run:
    """Embeds slides into a folder.

    Attributes:
        rows: of every slide that has ended. patches: embedded.
        seconds: of the whole run, opening_seconds: of that, opening the engine, engine_seconds: computing.
    """

    def __init__(self, settings: Settings, out: Path, partial: Path, about: dict[str, str | float]) -> None:
        """Args: partial: folder of partial results. about: attributes of every file besides those of its slide."""
        self._settings, self._out, self._partial, self._about = settings, out, partial, about
        self.rows: list[SlideRow] = []
        self.patches = 0
        self.seconds = self.opening_seconds = self.engine_seconds = 0.0
        self._last = time.monotonic()
        self._current: Plan | None = None
        self._dropped: set[str] = set()

    def skip_done(self, entries: Sequence[Entry]) -> list[Entry]:
        """Enters the slides whose files are there, or cannot be looked at. Returns the others."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            found = list(threads.map(self._look, entries))
        self.rows += [row for row in found if row is not None]
        return [entry for entry, row in zip(entries, found, strict=True) if row is None]

    def embed(self, entries: Sequence[Entry], open_engine: Callable[[], Engine], readers: int) -> None:
        """Embeds slides. Args: readers: threads that read patches.

        Raises:
            ConfigError: the folder cannot be written any more, or the engine cannot be opened.
        """
        settings, begin = self._settings, time.monotonic()
        self._last = begin
        planned = partial(make_plan, settings=settings, folder=self._partial)
        progress = Progress(len(entries))
        try:
            with (
                Reading(entries, planned, settings.size, settings.mpp, settings.batch_size, readers) as reading,
                open_engine() as engine,
            ):
                self.opening_seconds = time.monotonic() - begin
                for item in reading:
                    self._take(item, engine, progress)
        finally:
            self._leave()
            progress.close()
            self.seconds = time.monotonic() - begin

    def _look(self, entry: Entry) -> SlideRow | None:
        file = self._file(entry)
        try:
            found = state(file, keys(entry, self._settings))
            if found == "done":
                return SlideRow(entry.name, "skipped", count_of(file), path=str(entry.path))
        except OSError as error:
            return self._row(entry, "failed", reason=str(unreadable(entry, error)))
        if found == "foreign":
            reason = f"{file} is there and was not made by g2l embed; move it away, or choose another --out"
            return self._row(entry, "failed", reason=reason)
        return None

    def _take(self, item: Item, engine: Engine, progress: Progress) -> None:
        if isinstance(item, Begun):
            self._current = item.plan
            progress.opened(item.plan.done.count, item.plan.done.count - item.plan.done.rows)
        elif isinstance(item, Failed) and self._current is None and item.entry.name not in self._dropped:
            progress.never_opened()
            self.rows.append(self._row(item.entry, "failed", reason=str(item.error)))
        elif self._current is None:
            return  # of a slide that has failed already
        elif isinstance(item, Batch):
            self._batch(engine, item.plan, item.patches, progress)
        elif isinstance(item, Complete):
            self._finish(item.plan, progress)
        else:
            self._fail(self._current, str(item.error), progress)

    def _batch(self, engine: Engine, plan: Plan, patches: NDArray[np.uint8], progress: Progress) -> None:
        start = time.monotonic()
        rows = engine(patches)
        self.engine_seconds += time.monotonic() - start
        if not np.isfinite(rows).all():
            name = engine.format.name
            self._fail(plan, f"{name} gives embeddings that are not finite; choose another --format", progress)
            return
        with writing(self._out):
            plan.done.append(rows)
        self.patches += len(rows)
        progress.embedded(len(rows))

    def _fail(self, plan: Plan, reason: str, progress: Progress) -> None:
        progress.ended(failed=True, left=plan.done.count - plan.done.rows)
        self._dropped.add(plan.entry.name)
        self.rows.append(self._row(plan.entry, "failed", reason=reason))
        self._leave()

    def _finish(self, plan: Plan, progress: Progress) -> None:
        name = plan.entry.name
        if not self._unchanged(plan):
            self._fail(plan, "changed while it was being read; run the same again when it is complete", progress)
            return
        about, temporary = plan.about | self._about, self._partial / f"{plan.key[:32]}.h5"
        width, batches = self._settings.width, plan.done.batches()
        with writing(self._out):
            replace_bytes(self._out / TISSUE / f"{name}.geojson", plan.outline)
            replace_bytes(self._out / PICTURES / f"{name}.jpg", plan.picture)
            write_features(self._file(plan.entry), temporary, plan.key, plan.grid, width, batches, about)
        self._leave()
        plan.done.remove()
        self.rows.append(self._row(plan.entry, "done", plan.done.count))
        progress.ended(failed=False)

    def _unchanged(self, plan: Plan) -> bool:
        try:
            return plan.key in keys(plan.entry, self._settings)
        except OSError:
            return False

    def _leave(self) -> None:
        if self._current is not None:
            self._current.done.close()
        self._current = None

    def _row(self, entry: Entry, status: Status, patches: int = 0, reason: str = "") -> SlideRow:
        before, self._last = self._last, time.monotonic()
        reason = reason.removeprefix(f"slide {entry.path}").lstrip(": ")
        return SlideRow(entry.name, status, patches, self._last - before, reason, str(entry.path))

    def _file(self, entry: Entry) -> Path:
        return self._out / f"{entry.name}.h5"
