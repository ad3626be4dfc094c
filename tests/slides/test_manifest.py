"""What is indexed and what the CSV says about it; everything wrong with it at once, in one line."""

from pathlib import Path

import pytest

from g2l.errors import CohortError
from g2l.slides.discover import discover
from g2l.slides.manifest import Entry, entries

RESERVED = ("name", "path", "mpp", "width")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """slides/a.svs, slides/deep/b.tif, slides/ü.ndpi, and things that are no slides."""
    root = tmp_path / "slides"
    (root / "deep" / ".cache").mkdir(parents=True)
    for name in ("a.svs", "deep/b.TIF", "ü.ndpi", "notes.txt", "._a.svs", "deep/.cache/c.svs", "a.png"):
        (root / name).write_bytes(b"")
    return root


def read(folder: Path, text: str, encoding: str = "utf-8") -> list[Entry]:
    path = folder.parent / "manifest.csv"
    path.write_text(text, encoding=encoding)
    return entries(folder, path, RESERVED)


def problem(folder: Path, text: str) -> str:
    with pytest.raises(CohortError) as caught:
        read(folder, text)
    assert "\n" not in str(caught.value) and "manifest.csv" in str(caught.value)
    return str(caught.value)


class TestDiscover:
    def test_finds_slides_of_all_suffixes_recursively(self, folder: Path) -> None:
        assert [path.name for path in discover(folder)] == ["a.svs", "b.TIF", "ü.ndpi"]
        assert discover(folder / "a.svs") == [folder / "a.svs"]

    def test_no_slides(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(CohortError, match=r"no slides found in .*empty .*check the folder"):
            discover(tmp_path / "empty")
        with pytest.raises(CohortError, match="does not exist"):
            discover(tmp_path / "absent")

    def test_a_dicom_series_is_one_slide(self, tmp_path: Path) -> None:
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
        assert [path.name for path in discover(tmp_path)] == ["broken.dcm", "other.dcm", "x0.dcm"]


class TestEntries:
    def test_without_a_manifest(self, folder: Path) -> None:
        assert [entry.name for entry in entries(folder, None, RESERVED)] == ["a", "b", "ü"]

    @pytest.mark.parametrize("named", ["deep/b.TIF", "slides/deep/b.TIF", "b.TIF", "b"])
    def test_a_row_names_a_slide_by_path_file_name_or_stem(self, folder: Path, named: str) -> None:
        found = {entry.name: entry for entry in read(folder, f"slide,patient,mpp\n{named},P7,0.5\n")}
        assert found["b"].given["patient"] == "P7" and found["b"].mpp == 0.5
        assert found["a"].given.get("patient") is None and found["a"].mpp is None

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_spreadsheets_csv_dialects(self, folder: Path, delimiter: str, encoding: str) -> None:
        text = "slide , patient,ward\nü.ndpi,Ü1,\n".replace(",", delimiter)
        (entry,) = [entry for entry in read(folder, text, encoding) if entry.name == "ü"]
        assert entry.given["patient"] == "Ü1" and entry.given["ward"] is None

    def test_a_csv_in_place_of_the_folder_lists_what_is_indexed(self, folder: Path) -> None:
        path = folder.parent / "list.csv"
        path.write_text(f"slide,label\nslides/a.svs,x\n{folder / 'deep' / 'b.TIF'},y\n")
        found = entries(path, None, RESERVED)
        assert [(entry.name, entry.given["label"]) for entry in found] == [("a", "x"), ("b", "y")]
        with pytest.raises(CohortError, match="give all columns in one of them"):
            entries(path, path, RESERVED)

    def test_files_are_relative_to_the_manifest(self, folder: Path) -> None:
        (folder.parent / "map.png").write_bytes(b"")
        (entry, *_) = read(folder, "slide,regions\na,map.png\n")
        assert entry.given["regions"] == str(folder.parent / "map.png")


class TestErrors:
    def test_all_problems_at_once(self, folder: Path) -> None:
        text = problem(
            folder,
            "slide,patient,split,mpp,regions\n"
            "a,P,train,0.5,\na.svs,P,train,,\nabsent,Q,val,,\nb,P,val,wide,gone.png\nü,R,later,,\n",
        )
        assert "line 3: 'a.svs' is a second row for" in text
        assert "line 4: 'absent' is not among the slides" in text
        assert "line 5: regions 'gone.png' does not exist" in text
        assert "line 5: mpp 'wide' is no number" in text
        assert "line 6: split 'later' is none of train, val, test" in text
        assert "patient P (train and val) is in more than one part of the split" in text

    def test_one_name_for_two_slides(self, folder: Path) -> None:
        (folder / "deep" / "a.tif").write_bytes(b"")
        assert "several slides are named a (" in problem(folder, "slide\nb\n")
        with pytest.raises(CohortError, match="several slides are named a"):
            entries(folder, None, RESERVED)

    def test_unusable_tables(self, folder: Path) -> None:
        assert "has no column slide (it has: file, mpp)" in problem(folder, "file,mpp\na,1\n")
        assert "has no column slide (it has: nothing)" in problem(folder, "")
        assert "has no rows" in problem(folder, "slide,mpp\n")
        assert "columns that the index computes: width" in problem(folder, "slide,width\na,1\n")
        assert "two columns of one name" in problem(folder, "slide,ward,ward\na,1,2\n")

    def test_unreadable_tables(self, folder: Path) -> None:
        (folder.parent / "latin.csv").write_bytes("slide\nä\n".encode("latin-1"))
        for name in ("latin.csv", "absent.csv", "slides"):
            with pytest.raises(CohortError, match=rf"manifest .*{name} cannot be read"):
                entries(folder, folder.parent / name, RESERVED)
