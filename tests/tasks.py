"""Jobs that go well, fail, end their process, or have a bug."""

import os
import time
from dataclasses import dataclass

from g2l.errors import SlideError


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
    time.sleep(0.02)


def idle(job: object) -> None:
    """A job that leaves no result."""
