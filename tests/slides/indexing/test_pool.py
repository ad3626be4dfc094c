"""Jobs on processes: failures are reported, a process that dies costs one job."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tasks import Task, work

from g2l.errors import G2LError
from g2l.slides.indexing.pool import run


def outcome(tasks: list[Task], workers: int) -> dict[Task, G2LError | None]:
    return dict(run(tasks, work, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_failed_jobs_are_reported_and_the_others_done(workers: int) -> None:
    tasks = [Task("fails" if k % 4 == 0 else "works", k) for k in range(10)]
    results = outcome(tasks, workers)
    assert set(results) == set(tasks)
    for task, error in results.items():
        assert (error is None) == (task.kind == "works")
        assert error is None or str(error) == f"slide {task.number} is bad; replace it"


def test_a_dying_process_costs_only_its_own_job() -> None:
    tasks = [Task("dies" if k in (1, 6) else "works", k) for k in range(9)]
    results = outcome(tasks, 2)
    assert set(results) == set(tasks)
    assert {task.number for task, error in results.items() if error} == {1, 6}
    assert str(results[tasks[1]]).startswith("reading it ended the process")


def test_a_bug_ends_the_run() -> None:
    for workers in (0, 1):
        with pytest.raises(KeyError):
            outcome([Task("bug", 0), Task("works", 1)], workers)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_processes_end_when_their_parent_is_killed() -> None:
    program = (
        "import multiprocessing, time; from tasks import Task, work; from g2l.slides.indexing.pool import run\n"
        "if __name__ == '__main__':\n"
        "    for _ in run([Task('works', k) for k in range(3)], work, 2):\n"
        "        print(*(child.pid for child in multiprocessing.active_children()), flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        children = parent.stdout.readline().split()
        parent.send_signal(signal.SIGKILL)
    assert len(children) == 2
    deadline = time.monotonic() + 30
    while any(_runs(child.decode()) for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_runs(child.decode()) for child in children)


def _runs(process: str) -> bool:
    try:
        return " Z " not in Path("/proc", process, "stat").read_text()  # a zombie has ended
    except FileNotFoundError:
        return False


def test_nothing_to_do() -> None:
    assert outcome([], 0) == {} and outcome([], 2) == {}
