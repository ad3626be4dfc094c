"""Many jobs on a few processes, none of which can stop the others: a job that kills its process is a failed job."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

import cv2

from g2l.errors import G2LError, SlideError

J = TypeVar("J")

AHEAD = 2  # jobs given out per worker: few, so that little is suspect when a process dies


def run(jobs: Iterable[J], function: Callable[[J], None], workers: int) -> Iterator[tuple[J, G2LError | None]]:
    """Run `function` on every job, in no particular order.

    Args:
        function: picklable (the processes are spawned); reports a failed job by a G2LError, anything else ends the run.
        workers: processes; 0 runs everything here.
    Yields:
        Each job with the error it ended in, or None.
    """
    if workers == 0:
        for job in jobs:
            yield job, attempt(function, job)
        return
    waiting = iter(jobs)
    while True:
        suspects: list[J] = []
        yield from _run_until_crash(waiting, function, workers, suspects)
        if not suspects:
            return
        for job in suspects:  # a process died: whose job it was shows when each has a process of its own
            alone: list[J] = []
            yield from _run_until_crash(iter([job]), function, 1, alone)
            if alone:
                yield job, fatal()


def attempt(function: Callable[[J], None], job: J) -> G2LError | None:
    """Run one job; the error it reports, if it does."""
    try:
        function(job)
    except G2LError as error:
        return error
    return None


def fatal() -> SlideError:
    """The error of a job that took its process with it."""
    return SlideError("reading it ended the process (damaged, or out of memory); remove the file")


def _run_until_crash(
    jobs: Iterator[J], function: Callable[[J], None], workers: int, suspects: list[J]
) -> Iterator[tuple[J, G2LError | None]]:
    """As `run`; when a process dies, the jobs under way are put into `suspects` and it ends."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_prepare)
    running: dict[Future[G2LError | None], J] = {}
    try:
        for job in itertools.islice(jobs, workers * AHEAD):
            running[pool.submit(attempt, function, job)] = job
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                result = done.result()
                yield running.pop(done), result
                for job in itertools.islice(jobs, 1):
                    suspects.append(job)  # lest it be lost when the pool breaks just now
                    running[pool.submit(attempt, function, job)] = job
                    suspects.pop()
    except BrokenProcessPool:
        suspects.extend(running.values())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare() -> None:
    """In every process: one thread, because the processes share the cores; and its end with that of its parent."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot stop its processes, and they would wait for its next job for ever.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
