"""Loaders against each other on the same slides, in turns over several rounds.

Every measurement runs in a fresh process, so that neither memory nor threads of one loader show in the next.
"""

import itertools
import multiprocessing
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, NamedTuple

import psutil
import torch
from loaders import BARE, LOADERS, WSISTREAM, Job, Loader

WARM = 0.7  # seconds after the first batch that do not count


class Figures(NamedTuple):
    """rate: patches per second. per_core: per second of processor time of all processes. mib: resident."""

    rate: float
    per_core: float
    mib: float


class Row(NamedTuple):
    """Medians of `Figures` and ratios of the rates; None where there are none, and `note` says why."""

    loader: str
    workers: int
    threads: int
    rate: float | None = None
    per_core: float | None = None
    to_wsistream: float | None = None
    of_bare: float | None = None
    mib: float | None = None
    note: str = ""


class Trial:
    """Measures with `run`; `rows` may be asked for at any time, also after an interruption."""

    def __init__(self, job: Job, loaders: Sequence[Loader] = LOADERS) -> None:
        self._job, self._loaders = job, loaders
        self._found: dict[Loader, list[Figures]] = {loader: [] for loader in loaders}
        self._notes: dict[Loader, str] = {}
        # The workers of a loader start as they would for anyone on this system.
        self._usual = multiprocessing.get_start_method()
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context = multiprocessing.get_context(kind)
        if kind == "forkserver":  # what takes long to import is imported once for all
            self._context.set_forkserver_preload(
                ["g2l.data.streaming.loader", "openslide", "psutil", "wsistream.torch"]
            )

    def run(self, seconds: float, rounds: int) -> None:
        """Measure each loader for `seconds`, divided into so many rounds."""
        for turn in range(rounds):
            shift = turn * len(self._loaders) // rounds
            for loader in [*self._loaders[shift:], *self._loaders[:shift]]:
                if loader not in self._notes:
                    result = self._in_process(loader, seconds / rounds)
                    if isinstance(result, str):
                        self._notes[loader] = result
                    else:
                        self._found[loader].append(result)

    def rows(self) -> list[Row]:
        """A row for each loader."""
        return [self._row(loader) for loader in self._loaders]

    def _row(self, loader: Loader) -> Row:
        own, note = self._found[loader], self._notes.get(loader, "")
        row = Row(loader.name, loader.workers, loader.threads, note=note if note or own else "not measured")
        if row.note:
            return row

        def ratio(to: Loader) -> float | None:
            pairs = zip(own, self._found.get(to, []), strict=False)  # rounds that both have
            return _median(one.rate / other.rate for one, other in pairs)

        return row._replace(
            rate=_median(one.rate for one in own),
            per_core=_median(one.per_core for one in own),
            to_wsistream=ratio(WSISTREAM),
            of_bare=ratio(BARE),
            mib=_median(one.mib for one in own),
        )

    def _in_process(self, loader: Loader, seconds: float) -> Figures | str:
        """The figures, or why there are none."""
        here, there = self._context.Pipe(duplex=False)
        arguments = (there, self._usual, loader, self._job, seconds)
        process: Any = self._context.Process(target=_measure, args=arguments)  # type: ignore[attr-defined]
        process.start()
        there.close()
        try:
            return here.recv()
        except EOFError:
            process.join()
            return f"its process ended with code {process.exitcode}"
        except KeyboardInterrupt:
            process.terminate()
            raise
        finally:
            process.join(10)  # its workers take a moment to end
            process.kill()


def measure(loader: Loader, job: Job, seconds: float) -> Figures:
    """Load for so long, or one cycle, once batches flow."""
    batches = loader.make(job, loader.workers, loader.threads)
    next(batches)
    began = now = time.perf_counter()
    # Also all that was made ahead while the first batch was waited for.
    for served in itertools.count(1):
        if now - began > WARM and served > 2 * loader.workers:
            break
        next(batches)
        now = time.perf_counter()
    process = psutil.Process()
    spent, began, patches = _processor_time(process), time.perf_counter(), 0
    while now - began < seconds or patches < loader.cycle:
        patches += next(batches)
        now = time.perf_counter()
    spent = _processor_time(process) - spent
    return Figures(patches / (now - began), patches / spent, resident(process))


def resident(process: psutil.Process) -> float:
    """MiB that a process and its children hold: what each has for itself, and once the largest part they share."""
    parts = _of_family(process, psutil.Process.memory_full_info)
    return (sum(part.uss for part in parts) + max((part.rss - part.uss for part in parts), default=0)) / (1 << 20)


def _processor_time(process: psutil.Process) -> float:
    return sum(part.user + part.system for part in _of_family(process, psutil.Process.cpu_times))


def _of_family(process: psutil.Process, what: Callable[[psutil.Process], Any]) -> list[Any]:
    """Something of a process and of its children that are alive."""
    found = []
    for one in (process, *process.children(recursive=True)):
        try:
            found.append(what(one))
        except psutil.NoSuchProcess:
            continue
    return found


def _measure(pipe: Connection, usual: str, loader: Loader, job: Job, seconds: float) -> None:
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, _leave)
    multiprocessing.set_start_method(usual, force=True)
    torch.set_num_threads(1)
    try:
        pipe.send(measure(loader, job, seconds))
    except ImportError:
        pipe.send("not installed")
    except Exception as error:  # every library has its own kinds
        pipe.send(f"{type(error).__name__}: {error}".splitlines()[0][:100])


def _leave(kind: int, frame: FrameType | None) -> None:
    """Ends a process that is no longer wanted as if it had finished, so that it clears up after itself."""
    sys.exit(128 + kind)


def _median(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.median(listed) if listed else None
