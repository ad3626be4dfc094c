"""The stream is a pure function of seed and number, whatever reads it."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from g2l.data.source import CohortSource, OpenSlides
from g2l.data.stream import PatchStream, read_patches
from g2l.data.streaming.loader import PatchLoader
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Sampler

Batch = dict[str, Any]


@pytest.fixture(scope="module")
def cohort(demo_cohort: Path) -> Cohort:
    return Cohort.open(demo_cohort)


def sampler(cohort: Cohort, **arguments: Any) -> Sampler:
    return Sampler(cohort, range(len(cohort)), seed=3, size=32, mpp=2.0, **arguments)


def stream(cohort: Cohort, batch_size: int = 6, visits: int = 1, **arguments: Any) -> PatchStream:
    drawn = sampler(cohort, patches_per_visit=visits, shuffle_visits=4)
    return PatchStream(CohortSource(drawn, blocks=4), batch_size, **arguments)


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same patches, to the last pixel."""
    alike = all(torch.equal(one[name], other[name]) for name in ("images", "index", "attempt", "place"))
    return alike and one["slides"] == other["slides"] and one["faults"] == other["faults"]


def test_batches_hold_the_patches_of_their_numbers(cohort: Cohort) -> None:
    made, drawn = stream(cohort, start=2, steps=2), sampler(cohort)
    for step, batch in enumerate(made, start=2):
        numbers = list(range(6 * step, 6 * step + 6))
        patches = [drawn.patch(number) for number in numbers]
        assert batch["index"].tolist() == numbers == made.numbers(step).tolist()
        assert batch["attempt"].tolist() == [0] * 6 and batch["faults"] == []
        assert batch["place"].tolist() == [[patch.x, patch.y, patch.mpp] for patch in patches]
        assert batch["slides"] == [cohort[patch.slide].name for patch in patches]
        assert np.array_equal(batch["images"].numpy(), read_patches(cohort, patches, threads=1))


def test_a_patch_of_a_visit_is_the_same_from_a_block_read_by_anyone(cohort: Cohort) -> None:
    whole = list(stream(cohort, visits=3, steps=6, threads=3))
    drawn = sampler(cohort, patches_per_visit=3, shuffle_visits=4)
    visits = [drawn.patch(number).visit for number in range(36)]
    assert max(map(visits.count, set(visits) - {-1})) == 3, "no visit was used for all its patches"
    for number in (35, 2, 17, 8):
        image = np.empty((32, 32, 3), np.uint8)
        CohortSource(drawn, blocks=1).read(drawn.patch(number), image)
        assert np.array_equal(whole[number // 6]["images"][number % 6].numpy(), image)


@pytest.mark.parametrize("visits", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_equal_whatever_reads_it_and_wherever_it_was_interrupted(
    cohort: Cohort, workers: int, threads: int, ranks: int, visits: int
) -> None:
    whole = list(stream(cohort, batch_size=6, visits=visits, steps=7, threads=1))
    stop = int(np.random.default_rng([workers, threads, ranks]).integers(1, 7))
    for rank in range(ranks):
        made: list[Batch] = []
        for start, steps in ((0, None), (stop, 7 - stop)):
            options = {"rank": rank, "world_size": ranks, "threads": threads, "start": start, "steps": steps}
            part = stream(cohort, batch_size=6 // ranks, visits=visits, **options)
            made += islice(PatchLoader(part, workers), stop if steps is None else None)
        assert len(made) == 7
        for one, mine in zip(whole, made, strict=True):
            # slot j of rank r is the single process' slot j R + r
            kept = {name: value[rank::ranks] for name, value in one.items() if name != "faults"}
            assert same(kept | {"faults": one["faults"]}, mine)


def test_an_ordinary_loader_gives_the_same(cohort: Cohort) -> None:
    alone = list(stream(cohort, steps=5))
    plain: DataLoader[Batch] = DataLoader(stream(cohort, steps=5), batch_size=None, num_workers=2)
    assert all(same(one, other) for one, other in zip(alone, plain, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_begins_again_also_when_it_was_left(cohort: Cohort, workers: int) -> None:
    loader = PatchLoader(stream(cohort, steps=6), workers)
    left = iter(loader)
    first = next(left)
    alone = list(stream(cohort, steps=6))
    for _ in range(2):
        assert all(same(one, other) for one, other in zip(alone, loader, strict=True))
    del left
    assert same(first, alone[0])


def test_two_iterations_of_one_loader_do_not_meet(cohort: Cohort) -> None:
    """As when the targets' moments are observed while the first training batch waits."""
    loader = PatchLoader(stream(cohort, steps=6), num_workers=1)
    alone = list(stream(cohort, steps=6))
    first = iter(loader)
    assert same(next(first), alone[0])  # and is let go of
    assert all(same(one, other) for one, other in zip(alone, loader, strict=True))
    assert all(same(one, other) for one, other in zip(alone[1:], first, strict=True))


@pytest.mark.slow
def test_workers_that_are_spawned_give_the_same(cohort: Cohort) -> None:
    loader = PatchLoader(stream(cohort, visits=3, steps=3), num_workers=1)
    loader.multiprocessing_context = "spawn"
    assert all(same(one, other) for one, other in zip(stream(cohort, visits=3, steps=3), loader, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_that_are_kept_stay_as_they_are(cohort: Cohort, workers: int) -> None:
    alone = [batch["images"].clone() for batch in stream(cohort, steps=14)]
    kept = list(PatchLoader(stream(cohort, steps=14), workers))
    assert len({batch["images"].data_ptr() for batch in kept}) == 14
    # a part of a batch keeps it too
    parts = [batch["images"][2:4] for batch in PatchLoader(stream(cohort, steps=14), workers)]
    for one, batch, part in zip(alone, kept, parts, strict=True):
        assert torch.equal(one, batch["images"]) and torch.equal(one[2:4], part)


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_is_used_again(cohort: Cohort, workers: int) -> None:
    used = [batch["images"].data_ptr() for batch in PatchLoader(stream(cohort, steps=30), workers)]
    assert len(set(used)) <= 8


def test_few_slides_stay_open(cohort: Cohort) -> None:
    slides = OpenSlides(cohort, limit=2)
    first = slides.get(0)
    assert slides.get(0) is first
    for index in (1, 2):
        slides.get(index)
    assert slides.get(0) is not first


def test_a_stream_that_is_left_stops_reading(cohort: Cohort) -> None:
    made = stream(cohort)
    read: list[int] = []
    source = made.source
    assert isinstance(source, CohortSource)
    whole = source.read
    source.read = lambda patch, out: (read.append(patch.index), whole(patch, out))[1]  # type: ignore[method-assign]
    batches = iter(made)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(read) <= 6 * (1 + made.prefetch)
