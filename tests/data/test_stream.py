"""The stream is a pure function of seed and number, whatever reads it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from g2l.data.module import SlideDataModule
from g2l.data.stream import OpenSlides, PatchStream, read_patches
from g2l.errors import CohortError, ConfigError
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Sampler


@pytest.fixture(scope="module")
def cohort(demo_cohort: Path) -> Cohort:
    return Cohort.open(demo_cohort)


def stream(cohort: Cohort, batch_size: int = 6, **arguments: Any) -> PatchStream:
    sampler = Sampler(cohort, range(len(cohort)), seed=3, size=32, mpp=2.0)
    return PatchStream(sampler, cohort, batch_size, **arguments)


def test_batches_hold_the_patches_of_their_numbers(cohort: Cohort) -> None:
    made = stream(cohort, start=2, steps=2)
    for step, batch in enumerate(made, start=2):
        assert batch["index"].tolist() == list(range(6 * step, 6 * step + 6))
        patches = [made.sampler.patch(number) for number in made.numbers(step)]
        assert np.array_equal(batch["images"].numpy(), read_patches(cohort, patches, threads=1))
        assert batch["slides"] == [cohort[patch.slide].name for patch in patches]


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (0, 3), (2, 1), (3, 2)])
def test_order_depends_on_no_worker_or_thread(cohort: Cohort, workers: int, threads: int) -> None:
    alone = list(stream(cohort, steps=5))
    loader = DataLoader(stream(cohort, steps=5, threads=threads), batch_size=None, num_workers=workers)
    for one, other in zip(alone, loader, strict=True):
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one["images"], other["images"])


def test_ranks_share_each_step_of_one_process_with_the_whole_batch(cohort: Cohort) -> None:
    one = list(stream(cohort, batch_size=6, steps=3))
    ranks = [list(stream(cohort, batch_size=3, steps=3, rank=rank, world_size=2)) for rank in range(2)]
    for step, batch in enumerate(one):
        assert all((part[step]["index"] % 2 == rank).all() for rank, part in enumerate(ranks))
        merged = torch.cat([part[step]["index"] for part in ranks]).sort()
        assert torch.equal(merged.values, batch["index"])
        images = torch.cat([part[step]["images"] for part in ranks])[merged.indices]
        assert torch.equal(images, batch["images"])


def test_starting_later_reads_nothing_twice(cohort: Cohort) -> None:
    whole, rest = list(stream(cohort, steps=4)), list(stream(cohort, start=2, steps=2))
    assert all(torch.equal(one["images"], other["images"]) for one, other in zip(whole[2:], rest, strict=True))


def test_few_slides_stay_open(cohort: Cohort) -> None:
    slides = OpenSlides(cohort, limit=2)
    first = slides.get(0)
    assert slides.get(0) is first
    for index in (1, 2):
        slides.get(index)
    assert slides.get(0) is not first


def test_held_out_patients_never_train(demo_cohort: Path) -> None:
    data = SlideDataModule(str(demo_cohort), batch_size=4, patch_size=32, mpp=2.0, val_patches=10)
    data.setup()
    cohort = data.cohort
    patients = {part: {cohort[slide].patient for slide in slides} for part, slides in data.split.items()}
    assert not patients["train"] & patients["val"] and not patients["train"] & patients["test"]
    held_out = {name for batch in data.val_dataloader() for name in batch["slides"]}
    assert {cohort[i].patient for i in range(len(cohort)) if cohort[i].name in held_out} <= patients["val"]
    assert len(list(data.val_dataloader())) == 3
    again = [batch["images"] for batch in data.val_dataloader()]
    assert all(torch.equal(one["images"], two) for one, two in zip(data.val_dataloader(), again, strict=True))
    training = iter(data.train_dataloader())
    assert next(training)["index"].tolist() == [0, 1, 2, 3]


def test_labelled_patches_lie_in_their_region(demo_cohort: Path) -> None:
    data = SlideDataModule(str(demo_cohort), batch_size=4, patch_size=32, mpp=2.0)
    data.setup()
    labelled = data.labelled("test", 60)
    assert labelled.images.shape == (60, 32, 32, 3)
    assert len(set(labelled.labels)) >= 4 and len(set(labelled.centres)) == 3
    assert set(labelled.patients) == {data.cohort[slide].patient for slide in data.split["test"]}
    assert np.array_equal(labelled.labels, data.labelled("test", 60).labels)


def test_mistakes_of_the_config(demo_cohort: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size is 1"):
        SlideDataModule(str(demo_cohort), batch_size=1)
    with pytest.raises(ConfigError, match="mpp"):
        SlideDataModule(str(demo_cohort), mpp=0)
    with pytest.raises(CohortError, match="colour"):
        SlideDataModule(str(demo_cohort), hold_out="colour").setup()
