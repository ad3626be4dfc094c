"""`g2l index` from slide files to a cohort, its refusals, and its being killed half-way."""

import csv
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from g2l.errors import CohortError
from g2l.slides import index as module
from g2l.slides.cohort import Cohort
from g2l.slides.index import IndexResult, index
from g2l.slides.indexing.changes import Changes, compare
from g2l.slides.indexing.pool import run
from g2l.slides.sampling import Sampler

WriteSlide = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_slide: WriteSlide, noise: NDArray[np.uint8]) -> Path:
    """Four good slides in two folders, one without resolution, one that is no slide. Not to be changed."""
    root = tmp_path_factory.mktemp("index") / "slides"
    (root / "deep").mkdir(parents=True)
    for name in ("a.tif", "deep/b.tif", "c.tif", "Präparat 組織.tif"):
        write_slide(root / name, noise, 0.5)
    write_slide(root / "mute.tif", noise, None)
    (root / "broken.svs").write_bytes(b"nothing")
    return root


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Path:
    """Outlines for all slides: x 100-700, y 100-600 in level-0 pixels."""
    corners = [[100, 100], [700, 100], [700, 600], [100, 600], [100, 100]]
    (folder.parent / "outline.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    path = folder.parent / "manifest.csv"
    names = ("a", "b", "c", "Präparat 組織", "mute")
    rows = [f"{name},P{k // 2},outline.geojson,w{k}" for k, name in enumerate(names)]
    path.write_text("\n".join(["slide,patient,tissue,ward", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def indexed(folder: Path, manifest: Path) -> IndexResult:
    """These slides as a cohort. Not to be changed."""
    return index(str(folder), str(folder.parent / "out" / "cohort"), str(manifest), workers=0)


def stained(k: int = 0) -> NDArray[np.uint8]:
    """(400, 500, 3): a pink square on glass, at another place for every k."""
    pixels = np.random.default_rng(k).normal(240, 3, (400, 500, 3))
    pixels[10 + k : 310 + k, 50:450] -= (35, 100, 60)
    return pixels.round().astype(np.uint8)


@pytest.fixture
def few(tmp_path: Path, write_slide: WriteSlide) -> Path:
    """Three small slides, to be changed."""
    root = tmp_path / "few"
    root.mkdir()
    for k, name in enumerate("abc"):
        write_slide(root / f"{name}.tif", stained(k), 0.5)
    return root


def rejections(out: Path) -> list[dict[str, str]]:
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_slides_become_a_cohort(indexed: IndexResult) -> None:
    assert str(indexed).splitlines()[-1] == "indexed 4, rejected 2" and indexed.changes is None
    cohort = Cohort.open(indexed.folder)
    assert [record.name for record in cohort] == ["Präparat 組織", "a", "b", "c"]
    record = cohort[1]
    assert record.patient == "P0" and record.extra == {"ward": "w0"} and record.mpp == pytest.approx(0.5)
    assert (record.width, record.height) == (1023, 771)
    assert record.tissue_mm2 == pytest.approx(0.3 * 0.25, rel=0.1)
    assert cohort.mask(1).shape == (25, 32)  # ceil(385.5 / 16), ceil(511.5 / 16)
    assert sorted(path.name for path in indexed.folder.iterdir()) == [
        "cohort.parquet", "contact_sheet.png", "masks.npy", "rejected.csv", "work",
    ]  # fmt: skip
    assert not list(indexed.folder.rglob("*.tmp"))
    patch = Sampler(cohort, [1], 0, 64, 0.5).patch(0)
    with cohort.open_slide(1) as slide:
        assert slide.read_patch(patch.x, patch.y, patch.size, patch.mpp).shape == (64, 64, 3)


def test_rejected_slides_are_listed_with_reason_and_remedy(indexed: IndexResult) -> None:
    broken, mute = rejections(indexed.folder)
    assert broken["file"].endswith("broken.svs") and "cannot be read" in broken["reason"]
    assert broken["remedy"] == "replace or remove the file"
    assert mute["file"].endswith("mute.tif") and "states no resolution" in mute["reason"]
    assert mute["remedy"] == "give it with --mpp or the manifest's mpp column"
    assert all(value in str(indexed) for row in (broken, mute) for value in row.values())


def test_contact_sheet_shows_every_slide(indexed: IndexResult) -> None:
    with Image.open(indexed.folder / "contact_sheet.png") as sheet:
        assert sheet.width > 4 * 420 and sheet.height > 420
        line = (np.asarray(sheet.convert("RGB")) == (0, 122, 94)).all(axis=-1)
    assert line.sum() > 4 * 1000  # the outline of four masks


def test_the_same_cohort_from_processes(folder: Path, manifest: Path, indexed: IndexResult, tmp_path: Path) -> None:
    index(str(folder), str(tmp_path / "two"), str(manifest), workers=2)
    for name in ("masks.npy", "cohort.parquet", "rejected.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (indexed.folder / name).read_bytes()


def test_mpp_is_for_slides_that_state_none(few: Path, write_slide: WriteSlide) -> None:
    write_slide(few / "mute.tif", stained(), None)
    result = index(str(few), str(few.parent / "out"), mpp=0.25, workers=0)
    assert result.indexed == 4
    found = {record.name: (record.mpp, record.mpp_source) for record in Cohort.open(few.parent / "out")}
    assert found["mute"] == (0.25, "given") and found["a"] == (pytest.approx(0.5), "file")


class TestSecondRun:
    def test_scans_only_what_is_new_or_changed(self, few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scanned: list[str] = []

        def noting(jobs, function, workers):  # type: ignore[no-untyped-def]
            scanned[:] = sorted(job.entry.name for job in jobs)
            return run(jobs, function, workers)

        monkeypatch.setattr(module, "run", noting)
        (few / "broken.svs").write_bytes(b"nothing")
        out = str(few.parent / "out")
        index(str(few), out, workers=0)
        assert scanned == ["a", "b", "broken", "c"]
        index(str(few), out, workers=0)
        assert scanned == ["broken"]  # a rejected one is tried again: its reason may be gone
        os.utime(few / "c.tif", ns=(1, 1))
        index(str(few), out, workers=0)
        assert scanned == ["broken", "c"]

    def test_tells_what_changed(self, few: Path, write_slide: WriteSlide) -> None:
        out = few.parent / "out"
        assert index(str(few), str(out), workers=0).changes is None
        (few / "a.tif").unlink()
        write_slide(few / "b.tif", stained(7), 0.5)
        write_slide(few / "d.tif", stained(8), 0.5)
        result = index(str(few), str(out), workers=0)
        assert result.changes == Changes(1, 1, 1, (str((few / "a.tif").resolve()),))
        assert str(result).splitlines() == [
            f"vanished {(few / 'a.tif').resolve()}",
            "1 new, 1 changed, 1 unchanged, 1 vanished, which the cohort no longer holds",
            f"cohort in {out}; look at contact_sheet.png before using it",
            "indexed 3, rejected 0",
        ]
        assert Cohort.open(out).column("name") == ["b", "c", "d"]
        assert index(str(few), str(out), workers=0).changes == Changes(0, 0, 3, ())

    def test_a_touched_file_or_another_mpp(self, few: Path) -> None:
        out = str(few.parent / "out")
        index(str(few), out, workers=0)
        os.utime(few / "a.tif", ns=(1, 1))  # scanned again, but the same
        assert index(str(few), out, workers=0).changes == Changes(0, 0, 3, ())
        manifest = few.parent / "m.csv"
        manifest.write_text("slide,mpp\nb,0.25\n")
        assert index(str(few), out, str(manifest), workers=0).changes == Changes(0, 1, 2, ())

    def test_a_slide_that_became_unreadable_is_rejected_not_vanished(self, few: Path) -> None:
        out = str(few.parent / "out")
        index(str(few), out, workers=0)
        (few / "a.tif").write_bytes(b"nothing")
        result = index(str(few), out, workers=0)
        assert result.changes == Changes(0, 0, 2, ()) and result.indexed == 2 and len(result.rejected) == 1

    def test_of_many_vanished_ten_are_named(self) -> None:
        before = {f"/s/{k:02d}": ("f", 0.5, 1.0) for k in range(14)}
        lines = str(compare(before, {"/s/00": ("f", 0.5, 1.0)}, {"/s/01"})).splitlines()
        assert lines[:10] == [f"vanished /s/{k:02d}" for k in range(2, 12)] and lines[10] == "    and 2 more"
        assert lines[11] == "0 new, 0 changed, 1 unchanged, 12 vanished, which the cohort no longer holds"

    def test_only_superseded_results_are_removed(self, few: Path) -> None:
        out = few.parent / "out"
        index(str(few), str(out), workers=0)
        first = set((out / "work").rglob("*.npz"))
        os.utime(few / "a.tif", ns=(1, 1))
        (few / "b.tif").rename(few.parent / "b.tif")
        half = next(iter(first)).with_suffix(".77.tmp")
        half.write_bytes(b"")
        index(str(few), str(out), workers=0)
        second = set((out / "work").rglob("*.npz"))
        assert len(second) == 3 and len(second - first) == 1 and not half.exists()
        (few.parent / "b.tif").rename(few / "b.tif")  # as when a disk is mounted again
        index(str(few), str(out), workers=0)
        assert set((out / "work").rglob("*.npz")) == second

    def test_a_result_cut_short_by_a_power_failure_is_made_again(self, few: Path) -> None:
        out = few.parent / "out"
        index(str(few), str(out), workers=0)
        masks = (out / "masks.npy").read_bytes()
        whole, cut, _ = sorted((out / "work").rglob("*.npz"))
        whole.write_bytes(b"")
        cut.write_bytes(cut.read_bytes()[:900])
        assert index(str(few), str(out), workers=0).indexed == 3
        assert (out / "masks.npy").read_bytes() == masks


class TestTwoAtOnce:
    def test_a_second_run_on_the_same_folder_is_refused(self, few: Path) -> None:
        out = few.parent / "out"
        program = (
            "import sys, time; from pathlib import Path; from g2l.slides.indexing.work import claimed\n"
            f"with claimed(Path({str(out)!r})): print('held', flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(CohortError, match=r"another g2l index is working in .*; wait until"):
                index(str(few), str(out), workers=0)
            other.kill()
        assert index(str(few), str(out), workers=0).indexed == 3  # a killed run leaves no lock

    def test_where_nothing_can_be_locked_it_goes_on_with_a_warning(
        self, few: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with pytest.warns(UserWarning, match="cannot be locked .*No locks available"):
            assert index(str(few), str(few.parent / "out"), workers=0).indexed == 3


def test_progress_ends_in_one_line(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index(str(few), str(few.parent / "out"), workers=0)
    shown = capsys.readouterr()
    assert not shown.out and "index: 3/3 " in shown.err
    assert re.search(r"^index: 3 slides in [\d.]+ s, [\d.]+ slides/s$", shown.err.splitlines()[-1])
    index(str(few), str(few.parent / "out"), workers=0)
    assert not capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_and_started_again_it_ends_as_if_uninterrupted(tmp_path: Path, write_slide: WriteSlide) -> None:
    root = tmp_path / "slides"
    root.mkdir()
    for k in range(6):
        write_slide(root / f"s{k}.tif", stained(k), 0.5)
    program = (
        "import time; from g2l.slides import index as module; real = module.scan; done = []\n"
        "def scan(job):\n"
        "    real(job); done.append(job)\n"
        "    if len(done) == 3: print('half', flush=True); time.sleep(60)\n"
        f"module.scan = scan; module.index({str(root)!r}, {str(tmp_path / 'out')!r}, workers=0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        assert running.stdout is not None and running.stdout.readline() == b"half\n"
        running.send_signal(signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "work").rglob("*.npz")}
    assert len(kept) == 3
    index(str(root), str(tmp_path / "out"), workers=0)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    index(str(root), str(tmp_path / "whole"), workers=0)
    for name in ("masks.npy", "cohort.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


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

    def test_workers_and_scheduler_exclude_each_other(self, folder: Path, tmp_path: Path) -> None:
        text = self.message(str(folder), str(tmp_path / "out"), scheduler="tcp://127.0.0.1:1")
        assert "--workers is for this machine and --scheduler for a cluster" in text

    def test_a_full_disk_is_an_error_of_its_own(self, few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module, "draw_sheet", full)
        assert "No space left on device); free the disk" in self.message(str(few), str(few.parent / "out"))

    def test_unusable_outline_rejects_its_slide(self, folder: Path, tmp_path: Path) -> None:
        slides = folder
        (tmp_path / "empty.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
        (tmp_path / "off.geojson").write_text(
            json.dumps({"type": "Polygon", "coordinates": [[[9e3, 9e3], [9.9e3, 9e3], [9e3, 9.9e3], [9e3, 9e3]]]})
        )
        (tmp_path / "bad.geojson").write_text("{")
        (tmp_path / "flat.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [[[1, 2], "x"]]}))
        named = {"a.tif": "empty", "c.tif": "off", "deep/b.tif": "bad", "Präparat 組織.tif": "flat", "mute.tif": "off"}
        rows = [f"{slides / slide},{outline}.geojson" for slide, outline in named.items()]
        listing = tmp_path / "list.csv"
        listing.write_text("\n".join(["slide,tissue", *rows]) + "\n", encoding="utf-8")
        assert "every slide was rejected" in self.message(str(listing), str(tmp_path / "out"))
        reasons = {Path(row["file"]).stem: row["reason"] for row in rejections(tmp_path / "out")}
        assert "no Polygon" in reasons["a"] and "no tissue was found" in reasons["c"]
        assert "JSONDecodeError" in reasons["b"] and "no list of [x, y]" in reasons["Präparat 組織"]


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
