"""One folder of everything that can be wrong with a slide file: each has its row, and the run goes on."""

import csv
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from g2l.slides import index as module
from g2l.slides.cohort import Cohort
from g2l.slides.index import IndexResult, index
from g2l.slides.sampling import Sampler

WriteSlide = Callable[..., Path]


def tissue(height: int = 600, width: int = 700) -> NDArray[np.uint8]:
    """(height, width, 3): a pink, grainy square on glass."""
    pixels = np.random.default_rng(0).normal(240, 3, (height, width, 3))
    pixels[40:-40, 50:-50] -= np.random.default_rng(1).normal((35, 100, 60), 12, (height - 80, width - 100, 3))
    return pixels.round().clip(0, 255).astype(np.uint8)


def tiles(path: Path) -> list[tuple[int, int]]:
    """Offset and length of every tile of the first level."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


def write_over(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_slide: WriteSlide) -> Path:
    """The folder, which is not to be changed; a FIFO in it must not be waited for."""
    root = tmp_path_factory.mktemp("bad") / "slides"
    root.mkdir()
    good = write_slide(root / "good.tif", tissue(), 0.5, compression="jpeg")
    whole = good.read_bytes()
    (root / "Schnitt 1 (ü, 組織) #2.tif").write_bytes(whole)
    (root / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (root / "head only.tif").write_bytes(whole[:8])
    (root / "stub.tif").write_bytes(whole[:6])
    (root / "empty.svs").write_bytes(b"")
    (root / "text.ndpi").write_text("no slide")
    noise = np.random.default_rng(0).bytes(4000)
    offset, length = tiles(good)[7]
    write_over(write_slide(root / "garbage.tif", tissue(), 0.5, compression="jpeg"), offset, noise[:length])
    write_over(write_slide(root / "bent.tif", tissue(), 0.5, compression="jpeg"), offset + length // 2, noise[:40])
    tifffile.imwrite(
        root / "colours.tif", tissue(), tile=(128, 128), photometric="ycbcr", compression="jpeg", metadata=None,
        resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with tifffile.TiffFile(root / "colours.tif", mode="r+") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(2)  # the tiles are YCbCr
    write_slide(root / "coarse.tif", tissue(), 10.0)
    write_slide(root / "fine.tif", tissue(), 0.02)
    write_slide(root / "mute.tif", tissue(), None)
    write_slide(root / "glass.tif", np.full((600, 700, 3), 240, np.uint8), 0.5)
    write_slide(root / "tiny.tif", tissue()[100:250, 100:250], 0.5)
    (root / "dead link.svs").symlink_to(root / "nowhere.svs")
    (root / "circle.svs").symlink_to(root / "circle.svs")
    (root / "up").symlink_to(root)
    (root / "folder.svs").mkdir()
    os.mkfifo(root / "pipe.svs")
    os.mkfifo(root / "hose.dcm")
    (root / "one.dcm").write_bytes(b"DICM")
    (root / "two.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x10\x00U\x7f\x00\x00")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # the path of a socket may have 108 bytes
        server.bind("socket.svs")
        os.chdir(here)
    return root


@pytest.fixture(scope="module")
def result(folder: Path) -> IndexResult:
    return index(str(folder), str(folder.parent / "out"), workers=0)


def rejections(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return {Path(row["file"]).name: (row["reason"], row["remedy"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("head only.tif", "cannot be read"),
        ("stub.tif", "cannot be read"),
        ("empty.svs", "cannot be read"),
        ("text.ndpi", "cannot be read"),
        ("one.dcm", "cannot be read"),
        ("two.dcm", "cannot be read"),
        ("garbage.tif", "is damaged at pixel"),
        ("coarse.tif", "states 10 um/px, outside 0.1-4"),
        ("fine.tif", "states 0.02 um/px, outside 0.1-4"),
        ("mute.tif", "states no resolution"),
        ("glass.tif", "no tissue was found on it"),
        ("dead link.svs", "does not exist or is not a file"),
        ("circle.svs", "does not exist or is not a file"),
        ("pipe.svs", "does not exist or is not a file"),
        ("hose.dcm", "does not exist or is not a file"),
        ("socket.svs", "does not exist or is not a file"),
    ],
)
def test_each_has_its_row(result: IndexResult, name: str, reason: str) -> None:
    found, remedy = rejections(result.folder)[name]
    assert reason in found and remedy and "\n" not in found
    assert f"    {found}\n    remedy: {remedy}" in str(result)


def test_the_others_are_indexed(result: IndexResult) -> None:
    found = set(Cohort.open(result.folder).column("name"))
    assert {"good", "Schnitt 1 (ü, 組織) #2", "tiny", "colours"} <= found
    # A damaged tile that still decodes, and a file cut off behind its first level, may pass or not.
    assert found <= {"good", "Schnitt 1 (ü, 組織) #2", "tiny", "colours", "bent", "cut"}
    assert len(found) == result.indexed
    assert str(result).splitlines()[-1] == f"indexed {result.indexed}, rejected {23 - result.indexed - 1}"


def test_a_slide_smaller_than_a_patch_is_indexed_and_sampling_warns(result: IndexResult) -> None:
    cohort = Cohort.open(result.folder)
    tiny, good = (cohort.column("name").index(name) for name in ("tiny", "good"))
    with pytest.warns(UserWarning, match="tiny"):
        sampler = Sampler(cohort, [tiny, good], 0, 224, 0.5)
    assert {sampler.patch(i).slide for i in range(20)} == {good}


def test_a_csv_may_list_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    named = ("good.tif", "absent.tif", "folder.svs", "pipe.svs")
    listing.write_text("slide\n" + "".join(f"{folder / name}\n" for name in named))
    assert index(str(listing), str(tmp_path / "out"), workers=0).indexed == 1
    found = rejections(tmp_path / "out")
    assert set(found) == set(named[1:])
    assert all(reason == "does not exist or is not a file" for reason, _ in found.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(folder: Path, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes((folder / "good.tif").read_bytes())
    (tmp_path / "b.tif").chmod(0)
    assert index(str(tmp_path), str(tmp_path / "out"), workers=0).indexed == 1
    assert "cannot be read" in rejections(tmp_path / "out")["b.tif"][0]


class TestDuringTheRun:
    @pytest.fixture
    def three(self, folder: Path, tmp_path: Path) -> Path:
        (tmp_path / "slides").mkdir()
        for name in "abc":
            (tmp_path / "slides" / f"{name}.tif").write_bytes((folder / "good.tif").read_bytes())
        return tmp_path / "slides"

    @staticmethod
    def before_second(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
        """Do something to b.tif just before it is scanned."""
        real = module.scan

        def scan(job: module.Job) -> None:
            if job.entry.name == "b":
                act(job.entry.path)
            real(job)

        monkeypatch.setattr(module, "scan", scan)

    def test_a_file_is_deleted(self, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before_second(monkeypatch, Path.unlink)
        assert index(str(three), str(three.parent / "out"), workers=0).indexed == 2
        reason, remedy = rejections(three.parent / "out")["b.tif"]
        assert "does not exist" in reason and remedy

    def test_a_file_changes(self, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before_second(monkeypatch, lambda path: os.utime(path, ns=(1, 1)))
        assert index(str(three), str(three.parent / "out"), workers=0).indexed == 2
        assert "changed while it was being read" in rejections(three.parent / "out")["b.tif"][0]
        assert index(str(three), str(three.parent / "out"), workers=0).indexed == 3

    def test_the_outline_is_deleted(self, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        corners = [[100, 100], [500, 100], [500, 500], [100, 500], [100, 100]]
        outline = three.parent / "outline.geojson"
        outline.write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
        manifest = three.parent / "manifest.csv"
        manifest.write_text("slide,tissue\nb,outline.geojson\n")
        self.before_second(monkeypatch, lambda _: outline.unlink())
        assert index(str(three), str(three.parent / "out"), str(manifest), workers=0).indexed == 2
        assert "outline.geojson" in rejections(three.parent / "out")["b.tif"][0]
