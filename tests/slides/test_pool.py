"""Jobs on processes: failures are reported, a process that dies costs one job."""

import os
from dataclasses import dataclass

import pytest

from g2l.errors import G2LError, SlideError
from g2l.slides.pool import run


@dataclass(frozen=True)
class Task:
    kind: str
    number: int


def work(task: Task) -> None:
    if task.kind == "fails":
        raise SlideError(f"slide {task.number} is bad; replace it")
    if task.kind == "dies":
        os._exit(9)
    if task.kind == "bug":
        raise KeyError(task.number)


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


def test_nothing_to_do() -> None:
    assert outcome([], 0) == {} and outcome([], 2) == {}
