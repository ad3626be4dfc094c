"""Verbs of g2l in processes of their own: several at once, each after those it needs, each once.

The processes are forked from one that has imported g2l already, which spares every job the ten seconds this takes.

A job leaves in its folder what it was made from, when it begins and when it is done: the same job is not done again.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from multiprocessing.process import BaseProcess
from pathlib import Path

from tqdm import tqdm

from g2l import __version__
from g2l.errors import TrainingError
from scaled.files import write_json

BEGUN, DONE = "begun.json", "done.json"
START = multiprocessing.get_all_start_methods()
POLL = 0.1  # seconds


@dataclass(frozen=True)
class Job:
    """One verb.

    folder: its own, emptied where another job lies in it. arguments: of `python -m g2l`. inputs: files whose content
    decides what comes out. needs: names of jobs before it. checkpoint: file in the folder with which `--ckpt_path=last`
    goes on where the same job was killed. then: run after it, before it counts as done.
    """

    name: str
    folder: Path
    arguments: Sequence[str]
    inputs: Sequence[Path]
    needs: Sequence[str] = ()
    checkpoint: str = ""
    then: Callable[[], None] = field(default=lambda: None)

    def identity(self) -> str:
        """SHA-256 of the arguments, all inputs and the version."""
        found = hashlib.sha256(json.dumps([__version__, *self.arguments]).encode())
        for file in self.inputs:
            found.update(hashlib.sha256(file.read_bytes()).digest())
        return found.hexdigest()

    def command(self) -> list[str]:
        """The arguments, with a checkpoint where there is one of the very same job."""
        kept = self.checkpoint and self.lies_there(BEGUN) and (self.folder / self.checkpoint).is_file()
        return [*self.arguments, *(["--ckpt_path=last"] if kept else [])]

    def lies_there(self, file: str) -> bool:
        """Whether the very same job has left begun.json or done.json."""
        path = self.folder / file
        return path.is_file() and json.loads(path.read_text())["identity"] == self.identity()


def run(jobs: Mapping[str, Job], at_once: int, threads: int) -> dict[str, float]:
    """Do all jobs. Returns the seconds each took, when it was done.

    Args:
        at_once: processes. threads: of each; 0: as many as it likes.
    Raises:
        TrainingError: a job failed; the others are stopped, and go on the next time.
    """
    order = TopologicalSorter({name: job.needs for name, job in jobs.items()})
    order.prepare()
    waiting: list[str] = []
    running: dict[str, tuple[BaseProcess, float, str]] = {}
    start = _starter(threads)
    try:
        with tqdm(total=len(jobs), desc="runs", disable=None) as bar:  # without a terminal: a line for each
            ended = 0
            while order.is_active():
                # in the order they were given: a seed is complete before the next begins
                waiting = sorted([*waiting, *order.get_ready()], key=list(jobs).index)
                while waiting and len(running) < at_once:
                    job = jobs[waiting.pop(0)]
                    if job.lies_there(DONE):
                        order.done(job.name)
                        bar.update()
                        ended += 1
                        break  # others may be ready now
                    running[job.name] = (start(job), time.monotonic(), job.identity())
                    bar.set_postfix_str(", ".join(running))
                for name in [name for name, (process, _, _) in running.items() if process.exitcode is not None]:
                    process, began, identity = running.pop(name)
                    took = time.monotonic() - began
                    _end(jobs[name], process.exitcode or 0, took, identity)
                    order.done(name)
                    bar.update()
                    ended += 1
                    if bar.disable:
                        print(f"{name}: {took:.0f} s, {ended} of {len(jobs)}", file=sys.stderr, flush=True)
                if running:
                    time.sleep(POLL)
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join()
    return {name: seconds(job) for name, job in jobs.items()}


def seconds(job: Job) -> float:
    """How long it took, the last time it was begun or taken up again."""
    return float(json.loads((job.folder / DONE).read_text())["seconds"])


def _starter(threads: int) -> Callable[[Job], BaseProcess]:
    """What begins a job, as a fork of one process with g2l in it. `threads`: of each job; 0: as many as it likes."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read once, when that process imports torch
    context = multiprocessing.get_context("forkserver" if "forkserver" in START else "spawn")
    if "forkserver" in START:
        context.set_forkserver_preload(["g2l.cli", "g2l.evaluation.running", "g2l.evaluation.names"])

    def start(job: Job) -> BaseProcess:
        if not job.lies_there(BEGUN):
            shutil.rmtree(job.folder, ignore_errors=True)  # of other data or settings: nothing of it may be taken up
            write_json(job.folder / BEGUN, {"identity": job.identity(), "arguments": list(job.arguments)})
        (job.folder / DONE).unlink(missing_ok=True)
        process = context.Process(  # pyright: ignore[reportAttributeAccessIssue]
            target=_call, args=(job.command(), str(job.folder / "log.txt"))
        )
        process.start()
        return process

    return start


def _call(arguments: list[str], log: str) -> None:
    """The verb, as `python -m g2l` has it; what it says goes to the log."""
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    with open(log, "ab") as file:  # noqa: PTH123  its descriptor is what is wanted
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from g2l.__main__ import main

    sys.argv = ["g2l", *arguments]
    sys.exit(main())


def _end_with_the_study() -> None:
    # A study that is killed cannot stop its trainings, and the next one would begin the same ones beside them.
    study = multiprocessing.parent_process()
    if study is not None:
        study.join()
        os._exit(1)


def _end(job: Job, code: int, took: float, identity: str) -> None:
    if code:
        raise TrainingError(f"{job.name} ended with {code}; see the end of {job.folder / 'log.txt'}, and run again")
    job.then()
    write_json(job.folder / DONE, {"identity": identity, "seconds": round(took, 1)})
