"""Time and memory of the patch tasks on made embeddings, on this machine.

    python benchmarks/evaluation.py [--rows 100000] [--width 1024] [--cases knn linear ...]

Four fifths of the rows are train (a fifth of these val), one fifth test; robustness and similarity take all rows as
test. Every case runs in a process of its own, so that its peak memory is its own: embeddings, Python and libraries
are in it. Prints a table; on a busy machine look at the core seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from g2l.evaluation.embedding.features import Bag
from g2l.evaluation.tables.splits import Split
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.classification import PatchClassification
from g2l.evaluation.tasks.retrieval import Retrieval
from g2l.evaluation.tasks.robustness import PerformanceDrop, Robustness
from g2l.evaluation.tasks.similarity import Similarity
from g2l.evaluation.tasks.task import Context, Outcome, Task

CLASSES, CENTRES, SLIDES = 9, 5, 400
# share of labels that are wrong, so that no classifier is perfect and weak penalties take their time
WRONG = 0.05

CASES: dict[str, Callable[[Source], Task]] = {
    "knn": lambda data: PatchClassification(data, ["knn"]),
    "linear": lambda data: PatchClassification(data, ["linear"]),
    "sgd": lambda data: PatchClassification(data, ["sgd"]),
    "retrieval": lambda data: Retrieval(data),
    "robustness": lambda data: Robustness(data, clustering=False),
    "clustering": lambda data: Robustness(data),
    "drop": lambda data: PerformanceDrop(data),
    "similarity": lambda data: Similarity(data, "teacher"),
}
WHOLE = ("robustness", "clustering", "similarity")


class Loaded:
    """Embeddings that lie in memory."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = rows

    def key_of(self, rows: NDArray[np.int64]) -> str:
        return "made"

    def cls(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._rows[rows]

    def tokens(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        raise NotImplementedError

    def bag(self, row: int) -> Bag:
        raise NotImplementedError


def make(rows: int, width: int, folder: Path) -> None:
    """Embeddings whose spectrum falls like that of an encoder's, with classes and centres in them."""
    rng = np.random.default_rng(0)
    labels, slides = rng.integers(0, CLASSES, rows), rng.integers(0, SLIDES, rows)
    spectrum = (np.arange(1, width + 1) ** -0.7).astype(np.float32)
    x = rng.standard_normal((rows, width), dtype=np.float32)
    x += 0.25 * rng.standard_normal((CLASSES, width), dtype=np.float32)[labels]
    x += 0.25 * rng.standard_normal((CENTRES, width), dtype=np.float32)[slides % CENTRES]
    x *= spectrum
    wrong = rng.random(rows) < WRONG
    labels[wrong] = rng.integers(0, CLASSES, int(wrong.sum()))
    np.save(folder / "x.npy", x @ np.linalg.qr(rng.standard_normal((width, width), dtype=np.float32))[0])
    np.save(folder / "labels.npy", labels)
    np.save(folder / "slides.npy", slides)


def run(case: str, folder: Path) -> dict[str, float]:
    """Seconds, those of all cores together, and the metrics of one case."""
    x, labels, slides = (np.load(folder / f"{name}.npy") for name in ("x", "labels", "slides"))
    part = np.select([slides < SLIDES * 16 // 25, slides < SLIDES * 4 // 5], ["train", "val"], "test")
    table = Table.build(
        "made", [Path(f"/{row}") for row in range(len(x))], Path("/"), labels=np.char.mod("class %d", labels),
        slides=np.char.mod("%d", slides), centres=np.char.mod("centre %d", slides % CENTRES), splits=part,
    )  # fmt: skip
    train, val, test = (np.flatnonzero(part == name) for name in ("train", "val", "test"))
    split = Split(train, val, np.arange(len(x)) if case in WHOLE else test)
    features = Loaded(x)
    # another encoder: the same embeddings with noise
    others = {"teacher": features}
    if case == "similarity":
        noise = np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)
        others["teacher"] = Loaded(x + 0.1 * x.std() * noise)
    context = Context(table, split, "made", features, others.__getitem__, 0, lambda text: None)
    start, busy = time.perf_counter(), time.process_time()
    outcomes = CASES[case](Source()).run(context)
    seconds = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - busy}
    figures = {f"{method}: {name}": value for method, one in outcomes.items() for name, value in metrics(one).items()}
    return seconds | figures


def metrics(outcome: Outcome) -> dict[str, float]:
    """Those of the whole test part."""
    return outcome.measure(outcome.predictions)


def alone(case: str, folder: Path) -> tuple[dict[str, float], float]:
    """`run` in a process of its own, and its peak memory in GB."""
    command = [sys.executable, __file__, "--child", case, str(folder)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"case {case} ended with {process.returncode}")
    return json.loads(said), peak / 1e9


def main() -> None:
    """Make the embeddings, run the cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(run(given.child[0], Path(given.child[1]))))
        return
    print(f"{given.rows:,} embeddings of width {given.width:,}, float32, {os.cpu_count()} cores")
    print("| case | seconds | core seconds | peak GB | |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make(given.rows, given.width, Path(folder))
        for case in given.cases:
            figures, peak = alone(case, Path(folder))
            seconds, cpu = figures.pop("seconds"), figures.pop("cpu")
            first = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            print(f"| {case} | {seconds:.0f} | {cpu:.0f} | {peak:.2f} | {first} |", flush=True)


if __name__ == "__main__":
    main()
