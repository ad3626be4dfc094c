"""The cohort's two files: written a chunk at a time, equal to what pyarrow makes of all rows at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from g2l.slides.cohort import Cohort
from g2l.slides.coverage import pack
from g2l.slides.indexing import store as module
from g2l.slides.indexing.manifest import KNOWN
from g2l.slides.indexing.scan import Scan
from g2l.slides.indexing.store import COMPUTED, write_cohort

Given = dict[str, str | None]


def slides(count: int) -> Iterator[tuple[Scan, Given]]:
    rng = np.random.default_rng(0)
    for k in range(count):
        mask = rng.random((5 + k % 3, 9 + k % 5)) < 0.5
        row: dict[str, Any] = {name: k for name in COMPUTED.names if name != "mask_offset"}
        row |= {name: f"{name}{k}" for name in ("name", "path", "mpp_source", "backend", "backend_reason")}
        row |= {"fingerprint": f"f{k}", "pen": bool(k % 2), "blur": False, "tile_map": None if k % 2 else "{}"}
        row |= {"mask_h": mask.shape[0], "mask_w": mask.shape[1], "levels": [0.5, 0.5, 0.0, 0.0] * (1 + k % 2)}
        yield Scan(row, pack(mask), b"", 1.0), {"patient": f"p{k}" if k % 3 else None, "ward": f"w{k}"}


@pytest.mark.parametrize("at_once", [1, 4, 7, 8, 100])
def test_rows_and_masks_are_those_given(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    write_cohort(tmp_path, slides(8))
    given = list(slides(8))
    table = pq.read_table(tmp_path / "cohort.parquet")
    assert table.column_names == [*COMPUTED.names, *KNOWN, "ward"]
    offsets = np.cumsum([0, *(scan.bits.size for scan, _ in given)])
    want = [
        dict.fromkeys(KNOWN) | columns | scan.row | {"mask_offset": offsets[k]}
        for k, (scan, columns) in enumerate(given)
    ]
    assert table.to_pylist() == want
    masks = np.load(tmp_path / "masks.npy")
    assert (masks[:-20] == np.concatenate([scan.bits.ravel() for scan, _ in given])).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort.parquet", "masks.npy"]
    assert Cohort.open(tmp_path)[3].extra == {"ward": "w3"}


def test_slides_are_taken_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their masks and thumbnails must not pile up."""
    monkeypatch.setattr(module, "AT_ONCE", 4)
    alive: set[int] = set()
    most = 0

    class Counted(Scan):
        __slots__ = ()

        def __del__(self) -> None:
            alive.discard(id(self))

    def counting() -> Iterator[tuple[Scan, Given]]:
        nonlocal most
        for scan, given in slides(20):
            one = Counted(scan.row, scan.bits, scan.jpeg, scan.thumbnail_mpp)
            alive.add(id(one))
            most = max(most, len(alive))
            yield one, given
            del one

    write_cohort(tmp_path, counting())
    assert most <= 3


def test_a_column_that_comes_later_is_not_dropped(tmp_path: Path) -> None:
    two = list(slides(2))
    two[1][1]["floor"] = "2"
    with pytest.raises(ValueError, match="name1 has columns that the first slide has not"):
        write_cohort(tmp_path, two)
    assert not (tmp_path / "cohort.parquet").exists()
