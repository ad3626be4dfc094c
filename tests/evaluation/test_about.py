"""What is written beside a result: when two of them are of the same data and settings, and whose the units are."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from g2l.errors import CohortError
from g2l.evaluation.about import content_of, protocol_of
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.jobs import Job, parts_of
from g2l.evaluation.tables.listing import Listing
from g2l.evaluation.tables.splits import make_split
from g2l.evaluation.tables.table import Table
from g2l.evaluation.tasks.classification import PatchClassification
from g2l.evaluation.tasks.retrieval import Retrieval
from g2l.evaluation.tasks.robustness import Robustness
from g2l.evaluation.tasks.similarity import Similarity
from g2l.evaluation.tasks.slides import SlideClassification
from g2l.evaluation.tasks.task import Task

PARTS = ("train", "train", "train", "val", "test", "test")


def lay(root: Path, order: list[int] | None = None, event: str = "1") -> Path:
    """Twelve images of six patients with masks beside them, an event each, and a cohort's folder, as a list."""
    (root / "cohort").mkdir(parents=True)
    lines = []
    for number in range(12):
        picture = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / f"{number:02d}.png")
        Image.fromarray(picture[..., 0] // 128).save(root / f"mask{number:02d}.png")
        patient = number // 2
        row = (f"{number:02d}.png", "ab"[number % 2], f"p{patient}", f"s{number}", f"c{patient % 2}", PARTS[patient])
        lines.append(",".join((*row, event if number == 3 else "0", f"mask{number:02d}.png", str(root / "cohort"))))
    head = "path,label,patient,slide,centre,split,event,target,cohort"
    (root / "list.csv").write_text("\n".join([head, *[lines[k] for k in order or range(12)]]))
    return root / "list.csv"


def job_of(listing: Path, task: Task | None = None, table: Table | None = None) -> Job:
    source = Listing(str(listing), name="made")
    read = table or source.read()
    task = task or PatchClassification(source)
    split = make_split(read, task.parts)
    rows = np.unique(np.concatenate([getattr(split, part) for part in task.parts]))
    return Job("task", task, read, split, rows, "", [])


def differing(one: Job, two: Job, cache: Path) -> set[str]:
    a, b = (content_of(job, cache, 1) for job in (one, two))
    assert set(a) == set(b)
    return {name for name in a if a[name] != b[name]}


def test_data_are_the_same_wherever_they_lie_and_in_whatever_order(tmp_path: Path) -> None:
    one, two = lay(tmp_path / "here"), lay(tmp_path / "elsewhere", order=[5, 3, 11, 0, 1, 2, 4, 6, 7, 8, 9, 10])
    for mask in (tmp_path / "elsewhere").glob("mask*.png"):
        os.utime(mask, (1, 1))
    assert differing(job_of(one), job_of(two), tmp_path) == set()


def test_data_differ_in_whatever_a_task_can_read(tmp_path: Path) -> None:
    one = job_of(lay(tmp_path / "one"))
    assert differing(one, job_of(lay(tmp_path / "event", event="0")), tmp_path) == {"column event"}
    for name, part in (("03.png", "files"), ("mask03.png", "column target")):
        other = lay(tmp_path / part)
        Image.fromarray(np.full((8, 8), 1, np.uint8)).save(other.parent / name)
        assert differing(one, job_of(other), tmp_path) == {part}
    for name in ("labels", "slides", "centres"):
        column = getattr(one.table, name).copy()
        column[:2] = column[1::-1] if name != "centres" else "c9"
        table = replace(one.table, **{name: column})
        assert differing(one, job_of(tmp_path / "one/list.csv", table=table), tmp_path) == {name}
    train, test = one.split.train, one.split.test
    moved = replace(one, split=replace(one.split, train=test, test=train))
    assert differing(one, moved, tmp_path) == {"parts"}


def test_slides_count_by_their_fingerprint_and_a_lost_one_is_told(tmp_path: Path) -> None:
    listing = lay(tmp_path / "slides")
    task = SlideClassification(Listing(str(listing)))
    one = job_of(listing, task)
    before = content_of(one, tmp_path, 1)
    (tmp_path / "slides/04.png").write_bytes(b"another")
    after = content_of(one, tmp_path, 1)
    assert {name for name in before if before[name] != after[name]} == {"files"}
    (tmp_path / "slides/04.png").unlink()
    with pytest.raises(CohortError, match=r"04\.png cannot be read"):
        content_of(one, tmp_path, 1)


def test_the_protocol_is_what_changes_scores_and_nothing_else(tmp_path: Path) -> None:
    listing = lay(tmp_path / "one")
    here, there = Listing(str(listing)), Listing(str(tmp_path / "elsewhere.csv"), root=str(tmp_path))

    def protocol(task: Task, embedding: Embedding | None = None, seed: int = 0, **teachers: str) -> dict:
        return protocol_of(replace(job_of(listing), task=task), embedding or Embedding(), seed, teachers)

    first = protocol(PatchClassification(here))
    quick = Embedding(batch_size=2, threads=9, devices=1, accelerator="cpu", shard_rows=7, mpp=0.25, max_patches=3)
    assert first == protocol(PatchClassification(there, heads=["knn"]), quick)
    assert protocol(Retrieval(here)) == protocol(Retrieval(here, faithful=True, examples=2))
    for other in (
        protocol(PatchClassification(here, k=5)),
        protocol(PatchClassification(here, refit=False)),
        protocol(PatchClassification(here), Embedding(precision="bf16-mixed")),
        protocol(PatchClassification(here), seed=1),
        protocol(Robustness(here)),
    ):
        assert other != first
    assert protocol(SlideClassification(here)) != protocol(SlideClassification(here), quick)
    assert protocol(Similarity(here, "t"), t="one") != protocol(Similarity(here, "t"), t="two")


def test_parts_say_whose_the_rows_are_as_far_as_that_is_known(tmp_path: Path) -> None:
    one = job_of(lay(tmp_path / "one"))
    assert parts_of(one)["train"] == {"rows": 6, "patients": 3}
    nobody = np.full(12, "")
    by_slide = replace(one, table=replace(one.table, patients=nobody))
    assert parts_of(by_slide)["test"] == {"rows": 4, "slides": 4}
    unknown = replace(one, table=replace(one.table, patients=nobody, slides=nobody))
    assert parts_of(unknown) == {"train": {"rows": 6}, "val": {"rows": 2}, "test": {"rows": 4}}
    declared = replace(unknown, table=replace(unknown.table, independent=True))
    assert parts_of(declared)["test"] == {"rows": 4, "patients": 4}
    bags = replace(unknown, task=SlideClassification(Listing("x.csv")))
    assert parts_of(bags)["test"] == {"rows": 4, "slides": 4}
