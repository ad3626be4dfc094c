"""Seeds of a study whose embeddings were drawn: the project's own tasks judge them, and no network has seen any of it.

Letters: N rows, D width.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.results import Result, folder_name, place, write_result
from g2l.evaluation.tables.splits import Split
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.classification import PatchClassification
from g2l.evaluation.tasks.retrieval import Retrieval
from g2l.evaluation.tasks.robustness import Robustness
from g2l.evaluation.tasks.similarity import Similarity
from g2l.evaluation.tasks.task import Context, Task

CLASSES, CENTRES, WIDTH = ("aca", "n", "scc"), ("original", "pale", "blurred"), 12
# arm -> how much of an embedding is the tissue, the centre, and luck; the teacher is what the others resemble
ARMS = {
    "teacher": (1.0, 0.2, 0.5),
    "none": (0.1, 1.0, 1.0),
    "labels": (0.9, 0.4, 0.6),
    "log-sum faithful": (0.8, 0.3, 0.6),
    "alpha 2": (0.8, 0.3, 0.65),
    "cosine": (0.5, 0.6, 0.9),
}


class Made:
    """Embeddings in memory, where a task expects those of an encoder."""

    def __init__(self, cls: NDArray[np.float32]) -> None:
        self._cls = cls

    def cls(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._cls[rows]


class Known(Source):
    """A table that is there already."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def read(self) -> Table:
        return self._table


def tables(seed: int, groups: int, each: int) -> tuple[Table, Table]:
    """Patches with a train, val and test part, and those of test in every centre.

    Every seed tests the groups from 2 * seed on, a third of all: neighbours share groups, others do not.
    """
    number = np.repeat(np.arange(groups), each)
    names = [f"{CLASSES[g % 3]}/{g:03d}-{k}.png" for g, k in zip(number, np.tile(np.arange(each), groups), strict=True)]
    labels, owners = [CLASSES[g % 3] for g in number], [f"group {g}" for g in number]
    turn = (number - 6 * seed) % groups
    split = np.where(turn < groups // 3, "test", np.where(turn < groups // 2, "val", "train"))
    root = Path("/study")
    patches = Table.build("test", [root / name for name in names], root, labels=labels, patients=owners, splits=split)
    rows = [(centre, row) for centre in CENTRES for row in np.flatnonzero(split == "test")]
    return patches, Table.build(
        "centres",
        [root / centre / names[row] for centre, row in rows],
        root,
        labels=[labels[row] for _, row in rows],
        patients=[owners[row] for _, row in rows],
        slides=[owners[row] for _, row in rows],
        centres=[centre for centre, _ in rows],
        splits=["test"] * len(rows),
    )


def embed(table: Table, arm: str, seed: int) -> NDArray[np.float32]:
    """(N, D): what all arms see of a group, its class and its centre, and the arm's own luck of this seed."""

    def drawn(names: NDArray[np.str_], scale: float, salt: str = "") -> NDArray[np.float64]:
        kinds, codes = np.unique(names, return_inverse=True)
        found = [np.random.default_rng(list(f"{salt}{kind}".encode())).normal(size=WIDTH) for kind in kinds]
        return scale * np.stack(found)[codes]

    tissue, centre, luck = ARMS[arm]
    places = table.centres if (table.centres != "").any() else np.full(len(table), CENTRES[0])
    seen = drawn(table.labels, tissue) + drawn(table.patients, 0.9) + drawn(places, centre)
    return (seen + drawn(table.ids, luck, f"{arm} {seed}")).astype(np.float32)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def about(task: str, arm: str, seed: int, table: Table, methods: list[str], k: int) -> dict[str, Any]:
    """What `g2l evaluate` writes of a result."""
    students = 1_300_000 if arm != "teacher" else 6_500_000
    found = {part: table.patients[table.splits == part] for part in ("train", "val", "test")}
    random = arm == "none"
    return {
        "encoder": {
            "model": f"seed-{seed}/{arm}", "init": "random" if random else "weights", "parameters": students,
            "embed_dim": WIDTH, "size": 112, "images_per_second": 100.0 + 10 * seed + len(arm), "device": "a CPU",
            "source": {"name": arm, "licence": "Apache-2.0", "sha256": None if random else sha(f"{arm} {seed}")},
        },
        "data": {
            "name": table.name, "origin": {"licence": "CC0-1.0"}, "sha256": sha(f"{table.name} {seed}"),
            "content": {"files": sha(f"files {table.name} {seed}"), "labels": sha(f"labels {table.name} {seed}")},
            "parts": {
                part: {"rows": len(some), "patients": len(np.unique(some))} for part, some in found.items() if len(some)
            },
            "paths": {str(table.ids[0]): str(table.paths[0])},
        },
        "protocol": {
            "task": {"class": task, "k": k}, "embedding": {"precision": "32-true"}, "seed": 0,
            "teachers": {"teacher": sha(f"teacher {seed}")} if task == "like the teacher" else {},
        },
        "run": {
            "command": f"python -m g2l evaluate --out seed-{seed}", "seed": 0, "versions": {"g2l": "0.0"},
            "finished": f"2020-01-0{seed + 1}T00:00:00+00:00", "identity": sha(f"{task} {arm} {seed}"),
            "methods": methods,
        },
    }  # fmt: skip


def write_seed(folder: Path, seed: int, arms: Mapping[str, Any] = ARMS, groups: int = 37, each: int = 6) -> None:
    """The results of one seed below `folder`, as `g2l evaluate` writes them."""
    patches, centres = tables(seed, groups, each)
    source, k = Known(patches), 7
    tasks: dict[str, tuple[Task, Table]] = {
        "tissue": (PatchClassification(source, k=k), patches),
        "retrieval": (Retrieval(source), patches),
        "like the teacher": (Similarity(source, "teacher", k=k), patches),
        "robustness": (Robustness(Known(centres), k=k, clustering=False), centres),
    }
    for name, (task, table) in tasks.items():
        made: dict[str, Any] = {arm: Made(embed(table, arm, seed)) for arm in {*arms, "teacher"}}
        train, val, test = (np.flatnonzero(table.splits == part) for part in ("train", "val", "test"))
        split = Split(train, val, test)
        for arm in arms:
            outcomes = task.run(Context(table, split, arm, made[arm], made.__getitem__, 0, lambda text: None))
            for method, outcome in outcomes.items():
                values = {key: float(value) for key, value in outcome.measure(outcome.predictions).items()}
                known = about(name, arm, seed, table, list(outcomes), k)
                where = place(folder, name, arm) / folder_name(method)
                write_result(Result(name, task.kind, method, arm, outcome, values, known, where))


def write_seeds(folder: Path, seeds: int = 3, **more: Any) -> dict[str, Path]:
    """Name -> folder of results, of several seeds."""
    found = {f"seed-{seed}": folder / f"seed-{seed}" / "results" for seed in range(seeds)}
    for seed, where in enumerate(found.values()):
        write_seed(where, seed, **more)
    return found
