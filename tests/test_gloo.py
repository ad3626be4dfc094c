"""The pool of gloo processes: a member that fails, dies or hangs ends one call, and never the run."""

import os
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo import on_two_processes


def total(rank: int) -> float:
    value = torch.tensor(rank + 1.0)
    dist.all_reduce(value)
    return value.item()


def fails(rank: int) -> None:
    if rank == 1:
        raise KeyError("the first error")
    total(rank)  # waits for the other


def dies(rank: int) -> None:
    if rank == 1:
        os._exit(9)
    total(rank)


def hangs(rank: int) -> None:
    time.sleep(1000)


@pytest.mark.slow
def test_one_call_may_go_wrong_and_the_next_goes_well() -> None:
    with pytest.raises(KeyError, match="the first error"):
        on_two_processes(fails)
    assert on_two_processes(total) == [3, 3]
    with pytest.raises(BrokenProcessPool):
        on_two_processes(dies)
    with pytest.raises(BrokenProcessPool):
        on_two_processes(hangs, limit_s=0.5)
    assert on_two_processes(total) == [3, 3]


@pytest.mark.slow
def test_a_killed_run_leaves_no_process() -> None:
    program = (
        "import multiprocessing, os\nfrom gloo import on_two_processes\nfrom test_gloo import total\n"
        "if __name__ == '__main__':\n"
        "    on_two_processes(total)\n"
        "    os.write(1, ' '.join(str(child.pid) for child in multiprocessing.active_children()).encode())\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    # The output ends when the last process that holds it is gone.
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, stdout=subprocess.PIPE, timeout=120
    )
    assert len(done.stdout.split()) == 2
