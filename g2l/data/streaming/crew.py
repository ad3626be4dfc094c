"""Threads that read, and the clock that watches them.

Threads of our own: those of concurrent.futures are joined when the interpreter ends, and one that waits for a dead
network mount would keep the process for ever.
"""

import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from typing import Self

from g2l.slides.placing.patches import Patch


class Seat:
    """Where a thread works: what it is reading, and since when (time.monotonic)."""

    def __init__(self) -> None:
        self.reading: tuple[float, Patch] | None = None

    def begin(self, patch: Patch) -> None:
        """Start the clock of a read."""
        self.reading = time.monotonic(), patch

    def end(self) -> None:
        """Stop it."""
        self.reading = None


Task = Callable[[Seat], None]


class Crew:
    """Threads that do tasks in the order in which they were handed in. A context manager: its end dismisses them.

    A thread that hangs is left behind; it keeps no process from ending.
    """

    def __init__(self, threads: int, timeout: float) -> None:
        """Args: threads: how many. timeout: seconds that reading one patch may take."""
        self.threads, self._timeout = threads, timeout
        self.dismissed = False
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._seats = [Seat() for _ in range(threads)]
        for seat in self._seats:
            Thread(target=_work, args=(self._tasks, seat), name="g2l-reader", daemon=True).start()

    def submit(self, task: Task) -> None:
        """Hand in a task; it must not raise."""
        self._tasks.put(task)

    def wait(self, done: Event) -> Patch | None:
        """Wait for an event. Returns the patch that has been read for too long, if the event does not come for that."""
        while not done.wait(min(1.0, self._timeout / 4)):
            latest = time.monotonic() - self._timeout
            overdue = [reading for seat in self._seats if (reading := seat.reading) and reading[0] < latest]
            if overdue:
                return min(overdue)[1]
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # Tasks still in the queue find `dismissed` and end at once.
        self.dismissed = True
        for _ in range(self.threads):
            self._tasks.put(None)


def _work(tasks: SimpleQueue[Task | None], seat: Seat) -> None:
    while (task := tasks.get()) is not None:
        task(seat)
        del task  # an idle thread must not keep a batch alive
