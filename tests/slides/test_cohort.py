"""Opening, looking up, and what a hundred thousand slides cost."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from g2l.errors import CohortError
from g2l.slides.cohort import Cohort
from g2l.slides.coverage import pack
from g2l.slides.indexing.scan import Scan
from g2l.slides.indexing.store import write_cohort

MakeCohort = Callable[..., Cohort]


def test_records_masks_and_columns(make_cohort: MakeCohort) -> None:
    masks = [np.random.default_rng(k).random((20 + k, 31 - k)) < 0.4 for k in range(3)]
    cohort = make_cohort(masks, patient=["A", "B", None], block=["x", None, "é"], regions=["/r/0.png", None, None])
    assert len(cohort) == 3 and [record.name for record in cohort] == ["s0", "s1", "s2"]
    assert cohort[0].patient == "A" and cohort[2].patient is None and cohort[-1].name == "s2"
    assert cohort[0].regions == Path("/r/0.png") and cohort[1].regions is None
    assert cohort[2].extra == {"block": "é"} and cohort[0].path == Path("/nowhere/s0.tif")
    assert cohort.column("patient") == ["A", "B", None] and cohort.column("block") == ["x", None, "é"]
    for k, mask in enumerate(masks):
        np.testing.assert_array_equal(cohort.mask(k), mask)
        assert cohort.mask_mpp(k) == 16.0
    with pytest.raises(IndexError):
        cohort[3]


def test_masks_stay_on_disk(make_cohort: MakeCohort) -> None:
    bits = make_cohort([np.ones((16, 16), np.bool_)]).bits(0)
    root = bits
    while isinstance(root.base, np.ndarray):
        root = root.base
    assert isinstance(root, np.memmap) and not bits.flags.writeable


def test_unknown_column_lists_the_known_ones(make_cohort: MakeCohort) -> None:
    with pytest.raises(CohortError, match=r"no column 'stain'; it has name, .*patient"):
        make_cohort([np.ones((4, 4), np.bool_)]).column("stain")


def test_absent_cohort_names_the_verb(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"no cohort in .*; make it with g2l index SLIDES --out"):
        Cohort.open(tmp_path / "absent")


def test_files_of_different_runs_are_told_apart(make_cohort: MakeCohort) -> None:
    one, two = make_cohort([np.ones((8, 8), np.bool_)]), make_cohort([np.ones((8, 9), np.bool_)])
    (two.folder / "masks.npy").replace(one.folder / "masks.npy")
    with pytest.raises(CohortError, match="do not belong together; run g2l index again"):
        Cohort.open(one.folder)


def test_a_cohort_of_another_format_is_told_so(make_cohort: MakeCohort, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = make_cohort([np.ones((8, 8), np.bool_)])
    monkeypatch.setattr("g2l.slides.cohort.FORMAT", 99)
    with pytest.raises(CohortError, match="has format 2, this g2l reads 99; run g2l index again"):
        Cohort.open(cohort.folder)


@pytest.mark.parametrize("name", ["cohort.parquet", "masks.npy"])
def test_damaged_files_are_an_error(make_cohort: MakeCohort, name: str) -> None:
    cohort = make_cohort([np.ones((8, 8), np.bool_)])
    (cohort.folder / name).write_bytes(b"no such thing")
    with pytest.raises(CohortError, match="damaged"):
        Cohort.open(cohort.folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
def test_a_hundred_thousand_slides_open_in_seconds_and_little_memory(tmp_path: Path) -> None:
    mask = np.ones((40, 40), np.bool_)
    row = {
        "path": "/slides/somewhere/deep/in/a/tree/x.svs", "mpp": 0.25, "mpp_source": "file", "backend": "openslide",
        "width": 2560, "height": 2560, "width_um": 640.0, "height_um": 640.0, "tissue_mm2": 0.4, "room_um": 600.0,
        "pen": False, "sharpness": 1.0, "blur": False, "fingerprint": "0" * 40, "mask_mpp": 16.0, "mask_h": 40,
        "mask_w": 40, "box_x0": 0, "box_y0": 0, "box_x1": 40, "box_y1": 40,
        "backend_reason": "", "levels": [0.25, 0.25, 256, 256, 1.0, 1.0, 256, 256], "tile_map": "x" * 1200,
    }  # fmt: skip
    bits = pack(mask)
    slides = ((Scan({**row, "name": f"s{k}"}, bits, b"", 1.0), {"patient": f"p{k // 3}"}) for k in range(100_000))
    write_cohort(tmp_path, slides)
    program = (
        "import sys, time; from pathlib import Path; start = time.perf_counter()\n"
        "from g2l.slides.cohort import Cohort; from g2l.slides.sampling import Sampler\n"
        f"cohort = Cohort.open({str(tmp_path)!r}); parts = cohort.split()\n"
        "import numpy as np; sampler = Sampler(cohort, parts['train'], 0, 224, 0.5)\n"
        "for k in range(100): sampler.draw(np.arange(k * 10_000, k * 10_000 + 10_000))\n"
        "assert 'torch' not in sys.modules and 'tiatoolbox' not in sys.modules\n"
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "print(time.perf_counter() - start, int(peak) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    seconds, mebibytes = map(float, done.stdout.split())
    assert seconds < 60 and mebibytes < 1000, done.stdout
