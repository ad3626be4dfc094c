"""Running a function on several gloo processes of this machine, none of which can keep a test run from ending."""

import atexit
import faulthandler
import math
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

WORLD = 2
MEET_S = 60  # for one collective, or for the others to arrive
LIMIT_S = 120  # for the whole function


@cache
def _pool() -> ProcessPoolExecutor:
    # Started once for all tests: importing torch in a fresh process takes seconds.
    return ProcessPoolExecutor(WORLD, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare)


def _prepare() -> None:
    """In every process: it ends with the test run, however that ends, and no library's clean-up delays it."""
    atexit.register(os._exit, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed run cannot stop its processes, which would wait for its next job and hold its output open for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _member(function: Callable[..., Any], rank: int, store: str, limit_s: float, arguments: tuple[Any, ...]) -> Any:
    import torch
    import torch.distributed as dist

    # A thread of C: it ends a process that waits inside a library, and prints where.
    faulthandler.dump_traceback_later(limit_s, exit=True)
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=MEET_S)
        )
        try:
            return function(rank, *arguments)
        except Exception as error:
            error.__dict__["failed_at"] = time.monotonic()  # one clock for all processes of a machine
            raise
        finally:
            dist.destroy_process_group()
    finally:
        faulthandler.cancel_dump_traceback_later()


def on_two_processes(function: Callable[..., Any], *arguments: Any, limit_s: float = LIMIT_S) -> list[Any]:
    """`function(rank, *arguments)` on two processes of one group; the results by rank.

    The function must be importable (a module's own), arguments and results picklable. The first member's error is
    raised. A member that dies or is not done after `limit_s` seconds ends both with BrokenProcessPool; the next call
    starts new ones.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        try:
            futures = [_pool().submit(_member, function, rank, store, limit_s, arguments) for rank in range(WORLD)]
            errors = [error for future in futures if (error := future.exception())]
            if errors:  # what the others then say is only that they lost the first
                raise min(errors, key=lambda error: error.__dict__.get("failed_at", math.inf))
            return [future.result() for future in futures]
        except BrokenProcessPool:
            _pool.cache_clear()
            raise
