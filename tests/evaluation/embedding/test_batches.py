"""Batches of parts: every image once, in order, of one part and size; parts shared among processes."""

import threading
import time
from functools import partial

import numpy as np
import pytest
from layouts import drawn
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.embedding import batches
from g2l.evaluation.embedding.batches import Batches, Problems
from g2l.evaluation.embedding.parts import Part, part_key, share


def read(sizes: list[int], base: int, k: int) -> NDArray[np.uint8]:
    if sizes[k] < 0:
        raise CohortError(f"image {k} is broken; replace it")
    return drawn(base + k, sizes[k], sizes[k] + 3)


def part(sizes: list[int], base: int = 0) -> Part:
    return Part(f"{base}.h5", "k", [f"{k}" for k in range(len(sizes))], partial(read, sizes, base), len(sizes))


@pytest.mark.parametrize("threads", [1, 3])
def test_every_image_comes_once_with_others_of_its_size(threads: int) -> None:
    parts = [part([8, 9, 8, 8, 9, 8, 8, 8, 9]), part([7], 100), part([9, 9, 8, -1, 8], 200)]
    problems = Problems()
    seen: list[tuple[int, int]] = []
    for batch in Batches(parts, 3, threads, problems):
        count, side = batch.images.shape[:2]
        assert count == len(batch.at) <= 3
        for k, pixels in zip(batch.at.tolist(), batch.images.numpy(), strict=True):
            whole = parts[batch.part].read(k)
            assert np.array_equal(pixels, whole[:, 1 : 1 + side])  # the central square of S x (S + 3)
            seen.append((batch.part, k))
    wanted = {(number, k) for number, one in enumerate(parts) for k in range(one.count)} - {(2, 3)}
    assert len(seen) == len(wanted) and set(seen) == wanted
    assert [number for number, _ in seen] == sorted(number for number, _ in seen)
    assert (problems.parts, problems.texts) == ({2}, ["image 3 is broken; replace it"])


def test_batches_do_not_depend_on_threads_or_neighbours() -> None:
    one, other = part([8, 9] * 6), part([9, 8] * 5, 50)
    alone = [batch.at.tolist() for batch in Batches([other], 4, 1, Problems())]
    both = [batch.at.tolist() for batch in Batches([one, other], 4, 3, Problems()) if batch.part == 1]
    assert alone == both


def test_large_images_come_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_BYTES", 3 * 64 * 64 * 3)
    found = list(Batches([part([64] * 10), part(list(range(20, 60)), 20)], 8, 2, Problems()))
    assert max(batch.images.numel() for batch in found) <= 4 * 64 * 64 * 3
    assert sum(len(batch.at) for batch in found) == 50


def test_whoever_stops_asking_does_not_wait_for_all_images() -> None:
    asked: list[int] = []
    lock = threading.Lock()

    def slow(k: int) -> NDArray[np.uint8]:
        with lock:
            asked.append(k)
        time.sleep(0.005)
        return drawn(k, 8, 8)

    stream = iter(Batches([Part("a.h5", "k", [str(k) for k in range(5000)], slow, 5000)], 4, 2, Problems()))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(asked) < 50


def test_parts_are_shared_evenly_and_each_goes_to_one() -> None:
    parts = [part([8] * count, count) for count in (50, 3, 3, 3, 20, 20, 7, 1)]
    shares = [share(parts, rank, 3) for rank in range(3)]
    names = sorted(one.file for some in shares for one in some)
    assert names == sorted(one.file for one in parts)
    loads = [sum(one.count for one in some) for some in shares]
    assert max(loads) - min(loads) <= 50 - 20 and sorted(loads)[:2] == [28, 29]
    assert share(parts, 0, 1) == sorted(parts, key=lambda one: (-one.count, one.file))


def test_a_key_tells_its_parts_apart() -> None:
    keys = {part_key("e", {"a": 1}, *content) for content in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], [])}
    keys |= {part_key("f", {"a": 1}, "abc"), part_key("e", {"a": 2}, "abc")}
    assert len(keys) == 7
    assert part_key("e", {"a": 1, "b": 2}) == part_key("e", {"b": 2, "a": 1})
