"""What is indexed and what the CSV says about it; everything wrong with it at once, in one line."""

import os
from pathlib import Path

import pytest

from g2l.errors import CohortError
from g2l.slides.indexing.manifest import Entry, entries

RESERVED = ("name", "path", "mpp", "width")


def read(folder: Path, text: str, encoding: str = "utf-8") -> list[Entry]:
    path = folder.parent / "manifest.csv"
    path.write_text(text, encoding=encoding)
    found, rejected = entries(folder, path, RESERVED)
    assert not rejected
    return found


def problem(folder: Path, text: str) -> str:
    (folder.parent / "manifest.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CohortError) as caught:
        entries(folder, folder.parent / "manifest.csv", RESERVED)
    assert "\n" not in str(caught.value) and "manifest.csv" in str(caught.value)
    return str(caught.value)


class TestEntries:
    def test_without_a_manifest(self, folder: Path) -> None:
        assert [entry.name for entry in entries(folder, None, RESERVED)[0]] == ["a", "b", "ü"]

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
        found, _ = entries(path, None, RESERVED)
        assert [(entry.name, entry.given["label"]) for entry in found] == [("a", "x"), ("b", "y")]
        with pytest.raises(CohortError, match="give all columns in one of them"):
            entries(path, path, RESERVED)

    def test_files_are_relative_to_the_manifest(self, folder: Path) -> None:
        (folder.parent / "map.png").write_bytes(b"")
        (entry, *_) = read(folder, "slide,regions\na,map.png\n")
        assert entry.given["regions"] == str(folder.parent / "map.png")

    def test_every_slide_has_every_column(self, folder: Path) -> None:
        found = read(folder, "slide,ward\na,w1\n")
        assert [entry.given["ward"] for entry in found] == ["w1", None, None]
        assert len({tuple(entry.given) for entry in found}) == 1

    def test_quoted_values_hold_separators_and_line_breaks(self, folder: Path) -> None:
        text = 'slide,label,ward\n"a","one, two\nthree",x\n\nb,"\u2028",y\n'
        found = {entry.name: entry.given for entry in read(folder, text)}
        assert found["a"]["label"] == "one, two\nthree" and found["a"]["ward"] == "x"
        assert found["b"]["ward"] == "y"

    def test_empty_cells_at_the_end_are_nothing(self, folder: Path) -> None:
        found = read(folder, "slide,label,,\na,x,,\nb,y\n")
        assert [entry.given["label"] for entry in found] == ["x", "y", None] and "" not in found[0].given

    def test_rows_without_their_slide_are_rejected_and_the_others_indexed(self, folder: Path) -> None:
        path = folder.parent / "manifest.csv"
        path.write_text("slide,ward\na,x\nabsent,y\ndeep/gone.svs,z\n")
        found, rejected = entries(folder, path, RESERVED)
        assert [entry.name for entry in found] == ["a", "b", "ü"]
        assert [one.file for one in rejected] == ["absent", "deep/gone.svs"]
        assert rejected[0].reason == "line 3 of manifest.csv names it, but it is not among the slides"

    def test_a_csv_in_place_of_the_folder_may_name_what_is_not_there(self, folder: Path) -> None:
        path = folder.parent / "list.csv"
        path.write_text("slide\nslides/a.svs\nslides/absent.svs\n")
        found, rejected = entries(path, None, RESERVED)  # opening it will say what is wrong
        assert [entry.path for entry in found] == [folder / "a.svs", folder / "absent.svs"] and not rejected

    def test_a_hundred_rows_ask_the_disk_a_few_times_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a network mount every question costs a millisecond, and there may be 100,000 rows."""
        (tmp_path / "slides").mkdir()
        for k in range(100):
            (tmp_path / "slides" / f"s{k}.svs").write_bytes(b"")
        path = tmp_path / "list.csv"
        path.write_text("slide\n" + "".join(f"slides/s{k}.svs\n" for k in range(100)))
        asked: list[object] = []
        for name in ("stat", "lstat"):
            original = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, _ask=original, **b: (asked.append(a), _ask(*a, **b))[1])
        entries(path, None, RESERVED)
        assert 100 <= len(asked) <= 150


class TestErrors:
    def test_all_problems_at_once(self, folder: Path) -> None:
        text = problem(
            folder,
            "slide,patient,split,mpp,regions\na,P,train,0.5,\na.svs,P,train,,\nb,P,val,wide,gone.png\nü,R,later,,\n",
        )
        assert "line 3: 'a.svs' is a second row for" in text
        assert "line 4: regions 'gone.png' does not exist" in text
        assert "line 4: mpp 'wide' is no number" in text
        assert "line 5: split 'later' is none of train, val, test" in text
        assert "patient P (train and val) is in more than one part of the split" in text

    def test_a_manifest_of_other_slides(self, folder: Path) -> None:
        text = problem(folder, "slide\n" + "".join(f"x{k}\n" for k in range(20)))
        assert "line 2: 'x0' is not among the slides" in text and "and 12 more" in text

    def test_one_file_under_two_names(self, folder: Path) -> None:
        (folder / "other.svs").symlink_to(folder / "a.svs")
        path = folder.parent / "list.csv"
        path.write_text("slide\nslides/a.svs\nslides/other.svs\n")
        with pytest.raises(CohortError, match="one file under several names"):
            entries(path, None, RESERVED)
        path.write_text("slide\nslides/a.svs\nslides/./a.svs\n")
        with pytest.raises(CohortError, match=r"line 3: 'slides/\./a.svs' is a second row"):
            entries(path, None, RESERVED)

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
        assert "line 3 has 3 values for 2 columns" in problem(folder, "slide,ward\na,x\nb,one, two\n")
        assert "two columns of one name" in problem(folder, "slide,ward,ward\na,1,2\n")

    def test_unreadable_tables(self, folder: Path) -> None:
        (folder.parent / "latin.csv").write_bytes("slide\nä\n".encode("latin-1"))
        for name in ("latin.csv", "absent.csv", "slides"):
            with pytest.raises(CohortError, match=rf"manifest .*{name} cannot be read"):
                entries(folder, folder.parent / name, RESERVED)
