"""Which files are found: every file and every folder once, whatever links there are, and nothing is passed over."""

import os
import socket
from pathlib import Path

import pytest

from g2l.errors import CohortError
from g2l.slides.indexing.discover import RealPaths, discover


def names(folder: Path) -> list[str]:
    found, closed = discover(folder)
    assert not closed
    return [path.name for path in found]


def test_finds_slides_of_all_suffixes_recursively(folder: Path) -> None:
    assert names(folder) == ["a.svs", "b.TIF", "ü.ndpi"]
    assert discover(folder / "a.svs") == ([folder / "a.svs"], [])


def test_no_slides(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match=r"no slides found in .*empty .*check the folder"):
        discover(tmp_path / "empty")
    with pytest.raises(CohortError, match="does not exist"):
        discover(tmp_path / "absent")


def test_links_to_folders_are_followed_and_loops_end(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.svs").write_bytes(b"")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "linked again").symlink_to(elsewhere)
    (folder / "deep" / "up").symlink_to(folder)
    (elsewhere / "back").symlink_to(folder / "deep")
    assert sorted(names(folder / "linked")) == sorted(names(folder)) == ["a.svs", "b.TIF", "far.svs", "ü.ndpi"]


def test_a_link_to_a_file_bears_its_own_name_and_counts_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "annex").mkdir()
    (tmp_path / "annex" / "SHA256-abc").write_bytes(b"")
    (folder / "annexed.svs").symlink_to(tmp_path / "annex" / "SHA256-abc")
    (folder / "chosen").mkdir()
    (folder / "chosen" / "a.svs").symlink_to(folder / "a.svs")
    assert names(folder) == ["a.svs", "annexed.svs", "b.TIF", "ü.ndpi"]


def test_what_is_no_file_is_listed_so_that_it_is_rejected(folder: Path) -> None:
    (folder / "dead.svs").symlink_to(folder / "absent")
    (folder / "circle.svs").symlink_to(folder / "circle.svs")
    os.mkfifo(folder / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket may have 108 bytes
        server.bind("socket.svs")
        os.chdir(here)
    (folder / "one.dcm").write_bytes(b"nothing")
    (folder / "two.dcm").write_bytes(b"nothing")
    assert names(folder) == [
        "a.svs", "circle.svs", "dead.svs", "b.TIF", "one.dcm", "pipe.dcm", "socket.svs", "two.dcm", "ü.ndpi",
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(folder: Path) -> None:
    (folder / "deep").chmod(0)
    found, closed = discover(folder)
    (folder / "deep").chmod(0o755)
    assert [path.name for path in found] == ["a.svs", "ü.ndpi"]
    assert closed[0].file == str(folder / "deep") and "Permission denied" in closed[0].reason


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, where no mode keeps root out."""
    real = os.scandir

    def scandir(path: Path):  # type: ignore[no-untyped-def]
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found, (closed,) = discover(folder)
    assert [path.name for path in found] == ["a.svs", "ü.ndpi"]
    assert closed.file == str(folder / "deep")
    assert closed.reason == "this folder cannot be listed (Permission denied)" and closed.remedy


def test_a_dicom_series_is_one_slide(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    for name, series, kind, columns in [
        ("x1", "1.2.3", "VOLUME", 500), ("x0", "1.2.3", "VOLUME", 2000), ("label", "1.2.3", "LABEL", 9000),
        ("other", "1.2.4", "VOLUME", 100),
    ]:  # fmt: skip
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
        data.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{columns}"
        data.SeriesInstanceUID, data.ImageType = series, ["DERIVED", "PRIMARY", kind, "NONE"]
        data.TotalPixelMatrixColumns = columns
        data.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    (tmp_path / "broken.dcm").write_bytes(b"nothing")
    series = b"\x20\x00\x0e\x00"
    whole = (tmp_path / "other.dcm").read_bytes()
    assert series + b"UI" in whole
    (tmp_path / "odd.dcm").write_bytes(whole.replace(series + b"UI", series + b"U\x7f"))  # no such kind of value
    assert names(tmp_path) == ["broken.dcm", "odd.dcm", "other.dcm", "x0.dcm"]


def test_real_paths_are_those_of_the_system(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (folder / "circle").symlink_to(folder / "circle")
    real = RealPaths()
    for path in (
        tmp_path / "link" / "deep" / "b.TIF", tmp_path / "link", folder / "absent", tmp_path / "link" / "..",
        folder / "deep" / ".." / "a.svs", folder / "circle", folder / "circle" / "x",
    ):  # fmt: skip
        assert str(real(path)) == os.path.realpath(path)
    (folder / "dead.svs").symlink_to(tmp_path / "nowhere")
    assert real(tmp_path / "link" / "dead.svs") == folder / "dead.svs"
