"""`g2l index` from slide files to a cohort, its refusals, and its being killed half-way."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from g2l.errors import CohortError
from g2l.slides import index as module
from g2l.slides.cohort import Cohort
from g2l.slides.index import index
from g2l.slides.pool import run
from g2l.slides.sampling import Sampler

WriteSlide = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]) -> Path:
    """Four good slides in two folders, one without resolution, one that is no slide."""
    root = tmp_path / "slides"
    (root / "deep").mkdir(parents=True)
    for name in ("a.tif", "deep/b.tif", "c.tif", "Präparat 組織.tif"):
        write_slide(root / name, noise, 0.5)
    write_slide(root / "mute.tif", noise, None)
    (root / "broken.svs").write_bytes(b"nothing")
    return root


@pytest.fixture
def manifest(tmp_path: Path, outline: Path) -> Path:
    """Outlines for all slides, so that nothing here imports tiatoolbox."""
    path = tmp_path / "manifest.csv"
    names = ("a", "b", "c", "Präparat 組織", "mute")
    rows = [f"{name},P{k // 2},{outline.name},w{k}" for k, name in enumerate(names)]
    path.write_text("\n".join(["slide,patient,tissue,ward", *rows]) + "\n", encoding="utf-8")
    return path


def rejections(out: Path) -> list[dict[str, str]]:
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_slides_become_a_cohort(folder: Path, manifest: Path, tmp_path: Path) -> None:
    result = index(str(folder), str(tmp_path / "out" / "cohort"), str(manifest), workers=0)
    assert str(result).splitlines()[-1] == "indexed 4, rejected 2"
    cohort = Cohort.open(result.folder)
    assert [record.name for record in cohort] == ["Präparat 組織", "a", "b", "c"]
    record = cohort[1]
    assert record.patient == "P0" and record.extra == {"ward": "w0"} and record.mpp == pytest.approx(0.5)
    assert (record.width, record.height) == (1023, 771)
    assert record.tissue_mm2 == pytest.approx(0.3 * 0.25, rel=0.1)
    assert cohort.mask(1).shape == (25, 32)  # ceil(385.5 / 16), ceil(511.5 / 16)
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "cohort.parquet", "contact_sheet.png", "masks.npy", "rejected.csv", "work",
    ]  # fmt: skip
    patch = Sampler(cohort, [1], 0, 64, 0.5).patch(0)
    with cohort.open_slide(1) as slide:
        assert slide.read_patch(patch.x, patch.y, patch.size, patch.mpp).shape == (64, 64, 3)


def test_rejected_slides_are_listed_with_reason_and_remedy(folder: Path, manifest: Path, tmp_path: Path) -> None:
    result = index(str(folder), str(tmp_path / "out"), str(manifest), workers=0)
    broken, mute = rejections(tmp_path / "out")
    assert broken["file"].endswith("broken.svs") and "cannot be read" in broken["reason"]
    assert broken["remedy"] == "replace or remove the file"
    assert mute["file"].endswith("mute.tif") and "states no resolution" in mute["reason"]
    assert mute["remedy"] == "give it with --mpp or the manifest's mpp column"
    assert all(value in str(result) for row in (broken, mute) for value in row.values())


def test_mpp_is_for_slides_that_state_none(folder: Path, manifest: Path, tmp_path: Path) -> None:
    result = index(str(folder), str(tmp_path / "out"), str(manifest), mpp=0.25, workers=0)
    assert result.indexed == 5
    found = {record.name: (record.mpp, record.mpp_source) for record in Cohort.open(tmp_path / "out")}
    assert found["mute"] == (0.25, "given") and found["a"] == (pytest.approx(0.5), "file")


def test_contact_sheet_shows_every_slide(folder: Path, manifest: Path, tmp_path: Path) -> None:
    index(str(folder), str(tmp_path / "out"), str(manifest), workers=0)
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.width > 4 * 420 and sheet.height > 420
        line = (np.asarray(sheet.convert("RGB")) == (0, 122, 94)).all(axis=-1)
    assert line.sum() > 4 * 1000  # the outline of four masks


def test_the_same_cohort_from_processes(folder: Path, manifest: Path, tmp_path: Path) -> None:
    for workers, out in ((0, "one"), (2, "two")):
        index(str(folder), str(tmp_path / out), str(manifest), workers=workers)
    for name in ("masks.npy", "rejected.csv", "contact_sheet.png"):
        one, two = ((tmp_path / out / name).read_bytes() for out in ("one", "two"))
        assert one == two or name == "contact_sheet.png"  # the sheet's title holds the folder's name


def test_a_second_run_scans_only_what_is_new_or_changed(
    folder: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[str] = []

    def noting(jobs, function, workers):  # type: ignore[no-untyped-def]
        jobs = list(jobs)
        scanned.extend(job.entry.name for job in jobs)
        return run(jobs, function, workers)

    monkeypatch.setattr(module, "run", noting)
    out = str(tmp_path / "out")
    index(str(folder), out, str(manifest), workers=0)
    assert len(scanned) == 6
    scanned.clear()
    index(str(folder), out, str(manifest), workers=0)
    assert sorted(scanned) == ["broken", "mute"]  # rejected ones are tried again: their reason may be gone
    scanned.clear()
    os.utime(folder / "c.tif", ns=(1, 1))
    index(str(folder), out, str(manifest), workers=0)
    assert sorted(scanned) == ["broken", "c", "mute"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_and_started_again_it_ends_as_if_uninterrupted(
    tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8], outline: Path
) -> None:
    root = tmp_path / "slides"
    root.mkdir()
    for k in range(12):
        write_slide(root / f"s{k:02d}.tif", np.roll(noise, k, axis=0), 0.5)
    listing = tmp_path / "slides.csv"
    rows = [f"slides/s{k:02d}.tif,{outline.name}" for k in range(12)]
    listing.write_text("\n".join(["slide,tissue", *rows]) + "\n")
    program = f"from g2l.slides.index import index; index({str(listing)!r}, {str(tmp_path / 'out')!r}, workers=0)"
    running = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    work = tmp_path / "out" / "work"
    deadline = time.monotonic() + 60
    while len(list(work.rglob("*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in work.rglob("*.npz")}
    assert len(kept) >= 3
    index(str(listing), str(tmp_path / "out"), workers=0)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    index(str(listing), str(tmp_path / "whole"), workers=0)
    assert (tmp_path / "out" / "masks.npy").read_bytes() == (tmp_path / "whole" / "masks.npy").read_bytes()
    assert Cohort.open(tmp_path / "out").column("name") == [f"s{k:02d}" for k in range(12)]


class TestErrors:
    def message(self, *arguments: str, **options: object) -> str:
        with pytest.raises(CohortError) as caught:
            index(*arguments, workers=0, **options)  # pyright: ignore[reportArgumentType]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_all_rejected(self, tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]) -> None:
        (tmp_path / "slides").mkdir()
        write_slide(tmp_path / "slides" / "mute.tif", noise, None)
        text = self.message(str(tmp_path / "slides"), str(tmp_path / "out"))
        assert "every slide was rejected, first " in text and "states no resolution" in text
        assert len(rejections(tmp_path / "out")) == 1
        assert not (tmp_path / "out" / "cohort.parquet").exists()

    def test_strict(self, folder: Path, manifest: Path, tmp_path: Path) -> None:
        text = self.message(str(folder), str(tmp_path / "out"), str(manifest), strict=True)
        assert "2 of 6 slides were rejected" in text and "without --strict" in text
        assert len(rejections(tmp_path / "out")) == 2

    def test_no_slides_and_unreadable_manifest(self, tmp_path: Path, folder: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "no slides found" in self.message(str(tmp_path / "empty"), str(tmp_path / "out"))
        assert "cannot be read" in self.message(str(folder), str(tmp_path / "out"), str(tmp_path / "none.csv"))
        assert "outside 0.1-4" in self.message(str(folder), str(tmp_path / "out"), mpp=250.0)
        assert not (tmp_path / "out").exists()

    def test_output_that_cannot_be_written(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert "cannot write to" in self.message(str(folder), str(tmp_path / "file"))
        assert "cannot write to" in self.message(str(folder), str(tmp_path / "file" / "out"))

    def test_unusable_outline_rejects_its_slide(self, folder: Path, tmp_path: Path, outline: Path) -> None:
        (tmp_path / "empty.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
        (tmp_path / "off.geojson").write_text(
            json.dumps({"type": "Polygon", "coordinates": [[[9e3, 9e3], [9.9e3, 9e3], [9e3, 9.9e3], [9e3, 9e3]]]})
        )
        (tmp_path / "bad.geojson").write_text("{")
        listing = tmp_path / "list.csv"
        listing.write_text(
            "slide,tissue\nslides/a.tif,empty.geojson\nslides/c.tif,off.geojson\nslides/deep/b.tif,outline.geojson\n"
            "slides/Präparat 組織.tif,bad.geojson\n",
            encoding="utf-8",
        )
        assert index(str(listing), str(tmp_path / "out"), workers=0).indexed == 1
        reasons = {Path(row["file"]).stem: row["reason"] for row in rejections(tmp_path / "out")}
        assert "no Polygon" in reasons["a"] and "no tissue was found" in reasons["c"]
        assert "JSONDecodeError" in reasons["Präparat 組織"]


@pytest.mark.real_data
class TestRealSlides:
    """The contract on the project's real slides."""

    def test_without_further_information_five_are_indexed(self, real_data: Path, tmp_path: Path) -> None:
        result = index(str(real_data / "slides"), str(tmp_path / "out"), workers=0)
        assert str(result).splitlines()[-1] == "indexed 5, rejected 3"
        found = {Path(row["file"]).name: row for row in rejections(tmp_path / "out")}
        assert set(found) == {"broken.svs", "camelyon_level.dcm", "tcga-cr-7395-01a-01-ts1.svs"}
        assert "cannot be read" in found["broken.svs"]["reason"]
        assert "28.97 um/px, outside 0.1-4" in found["camelyon_level.dcm"]["reason"]
        assert "states no resolution" in found["tcga-cr-7395-01a-01-ts1.svs"]["reason"]
        assert all(row["remedy"] for row in found.values())
        assert not any(record.pen or record.blur for record in Cohort.open(tmp_path / "out"))

    def test_with_their_mpp_seven_are_indexed(self, real_data: Path, tmp_path: Path) -> None:
        manifest = tmp_path / "manifest.csv"
        manifest.write_text("slide,mpp\ntcga-cr-7395-01a-01-ts1,0.5\ncamelyon_level.dcm,4\n")
        result = index(str(real_data / "slides"), str(tmp_path / "out"), str(manifest), workers=0)
        assert str(result).splitlines()[-1] == "indexed 7, rejected 1"
