"""Patches that were cut already as a stream: exact epochs, and everything a function of seed and number alone."""

import multiprocessing
import os
import pickle
import threading
from collections import Counter
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from layouts import LAYOUTS, Pixels, drawn, encode, write_hdf5, write_images, write_shards

from g2l.data.cut import hdf5, shards
from g2l.data.cut.epochs import EpochSource
from g2l.data.cut.hdf5 import Hdf5Files
from g2l.data.cut.shards import TarShards
from g2l.data.folders import open_patches
from g2l.data.source import Source
from g2l.data.stream import PatchStream
from g2l.errors import SlideError

SIZE = 32


def source(folder: Path, seed: int = 5, size: int = SIZE) -> EpochSource:
    patches = open_patches(folder)
    return patches.source(range(len(patches)), seed, size)


def read(made: EpochSource, number: int, attempt: int = 0) -> Pixels:
    out = np.empty((made.size, made.size, 3), np.uint8)
    made.read(made.draw(np.array([number]), attempt).patch(0), out)
    return out


def test_each_patch_comes_once_per_epoch_in_a_new_order(tmp_path: Path) -> None:
    write_images(tmp_path)
    made = source(tmp_path)
    n = len(made)
    epochs = [[made.row(number) for number in range(e * n, e * n + n)] for e in range(30)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 30
    first = Counter(epoch[0] for epoch in epochs)
    assert len(first) > 6  # of 12: no patch is always the first
    other = source(tmp_path, seed=6)
    assert [other.row(number) for number in range(n)] != epochs[0]


def test_a_number_gives_the_same_patch_whatever_was_asked_before_and_with_it(tmp_path: Path) -> None:
    write_images(tmp_path)
    made, again = source(tmp_path), source(tmp_path)
    numbers = np.array([700, 3, 3, 10**12, 11, 12, 2**62])
    attempts = np.array([0, 0, 4, 1, 0, 0, 0])
    together = made.draw(numbers, attempts)
    assert len(together) == 7 and together.size == SIZE
    for k in range(7):
        alone = again.draw(numbers[k : k + 1], int(attempts[k]))
        one, two = together.patch(k), alone.patch(0)
        assert one[:4] == two[:4] and one.attempt == two.attempt == attempts[k] and np.isnan(one.mpp)
        assert made.row(int(numbers[k]), int(attempts[k])) == again.row(int(numbers[k]), int(attempts[k]))


@pytest.mark.parametrize("layout", ["hdf5", "tar", "png"])
def test_some_rows_are_those_patches(tmp_path: Path, layout: str) -> None:
    pixels = LAYOUTS[layout](tmp_path)
    patches = open_patches(tmp_path)
    rows = [11, 2, 3, 7]
    made = patches.source(rows, 0, SIZE)
    for k, row in enumerate(rows):
        assert made.file(k) == patches.column("path")[row]
        assert np.array_equal(made.image(k), pixels[made.file(k)])
    for attempt in (0, 3):
        drawn_patches = made.draw(np.arange(40), attempt)
        for k in range(40):
            row = rows[made.row(k, attempt)]
            slide = drawn_patches.patch(k).slide
            assert made.name(slide) == patches.names[slide] == patches.column("slide")[row]
            assert made.path(slide) in {patches.path(slide), tmp_path / "1.tar", tmp_path / "b" / made.name(slide)}


def test_replacements_are_any_patch_with_equal_chance(tmp_path: Path) -> None:
    write_images(tmp_path)
    made = source(tmp_path)
    rows = np.array([made._rows(np.arange(3000), np.full(3000, attempt))[0] for attempt in (1, 2)])
    counts = np.array([np.bincount(row, minlength=12) for row in rows])
    # 250 expected, standard deviation 15.1
    assert counts.min() > 180 and counts.max() < 320
    assert 0.04 < (rows[0] == rows[1]).mean() < 0.13  # independent: 1 in 12


def test_crops_are_uniform_over_the_places_and_the_pixels_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(whole := drawn(0, 35, 34)))
    made = source(tmp_path)
    assert read(made, 1).shape == (SIZE, SIZE, 3)
    places = Counter[tuple[int, int]]()
    index = {whole[y : y + SIZE, x : x + SIZE].tobytes(): (y, x) for y in range(4) for x in range(3)}
    assert len(index) == 12
    for number in range(1200):
        places[index[read(made, number).tobytes()]] += 1
    assert len(places) == 12 and min(places.values()) > 60 and max(places.values()) < 140


def test_an_image_of_the_right_size_is_taken_whole(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG"):
        (tmp_path / f"a.{kind}".replace("JPEG", "jpg").replace("PNG", "png")).write_bytes(
            encode(drawn(1, SIZE, SIZE), kind)
        )
    made = source(tmp_path)
    assert all(np.array_equal(read(made, number), made.image(made.row(number))) for number in range(6))


def test_a_stream_resumes_and_shares_out_to_ranks_exactly(tmp_path: Path) -> None:
    write_images(tmp_path)
    made: Source = source(tmp_path)
    whole = list(PatchStream(made, 6, steps=5))
    numbers = [number for batch in whole for number in batch["index"].tolist()]
    images = np.concatenate([batch["images"].numpy() for batch in whole])
    assert numbers == list(range(30)) and images.shape == (30, SIZE, SIZE, 3)
    later = list(PatchStream(source(tmp_path), 6, start=3, steps=2))
    assert np.array_equal(np.concatenate([batch["images"].numpy() for batch in later]), images[18:])
    for rank in range(2):
        part = list(PatchStream(source(tmp_path), 3, steps=5, rank=rank, world_size=2))
        assert np.array_equal(np.concatenate([batch["images"].numpy() for batch in part]), images[rank::2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_in_another_process_reads_the_same(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    made = source(tmp_path)
    wanted = [read(made, number) for number in range(6)]  # files are open now
    sent = pickle.loads(pickle.dumps(made))  # noqa: S301  our own, of this line
    assert all(np.array_equal(read(sent, number), wanted[number]) for number in range(6))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(read, [(made, number) for number in range(6)])
        assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("layout", ["hdf5 gzip", "tar", "jpeg"])
def test_a_forked_process_may_use_what_its_parent_has_open(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    made = source(tmp_path)
    wanted = [read(made, number).sum() for number in range(6)]
    child = os.fork()
    if child == 0:
        os._exit(0 if [read(made, number).sum() for number in range(6)] == wanted else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [read(made, number).sum() for number in range(6)] == wanted


@pytest.mark.parametrize("layout", ["hdf5", "hdf5 vlen", "tar", "png"])
def test_threads_read_at_once_with_few_files_open(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "OPEN_FILES", 1)
    monkeypatch.setattr(shards, "OPEN_SHARDS", 1)
    LAYOUTS[layout](tmp_path)
    made = source(tmp_path)
    wanted = [read(made, number) for number in range(48)]
    wrong: list[int] = []

    def work(start: int) -> None:
        for number in range(start, start + 96):
            try:
                same = np.array_equal(read(made, number % 48), wanted[number % 48])
            except SlideError:
                same = False
            if not same:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(12 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not list open files")
def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "OPEN_FILES", 2)
    write_hdf5(tmp_path, "plain")
    made = source(tmp_path)
    for number in range(40):
        read(made, number)
    open_now = [handle.readlink() for handle in Path("/proc/self/fd").iterdir() if handle.is_symlink()]
    assert sum(path.is_relative_to(tmp_path) for path in open_now) == 2


def test_opening_a_source_keeps_nothing_in_memory_that_workers_must_copy(tmp_path: Path) -> None:
    write_shards(tmp_path)
    made = source(tmp_path)
    fresh = len(pickle.dumps(made))
    for number in range(0, 1200, 7):
        read(made, number)
    assert len(pickle.dumps(made)) == fresh


def test_what_cannot_be_read_is_a_fault_with_a_name(tmp_path: Path) -> None:
    made_images = write_images(tmp_path / "images")
    made = source(tmp_path / "images")
    name = made.file(made.row(0))
    data = (tmp_path / "images" / name).read_bytes()
    (tmp_path / "images" / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(SlideError, match=rf"patch {name} cannot be read \(.*JPEG.*\); replace or remove"):
        read(made, 0)
    (tmp_path / "images" / name).write_bytes(encode(drawn(0, 31, 40), "JPEG"))
    with pytest.raises(SlideError, match=rf"patch {name} has 40 x 31 px, less than the 32 asked; lower the size"):
        read(made, 0)
    (tmp_path / "images" / name).unlink()
    with pytest.raises(SlideError, match=rf"patch {name} cannot be read \(.*No such file"):
        read(made, 0)
    others = [number for number in range(12) if number != 0]
    assert len({read(made, number).tobytes() for number in others}) == len(made_images) - 1


@pytest.mark.parametrize(("layout", "suffix"), [("hdf5", ".h5"), ("tar", ".tar")])
def test_a_container_that_is_damaged_or_gone_and_comes_back(tmp_path: Path, layout: str, suffix: str) -> None:
    LAYOUTS[layout](tmp_path)
    made = source(tmp_path)
    wanted = [read(made, number) for number in range(12)]
    fresh = pickle.loads(pickle.dumps(made))  # noqa: S301  our own, of this line
    whole = {path: path.read_bytes() for path in tmp_path.rglob(f"*{suffix}")}
    for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 1000)):
        for path, data in whole.items():
            path.write_bytes(data)
            spoil(path)
        for number in range(12):
            with pytest.raises(SlideError, match=r"patch .* cannot be read"):
                read(fresh, number)
    for path, data in whole.items():
        path.write_bytes(data)
    assert all(np.array_equal(read(fresh, number), wanted[number]) for number in range(12))


@pytest.mark.parametrize("layout", ["hdf5", "tar"])
def test_a_handle_that_fails_is_opened_anew(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    store = open_patches(tmp_path)._store
    assert isinstance(store, Hdf5Files | TarShards)
    wanted = store.load(0)
    handle = store._open.get(str(store.place(0)))
    (handle if isinstance(handle, FileIO) else handle.file).close()  # as a network mount does that went away
    with pytest.raises((OSError, ValueError)):
        store.load(0)
    assert np.array_equal(store.load(0), wanted)
