"""The files of `embed` alone: partial results, and the HDF5 file with its state."""

import errno
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from g2l.deploy.runtime.features import count_of, require_room, state, write_features
from g2l.deploy.runtime.partial import Partial
from g2l.slides.grid import Grid, attributes

ROWS = np.random.default_rng(0).standard_normal((21, 5)).astype(np.float32)


def fill(file: Path, upto: int = 21) -> Partial:
    made = Partial(file, 21, 5, 8)
    for start in range(made.rows, upto, 8):
        made.append(ROWS[start : min(start + 8, 21)])
    made.close()
    return made


# --- partial results --------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_and_lie_as_documented(tmp_path: Path) -> None:
    made = fill(tmp_path / "a.rows")
    assert made.rows == 21 and np.array_equal(np.concatenate(list(made.batches())), ROWS)
    data = (tmp_path / "a.rows").read_bytes()
    assert len(data) == 21 * 5 * 4 + 3 * 4 and data[:160] == ROWS[:8].tobytes()
    assert int.from_bytes(data[160:164], "little") == zlib.crc32(ROWS[:8].tobytes())
    made.remove()
    made.remove()
    assert not (tmp_path / "a.rows").exists()


@pytest.mark.parametrize("cut", [0, 1, 100, 163, 164, 165, 300, 328, 340, 431])
def test_what_was_cut_off_is_computed_again_from_the_last_whole_batch(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "a.rows"
    fill(file)
    file.write_bytes(file.read_bytes()[:cut])
    again = Partial(file, 21, 5, 8)
    assert again.rows == (0 if cut < 164 else 8 if cut < 328 else 16)
    assert np.array_equal(np.concatenate(list(fill(file).batches())), ROWS)


def test_a_damaged_batch_and_all_after_it_are_not_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "a.rows"
    fill(file)
    data = bytearray(file.read_bytes())
    data[170] ^= 1
    file.write_bytes(data)
    again = Partial(file, 21, 5, 8)
    assert again.rows == 8
    with pytest.raises(OSError, match="changed while it was in use"):
        list(again.batches())
    assert np.array_equal(np.concatenate(list(fill(file).batches())), ROWS)
    file.write_bytes(bytes(164 * 2))  # zeros, as a power failure can leave them: 0 is not their checksum
    assert Partial(file, 21, 5, 8).rows == 0


# --- the HDF5 file ----------------------------------------------------------------------------------------------------


def test_a_file_is_whole_or_absent_and_its_key_says_what_it_is(tmp_path: Path) -> None:
    grid = Grid(np.arange(42).reshape(21, 2), np.arange(42.0).reshape(21, 2))
    file, temporary = tmp_path / "a.h5", tmp_path / "t.h5"
    about = attributes("a", 32, 0.5, 0.25, 1000, 900)
    assert state(file, ["k"]) == "absent"
    write_features(file, temporary, "k", grid, 5, iter([ROWS[:8], ROWS[8:]]), about)
    assert state(file, ["j", "k"]) == "done" and state(file, ["j"]) == "stale" and count_of(file) == 21
    before = file.read_bytes()

    def breaks() -> Any:
        yield ROWS[:8]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_features(file, temporary, "k", grid, 5, breaks(), about)
    assert file.read_bytes() == before and not temporary.exists()
    (tmp_path / "torn.h5").write_bytes(before[: len(before) // 2])
    assert state(tmp_path / "torn.h5", ["k"]) == "stale"
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["features"] = ROWS
    assert state(tmp_path / "other.h5", ["k"]) == "foreign"


def test_a_huge_slide_is_written_within_little_memory(tmp_path: Path) -> None:
    count, width = 20_000, 256
    made, batch = Partial(tmp_path / "a.rows", count, width, 8), np.ones((8, width), np.float32)
    grid = Grid(np.zeros((count, 2), np.int64), np.zeros((count, 2)))
    tracemalloc.start()
    try:
        for _ in range(count // 8):
            made.append(batch)
        made.close()
        again = Partial(tmp_path / "a.rows", count, width, 8)
        write_features(tmp_path / "a.h5", tmp_path / "t.h5", "k", grid, width, again.batches(), {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert again.rows == count == count_of(tmp_path / "a.h5") and peak < 2_000_000 < count * width * 4 / 10


def test_the_magnifications_are_those_of_the_resolutions() -> None:
    about = attributes("a", 224, 0.5, 0.25, 10, 20)
    assert about["patch_size_level0"] == 448 and about["size_um"] == 112
    assert (about["level0_magnification"], about["target_magnification"]) == (40, 20)


def test_room_that_is_not_there_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_room(tmp_path / "a", 1000)
    with pytest.raises(OSError, match="No space left"):
        require_room(tmp_path / "a", 1 << 60)

    def fails(number: int) -> Callable[..., None]:
        def fallocate(*_: int) -> None:
            raise OSError(number, "no")

        return fallocate

    monkeypatch.setattr(os, "posix_fallocate", fails(errno.EOPNOTSUPP), raising=False)
    require_room(tmp_path / "a", 1000)
    monkeypatch.setattr(os, "posix_fallocate", fails(errno.EDQUOT), raising=False)
    with pytest.raises(OSError, match="no"):
        require_room(tmp_path / "a", 1000)
    assert not (tmp_path / "a").exists()
