"""Patches that repeat: the same pixels under running numbers, whatever reads them."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from g2l.data.identity import identify_patches
from g2l.data.module import SlideDataModule
from g2l.data.source import CohortSource, Repeated
from g2l.data.stream import PatchStream
from g2l.data.streaming.loader import PatchLoader
from g2l.errors import ConfigError
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Sampler


def ready(cohort: Path, **settings: Any) -> SlideDataModule:
    data = SlideDataModule(str(cohort), **{"batch_size": 4, "patch_size": 32, "mpp": 2.0, "repeat": 10} | settings)
    data.setup()
    return data


def test_after_repeat_patches_the_same_come_again_under_running_numbers(demo_cohort: Path) -> None:
    batches = list(islice(ready(demo_cohort).train_dataloader(), 5))
    endless = list(islice(ready(demo_cohort, repeat=0).train_dataloader(), 3))
    index, images = (torch.cat([batch[name] for batch in batches]) for name in ("index", "images"))
    assert index.tolist() == list(range(20))
    assert torch.equal(images[:10], images[10:])
    assert torch.equal(images[:10], torch.cat([batch["images"] for batch in endless])[:10])
    assert len({image.numpy().tobytes() for image in images}) == 10
    names = [name for batch in batches for name in batch["slides"]]
    assert names[:10] == names[10:]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_workers_and_resume_see_what_one_process_sees(demo_cohort: Path, workers: int) -> None:
    cohort = Cohort.open(demo_cohort)
    sampler = Sampler(cohort, range(len(cohort)), seed=3, size=32, mpp=2.0)

    def stream(**arguments: Any) -> PatchStream:
        return PatchStream(Repeated(CohortSource(sampler), 7), **arguments)

    whole = [batch["images"] for batch in stream(batch_size=4, steps=5)]
    for rank in range(2):
        options = {"batch_size": 2, "rank": rank, "world_size": 2}
        resumed = PatchLoader(stream(start=2, steps=3, **options), workers)
        for one, batch in zip(whole[2:], resumed, strict=True):
            assert torch.equal(one[rank::2], batch["images"])


def test_a_replaced_patch_is_replaced_by_the_same_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(6):
        (tmp_path / f"s{k}").mkdir()
        for row in range(3):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(tmp_path / f"s{k}" / f"{row}.png")
    data = ready(tmp_path, hold_out="slide", repeat=8)
    first = data.source("train")
    patches = first.draw(np.arange(8))
    broken = next(path for path in tmp_path.rglob("*.png") if path.parent.name == first.name(int(patches.slide[3])))
    for path in broken.parent.glob("*.png"):
        path.write_bytes(b"no image")
    batches = list(islice(ready(tmp_path, hold_out="slide", repeat=8).train_dataloader(), 4))
    images, attempts = (torch.cat([batch[name] for batch in batches]) for name in ("images", "attempt"))
    assert attempts[3] > 0
    assert torch.equal(attempts[:8], attempts[8:]) and torch.equal(images[:8], images[8:])


def test_held_out_patches_do_not_repeat(demo_cohort: Path) -> None:
    (plain, repeating) = (ready(demo_cohort, repeat=repeat, val_patches=20) for repeat in (0, 10))
    for one, other in zip(plain.val_dataloader(), repeating.val_dataloader(), strict=True):
        assert torch.equal(one["images"], other["images"])


def test_each_once_covers_all_of_them(demo_cohort: Path) -> None:
    data = ready(demo_cohort)
    numbers = torch.cat([batch["index"] for batch in data.each_once(0)])
    assert numbers.tolist() == list(range(12)), "the last batch is whole"
    assert torch.cat([batch["index"] for batch in data.each_once(2)]).tolist() == list(range(8, 12))


def test_settings_that_cannot_repeat(demo_cohort: Path) -> None:
    for repeat in (-1, 3):
        with pytest.raises(ConfigError, match=rf"data.repeat is {repeat}"):
            SlideDataModule(str(demo_cohort), batch_size=4, repeat=repeat)
    visits = ready(demo_cohort, patches_per_visit=2, shuffle_visits=8)
    with pytest.raises(ConfigError, match=r"data.repeat is 10, no multiple of data.shuffle_visits 8.*give 16"):
        visits.train_dataloader()


def test_identity_names_what_changes_the_patches_and_nothing_else(demo_cohort: Path) -> None:
    mine = identify_patches(ready(demo_cohort))
    same = identify_patches(ready(demo_cohort, batch_size=5, threads=1, val_patches=9, timeout=9.0))
    assert mine == same

    def changed(**settings: Any) -> set[str]:
        other = identify_patches(ready(demo_cohort, **settings))
        return {name.removesuffix(" (SHA-256)") for name in mine if mine[name] != other[name]}

    assert changed(seed=1) == {"data.seed", "places"}
    assert changed(mpp=[2.0, 4.0]) == {"data.mpp", "places"}
    assert changed(placing="random") == {"data.placing", "places"}
    assert changed(quality="hsv") == {"data.quality"}
    assert changed(held_out_fraction=0.5) == set(), "the manifest says what is held out"
    without = ready(demo_cohort)
    without.split["train"] = without.split["train"][1:]
    assert mine["training part (SHA-256)"] != identify_patches(without)["training part (SHA-256)"]
