"""Memory of batches is used again, and never while somebody holds it."""

import gc
from typing import Any

import numpy as np
import pytest
import torch

from g2l.data.streaming.buffers import Pool
from g2l.data.streaming.ring import LENT, Parcel, Ring, Slots
from g2l.errors import SlideError

SHAPE = (2, 4, 4, 3)


def test_memory_comes_back_with_the_last_tensor_over_it() -> None:
    pool = Pool(SHAPE, keep=1)
    first = pool.take()
    address, part = first.data_ptr(), first[1:]
    del first
    assert pool.take().data_ptr() != address, "a slice still needs it"
    array = part.numpy()[0]
    del part
    assert pool.take().data_ptr() != address, "an array over the slice still needs it"
    del array
    assert pool.take().data_ptr() == address


def test_little_memory_lies_unused() -> None:
    pool = Pool(SHAPE, keep=2)
    many = [pool.take() for _ in range(9)]
    assert len({one.data_ptr() for one in many}) == 9
    del many
    assert len(pool._free) == 2


def deliver(slots: Slots, value: int) -> Parcel:
    images = slots.take()
    assert images is not None
    images.fill_(value)
    return slots.deliver(images, {"index": np.arange(2), "slides": ["a", "b"]})


def test_a_slot_goes_back_to_its_worker_with_the_last_tensor_over_it() -> None:
    ring = Ring(2, 1, SHAPE)
    mine, other = Slots(ring, 0), Slots(ring, 1)
    batch = deliver(mine, 7).open()
    assert batch["images"].eq(7).all() and batch["index"].tolist() == [0, 1] and batch["slides"] == ["a", "b"]
    taken: list[Any] = []
    while (images := mine.take()) is not None:
        taken.append(images)
    part, address = batch["images"][:1], batch["images"].data_ptr()
    del batch
    assert mine.take() is None and other.take() is not None
    del part
    again = mine.take()
    assert again is not None and again.data_ptr() == address


def test_a_worker_keeps_enough_slots_whatever_the_user_keeps() -> None:
    ring = Ring(1, 3, SHAPE)
    slots = Slots(ring, 0)
    kept = [deliver(slots, value).open()["images"] for value in range(50)]
    assert [int(images.max()) for images in kept] == list(range(50))
    assert len({images.data_ptr() for images in kept}) == 50
    in_ring = [images for images in kept if ring.images(0).ctypes.data <= images.data_ptr() < _end(ring)]
    assert len(in_ring) == LENT
    free = 0
    while slots.take() is not None:
        free += 1
    assert free == 3 + 2  # in work, and under way


def _end(ring: Ring) -> int:
    return ring.images(0).ctypes.data + len(ring._memory)


def test_batches_outlive_the_ring() -> None:
    ring = Ring(1, 1, SHAPE)
    images = deliver(Slots(ring, 0), 9).open()["images"]
    del ring
    gc.collect()
    Ring(1, 1, SHAPE)
    assert images.eq(9).all()


def test_an_error_of_a_worker_is_raised_as_it_was() -> None:
    with pytest.raises(SlideError, match=r"^a\.svs is damaged$"):
        Parcel(error=SlideError("a.svs is damaged")).open()


@pytest.mark.gpu
def test_pinned_memory_is_pytorchs_own() -> None:
    pool = Pool(SHAPE, keep=1, pin=True)
    assert pool.take().is_pinned()
    ring = Ring(1, 1, SHAPE)
    slots = Slots(ring, 0)
    for value in range(9):
        batch = deliver(slots, value).pin_memory()
        assert isinstance(batch, dict) and batch["images"].is_pinned()
        assert torch.equal(batch["images"].cuda(non_blocking=True).cpu(), torch.full(SHAPE, value, dtype=torch.uint8))
