"""The jobs of `pool.run` on a Dask cluster."""

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from g2l.errors import CohortError, G2LError
from g2l.slides.indexing.pool import attempt, fatal

J = TypeVar("J")

CONNECT_S = 5  # to reach the scheduler, or to take leave of it
ANSWER_S = 60  # for an answer of a scheduler that was reached
IDLE_S = 60  # without any worker
LOOK_S = 2  # between two looks at how many workers there are
AHEAD = 2  # jobs given out per thread of the cluster


def run_on_cluster(
    jobs: Iterable[J], function: Callable[[J], None], scheduler: str
) -> Iterator[tuple[J, G2LError | None]]:
    """As `pool.run`, on the workers of a Dask scheduler, which import `function` and see the same files.

    Workers may come and go. A job is tried again when its worker dies; when Dask gives it up, it is tried once more
    after all others and alone, because another job may have killed its workers.

    Args:
        scheduler: its address, such as tcp://host:8786.
    Raises:
        CohortError: distributed is not installed, the scheduler cannot be reached or is lost, or it has no workers.
    """
    suspects: list[J] = []
    with _connected(scheduler) as client:
        yield from _run(client, jobs, function, scheduler, suspects)
        for job in suspects:
            alone: list[J] = []
            yield from _run(client, [job], function, scheduler, alone)
            if alone:
                yield job, fatal()


@contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    try:
        from distributed import Client
        from distributed.comm.addressing import resolve_address
    except ImportError as error:
        raise CohortError("--scheduler needs distributed; install it with pip install 'g2l[cluster]'") from error
    with _silenced("distributed.batched", "distributed.client"):
        try:
            resolve_address(scheduler)  # or a client would spend ten seconds on closing what it never opened
            client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TypeError, MemoryError) as error:  # what is no scheduler may announce 3 exabytes
            what = " ".join(str(error).split())
            raise CohortError(
                f"no Dask scheduler answers at {scheduler} ({what}); start one with dask scheduler, and give its "
                "address, such as tcp://host:8786"
            ) from error
        try:
            yield client
        finally:
            # One that has hung would be waited for, and then hide why the run ended.
            with suppress(TimeoutError):
                client.close(timeout=CONNECT_S)


@contextmanager
def _silenced(*names: str) -> Iterator[None]:
    """Without the pages that these print about a lost scheduler: CohortError tells it in one line."""
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loggers:
            logger.disabled = False


def _run(
    client: Any, jobs: Iterable[J], function: Callable[[J], None], scheduler: str, suspects: list[J]
) -> Iterator[tuple[J, G2LError | None]]:
    """Runs the jobs; those whose workers died too often end up in `suspects`."""
    from distributed import KilledWorker

    waiting = iter(jobs)
    running: dict[Any, J] = {}
    crew = _Crew(client, scheduler)
    while True:
        with _reaching(client, scheduler):
            for job in itertools.islice(waiting, max(0, max(1, crew.threads() * AHEAD) - len(running))):
                running[client.submit(attempt, function, job, pure=False)] = job
            ended = _ended(client, running)
        if not running:
            return
        for future in ended:
            job = running.pop(future)
            try:
                with _reaching(client, scheduler):
                    error = future.result(timeout=ANSWER_S)
            except KilledWorker:
                suspects.append(job)
            except (ImportError, RuntimeError) as failure:  # the scheduler's own failure comes as a RuntimeError
                missing = failure if isinstance(failure, ImportError) else failure.__cause__
                if not isinstance(missing, ImportError):
                    raise
                raise CohortError(
                    f"the Dask cluster at {scheduler} lacks what g2l needs ({missing}); install the same g2l for the "
                    "scheduler and the workers"
                ) from failure
            else:
                yield job, error


def _ended(client: Any, running: Mapping[Any, J]) -> Collection[Any]:
    """Those that have ended, after a while also when none has."""
    from distributed import wait

    if not running:
        return ()
    try:
        with client.as_current():
            return wait(list(running), timeout=LOOK_S, return_when="FIRST_COMPLETED").done  # type: ignore[attr-defined]
    except TimeoutError:
        return ()


@contextmanager
def _reaching(client: Any, scheduler: str) -> Iterator[None]:
    from distributed.comm.core import CommClosedError

    try:
        yield
    except Exception as error:
        # Dask cancels what is under way when the scheduler is gone; of a client that has given up connecting anew,
        # anything may be raised.
        lost = isinstance(error, (CancelledError, CommClosedError)) or client.status != "running"
        if not lost or isinstance(error, G2LError):
            raise
        raise CohortError(
            f"the Dask scheduler at {scheduler} was lost; what was done is kept: start it and run the same again"
        ) from error


class _Crew:
    """How many threads the cluster has; asked now and then, because workers come and go."""

    def __init__(self, client: Any, scheduler: str) -> None:
        self._client, self._scheduler = client, scheduler
        self._threads, self._asked, self._seen = 0, -1e9, time.monotonic()

    def threads(self) -> int:
        """Raises CohortError when there has been no worker for a minute, CommClosedError without an answer."""
        from distributed.comm.core import CommClosedError

        now = time.monotonic()
        if now - self._asked > LOOK_S:
            try:
                threads = self._client.nthreads(callback_timeout=ANSWER_S)
            except TimeoutError as error:
                raise CommClosedError(f"no answer in {ANSWER_S} s") from error
            self._threads, self._asked = sum(threads.values()), now
            if self._threads:
                self._seen = now
        if now - self._seen > IDLE_S:
            raise CohortError(
                f"the Dask scheduler at {self._scheduler} has had no worker for {IDLE_S} s; start some with dask "
                f"worker {self._scheduler}, and run the same again"
            )
        return self._threads
