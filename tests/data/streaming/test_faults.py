"""Slides that cannot be read: the run goes on without them, says so, and ends when there are too many."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copies import copied
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from numpy.typing import NDArray

from g2l.data.module import SlideDataModule
from g2l.data.source import CohortSource, OpenSlides
from g2l.data.stream import PatchStream
from g2l.data.streaming import reading
from g2l.data.streaming.faults import Fault, Ledger
from g2l.data.streaming.loader import PatchLoader
from g2l.errors import SlideError
from g2l.slides.cohort import Cohort
from g2l.slides.placing.patches import Patch
from g2l.slides.sampling import Sampler

Batch = dict[str, Any]


@pytest.fixture
def cohort(demo_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """A cohort of one's own; no pause before a second try."""
    monkeypatch.setattr(reading, "PAUSE", 0.0)
    return copied(demo_cohort, tmp_path / "own")


def stream(cohort: Cohort, limit: int = 128, batch_size: int = 12, **arguments: Any) -> PatchStream:
    sampler = Sampler(cohort, range(len(cohort)), seed=3, size=32, mpp=2.0)
    return PatchStream(CohortSource(sampler, OpenSlides(cohort, limit)), batch_size, **arguments)


def lost(batch: Batch, name: str, healthy: Sampler) -> list[int]:
    """Slots whose first attempt lies on the slide `name`."""
    drawn = healthy.draw(batch["index"].numpy())
    return [slot for slot, slide in enumerate(drawn.slide.tolist()) if healthy.cohort[slide].name == name]


@pytest.mark.filterwarnings("ignore:.*is read no more")
@pytest.mark.parametrize(("harm", "workers"), [("deleted", 0), ("deleted", 2), ("garbage", 0), ("truncated", 1)])
def test_a_slide_that_breaks_during_the_run_is_replaced_and_nothing_else(
    cohort: Cohort, harm: str, workers: int
) -> None:
    whole = list(stream(cohort, steps=24))
    sampler = Sampler(cohort, range(len(cohort)), seed=3, size=32, mpp=2.0)
    victim = cohort[5]
    # one open slide: what was opened before it was deleted stays readable
    batches = iter(PatchLoader(stream(cohort, limit=1, steps=24, prefetch=1), workers))
    made = list(islice(batches, 2))
    if harm == "deleted":
        victim.path.unlink()
    else:
        size = victim.path.stat().st_size
        content = victim.path.read_bytes()[: size // 2] if harm == "truncated" else os.urandom(size)
        victim.path.write_bytes(content)
    made += batches
    faults = [fault for batch in made for fault in batch["faults"]]
    replaced = [fault for fault in faults if fault.what != "recovered"]
    assert replaced and {fault.slide for fault in replaced} == {victim.name}
    assert {fault.path for fault in replaced} == {str(victim.path)}
    # a second thread may be amid a fourth read when the third fails
    assert len(replaced) <= 4 * max(1, workers) and any(fault.what == "dropped" for fault in replaced)
    assert all(str(victim.path) in fault.reason for fault in replaced)
    for one, other in zip(whole, made, strict=True):
        bad = set(lost(one, victim.name, sampler))
        for slot in range(12):
            attempt = int(other["attempt"][slot])
            patch = sampler.patch(int(other["index"][slot]), attempt)
            # every patch can be regenerated from its number and attempt
            assert other["slides"][slot] == cohort[patch.slide].name
            assert other["place"][slot].tolist() == [patch.x, patch.y, patch.mpp]
            assert attempt == 0 or slot in bad
            if attempt == 0:
                assert torch.equal(one["images"][slot], other["images"][slot])
    assert victim.name not in {name for batch in made[-8:] for name in batch["slides"]}


def test_the_third_failure_drops_the_slide_with_a_warning(cohort: Cohort) -> None:
    victim = cohort[2]
    victim.path.unlink()
    with pytest.warns(UserWarning, match=f"{victim.name}.*read no more after 3 failed patches"):
        made = list(stream(cohort, steps=20, threads=1))
    assert [fault.what for batch in made for fault in batch["faults"]] == ["replaced", "replaced", "dropped"]


class Unsteady(CohortSource):
    """Every read fails the first time."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(sampler)
        self.tried: set[Patch] = set()

    def read(self, patch: Patch, out: NDArray[np.uint8]) -> None:
        """As `Source.read`."""
        if patch not in self.tried:
            self.tried.add(patch)
            raise SlideError("stale handle; try again")
        super().read(patch, out)


def test_a_read_that_succeeds_the_second_time_changes_nothing(cohort: Cohort) -> None:
    source = Unsteady(Sampler(cohort, range(len(cohort)), seed=3, size=32, mpp=2.0))
    for one, other in zip(stream(cohort, steps=3), PatchStream(source, 12, steps=3), strict=True):
        assert torch.equal(one["images"], other["images"]) and not other["attempt"].any()
        assert [fault.what for fault in other["faults"]] == ["recovered"] * 12
        assert other["faults"][0].reason == "stale handle; try again"


@pytest.mark.filterwarnings("ignore:.*is read no more")
@pytest.mark.parametrize("workers", [0, 1])
def test_when_everything_fails_the_run_ends_at_once(cohort: Cohort, workers: int) -> None:
    for record in cohort:
        record.path.unlink()
    with pytest.raises(SlideError) as caught:
        next(iter(PatchLoader(stream(cohort), workers)))
    text = str(caught.value)
    assert text.startswith("16 patches in a row could not be read, the last: slide ") and "\n" not in text


@pytest.mark.filterwarnings("ignore:.*is read no more")
@pytest.mark.slow
def test_when_every_slide_was_dropped_the_run_ends(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_FAILED", 10**6)
    for record in cohort:
        record.path.unlink()
    with pytest.raises(SlideError, match=r"none of 200 attempts .* 18 slides are given up"):
        next(iter(stream(cohort)))


@pytest.mark.slow
def test_an_error_of_another_kind_is_not_hidden(cohort: Cohort) -> None:
    class Wrong(CohortSource):
        def read(self, patch: Patch, out: NDArray[np.uint8]) -> None:
            raise ZeroDivisionError("a fault of the program")

    source = Wrong(Sampler(cohort, range(len(cohort)), seed=3, size=32, mpp=2.0))
    with pytest.raises(ZeroDivisionError):
        next(iter(PatchStream(source, 4)))


@pytest.fixture
def hanging(cohort: Cohort) -> Iterator[Path]:
    """A slide that does not answer: a pipe that nobody writes to, in the place of its file."""
    victim = cohort[cohort.split()["train"][0]].path
    victim.unlink()
    os.mkfifo(victim)
    yield victim
    # let go of the threads that still wait
    for _ in range(100):
        try:
            os.close(os.open(victim, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            break
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_slide_that_hangs_ends_the_run_with_its_name(cohort: Cohort, hanging: Path, workers: int) -> None:
    with pytest.raises(SlideError) as caught:
        list(PatchLoader(stream(cohort, steps=20, timeout=0.3), workers))
    assert str(caught.value).startswith(f"{hanging} has not answered for 0.3 s (a hung network mount?)")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_with_a_hanging_slide_ends(cohort: Cohort, hanging: Path, workers: int) -> None:
    program = (
        "from g2l.data.module import SlideDataModule\n"
        f"data = SlideDataModule({str(cohort.folder)!r}, batch_size=12, patch_size=32, mpp=2.0, timeout=0.3,"
        f" num_workers={workers})\n"
        "data.setup()\n"
        "for batch in data.train_dataloader(): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and f"SlideError: {hanging} has not answered" in done.stderr


def fault(slide: str, what: Any = "replaced") -> Fault:
    return Fault(slide, f"/slides/{slide}.svs", 7, 0, what, f"{slide} is damaged")


def test_the_ledger_is_a_table_by_slide(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.file = tmp_path / "run" / "faults.csv"
    ledger.add([], 500)
    assert not ledger.file.exists()
    ledger.add([fault("a"), fault("b", "recovered"), fault("a", "dropped")], 500)
    with ledger.file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = {"slide": "a", "path": "/slides/a.svs", "failed": "2", "recovered": "0", "dropped": "1"}
    assert rows[0] == first | {"last_reason": "a is damaged"}
    assert (rows[1]["failed"], rows[1]["recovered"]) == ("0", "1")
    assert [path.name for path in ledger.file.parent.iterdir()] == ["faults.csv"]


def test_above_one_percent_the_ledger_ends_the_run_with_a_table() -> None:
    ledger = Ledger()
    ledger.add([fault("early")] * 3, 10)
    ledger.add([fault(f"s{k}") for k in range(8)], 980)  # too early to judge
    with pytest.raises(SlideError) as caught:
        ledger.add([], 10)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("1.1% of the last 1000 patches could not be read")
    assert lines[1].split() == ["slide", "failed", "last", "reason"]
    assert lines[2].split() == ["early", "3", "early", "is", "damaged"] and len(lines) == 2 + 9
    just = Ledger()
    just.add([fault(f"s{k}") for k in range(10)], 1000)  # 1 % is not above it


def test_a_dropped_slide_counts_three_times_whatever_the_workers_but_a_file_each_time() -> None:
    slides, files = Ledger(), Ledger()
    files.dropping = False
    slides.add([fault("a")] * 40, 1000)
    with pytest.raises(SlideError, match=r"4.0% of"):
        files.add([fault("a")] * 40, 1000)


@pytest.mark.slow
def test_a_ledger_forgets_what_is_long_ago() -> None:
    ledger = Ledger()
    ledger.add([], 10_000_000)
    with pytest.raises(SlideError):
        for k in range(10_000):
            ledger.add([fault(f"s{k}")], 20)  # 5 % from now on


def test_a_ledger_goes_on_where_a_checkpoint_was() -> None:
    one, two = Ledger(), Ledger()
    one.add([fault(f"s{k}") for k in range(10)], 1000)
    two.load_state_dict(one.state_dict())
    assert two.table() == one.table()
    with pytest.raises(SlideError):
        two.add([fault("new")], 1)


class Model(BoringModel):
    """Learns nothing from batches, and notes what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """A loss."""
        self.names |= set(batch)
        return self.layer(torch.ones(1, 32)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing."""
        self.names |= set(batch)


class Losing(SlideDataModule):
    """Loses some slides of one part when the run begins."""

    def lose(self, part: str, count: int) -> "Losing":
        """Say which."""
        self.part, self.count = part, count
        return self

    def setup(self, stage: str | None = None) -> None:
        """Lose them."""
        super().setup(stage)
        self.victims = [self.cohort[slide] for slide in self.split[self.part][: self.count]]
        for victim in self.victims:
            victim.path.unlink()


def fit(data: SlideDataModule, root: Path, steps: int, ckpt_path: Path | None = None) -> Trainer:
    trainer = Trainer(
        max_steps=steps, default_root_dir=root, val_check_interval=4, check_val_every_n_epoch=None, max_epochs=-1,
        num_sanity_val_steps=0, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Model(), data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is read no more", "ignore:.*does not have many workers")
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_run_records_the_faults_of_both_streams_also_when_resumed(cohort: Cohort, tmp_path: Path, part: str) -> None:
    settings: dict[str, Any] = {"batch_size": 12, "patch_size": 32, "mpp": 2.0, "val_patches": 48, "threads": 1}
    data = Losing(str(cohort.folder), **settings).lose(part, 1)
    trainer = fit(data, tmp_path / "run", 12)
    assert isinstance(trainer.model, Model) and trainer.model.names == {
        "images",
        "index",
        "attempt",
        "place",
        "slides",
        "labels",
    }
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    table = tmp_path / "run" / "faults.csv"
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["slide"], row["failed"], row["dropped"]) == (data.victims[0].name, "3", "1")
    data.victims[0].path.touch()
    fit(Losing(str(cohort.folder), **settings).lose(part, 1), tmp_path / "run", 24, tmp_path / "a.ckpt")
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["failed"], row["dropped"]) == ("6", "2")


@pytest.mark.filterwarnings("ignore:.*is read no more", "ignore:.*does not have many workers")
def test_a_run_ends_when_too_many_slides_are_lost(cohort: Cohort, tmp_path: Path) -> None:
    data = Losing(str(cohort.folder), batch_size=100, patch_size=16, mpp=4.0, val_patches=2).lose("train", 4)
    with pytest.raises(SlideError) as caught:
        fit(data, tmp_path / "run", 12)
    assert "faults.csv" in str(caught.value) and all(victim.name in str(caught.value) for victim in data.victims)
