"""Running a function on several gloo processes of this machine."""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

WORLD = 2


@cache
def _pool() -> ProcessPoolExecutor:
    # Started once for all tests: importing torch in a fresh process takes seconds.
    return ProcessPoolExecutor(WORLD, mp_context=multiprocessing.get_context("spawn"))


def _member(function: Callable[..., Any], rank: int, store: str, arguments: tuple[Any, ...]) -> Any:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    try:
        return function(rank, *arguments)
    finally:
        dist.destroy_process_group()


def on_two_processes(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(rank, *arguments)` on two processes of one group; the results by rank.

    The function must be importable (a module's own), arguments and results picklable.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        futures = [_pool().submit(_member, function, rank, store, arguments) for rank in range(WORLD)]
        return [future.result(timeout=120) for future in futures]
