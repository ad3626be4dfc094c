"""What an evaluation will do, found out before anything is embedded: tables read, splits made, mistakes collected."""

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import ConfigError, G2LError
from g2l.evaluation.results import folder_name
from g2l.evaluation.tables.leaks import Leak, flag_copies, require_no_copies
from g2l.evaluation.tables.splits import Split, make_split
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.task import Task

RESERVED = ("embeddings", "report", "metrics.json", "metrics.csv")  # what else lies in the folder of the results
AT_ONCE = 16  # files looked at: a network mount takes milliseconds for each, but serves many at once


@dataclass(frozen=True)
class Job:
    """A task with its table. rows: those of its parts, ascending. data: hash of the source's settings; tasks that share
    a source share its embeddings. notes: what a report must say of the split.
    """

    name: str
    task: Task
    table: Table
    split: Split
    rows: NDArray[np.int64]
    data: str
    notes: list[str]


def prepare(
    tasks: Mapping[str, Task],
    encoders: Mapping[str, Any],
    seed: int,
    prints: Path,
    allow_leak: bool,
    report: Callable[[str], None],
) -> list[Job]:
    """Read every table, split it, and look for copies of images across the parts.

    Args:
        prints: folder that remembers what images look like.
        allow_leak: go on where test images have copies in train.
        report: told how far it is.
    Raises:
        ConfigError: everything that is wrong with any of the tasks, in one line.
    """
    problems: list[str] = []
    faults: dict[str, list[str]] = {}  # tasks that share a source share what is wrong with it
    for names, kind in ((list(tasks), "tasks"), (list(encoders), "encoders")):
        folders = [folder_name(name) for name in names]
        problems += [
            f"{kind} {name!r} and {other!r} would share the folder {folder}; rename one"
            for number, (name, folder) in enumerate(zip(names, folders, strict=True))
            for other in names[:number]
            if folder_name(other) == folder
        ]
    problems += [
        f"task {name!r} would share a folder with what else lies there; rename it"
        for name in tasks
        if folder_name(name) in RESERVED
    ]
    read = _Reader(seed, prints, allow_leak, report)
    jobs = []
    for name, task in tasks.items():
        problems += [
            f"task {name}: its teacher {teacher!r} is no encoder of this evaluation; add it under encoders"
            for teacher in task.teachers()
            if teacher not in encoders
        ]
        try:
            jobs.append(read.job(name, task))
        except G2LError as error:
            faults.setdefault(str(error), []).append(name)
    problems += [f"task {', '.join(names)}: {fault}" for fault, names in faults.items()]
    if problems:
        raise ConfigError("; and ".join(problems))
    return jobs


class _Reader:
    """Reads each source once, and looks for copies once in each of its splits."""

    def __init__(self, seed: int, prints: Path, allow_leak: bool, report: Callable[[str], None]) -> None:
        self.seed, self.prints, self.allow_leak, self.report = seed, prints, allow_leak, report
        self._tables: dict[str, Table] = {}
        self._leaks: dict[str, Leak] = {}

    def job(self, name: str, task: Task) -> Job:
        """The job of one task; errors as its table, its check, its split and its copies have them."""
        data = digest(describe(task.data))
        if data not in self._tables:
            self.report(f"{name}: reading the table")
            self._tables[data] = task.data.read()
        table = self._tables[data]
        task.check(table)
        # Images may be copies of one another under any name: they are looked at below. Slides are told by their files.
        digests = _fingerprints(table) if task.needs == "bag" else {}
        split = make_split(table, task.parts, seed=self.seed, digests=digests)
        task.check_split(table, split)
        notes = list(split.notes)
        parts = [getattr(split, part) for part in task.parts]
        if task.needs != "bag" and len(parts) > 1:
            key = digest([data, [part.tolist() for part in parts]])
            if key not in self._leaks:
                cache = self.prints / f"{folder_name(table.name)}.npz"
                self._leaks[key] = flag_copies(table, split, cache, report=lambda text: self.report(f"{name}: {text}"))
            notes += require_no_copies(self._leaks[key], self.allow_leak)
        return Job(name, task, table, split, np.unique(np.concatenate(parts)), data, notes)


def _fingerprints(table: Table) -> dict[str, str]:
    """Of the slides that are there; that others are absent will be said by what reads them."""
    from g2l.slides.indexing.scan import fingerprint

    def known(path: str) -> str:
        try:
            return fingerprint(Path(path))
        except OSError:
            return ""

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return dict(zip(table.ids.tolist(), threads.map(known, table.paths.tolist()), strict=True))


def describe(value: Any) -> Any:
    """A task, a source or a setting as plain JSON: its class, and what it was given."""
    if isinstance(value, Task | Source):
        given = {name: describe(item) for name, item in vars(value).items() if not name.startswith("_")}
        return {"class": type(value).__name__, **given}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: describe(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [describe(item) for item in value]
    if isinstance(value, Path | np.generic):
        return str(value)
    if callable(value):
        return getattr(value, "__qualname__", repr(value))
    return value


def digest(plain: Any) -> str:
    """SHA-256 of plain JSON."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def parts_of(job: Job) -> dict[str, dict[str, int]]:
    """Rows of each part, and as far as they are known of all its rows, its patients, else its slides."""
    table = job.table
    found = {}
    for part in job.task.parts:
        rows = getattr(job.split, part)
        patients, slides = table.patients[rows], table.slides[rows]
        found[part] = {"rows": len(rows)}
        if table.independent or (patients != "").all():
            found[part]["patients"] = len(np.unique(table.units[rows]))
        elif job.task.needs == "bag" or ((patients != "") | (slides != "")).all():
            found[part]["slides"] = len(np.unique(table.units[rows]))
    return found
