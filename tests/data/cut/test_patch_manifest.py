"""A manifest speaks of patches by path and of slides by name, and everything wrong with it is said at once."""

from pathlib import Path

import pytest
from layouts import write_hdf5, write_images

from g2l.data.folders import PatchFiles, open_patches
from g2l.errors import CohortError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """tmp/cut/{a,b}/{s1,s 2,süß}/{0..3}.jpg: even numbers in a, odd ones in b."""
    write_images(tmp_path / "cut")
    return tmp_path / "cut"


def opened(folder: Path, text: str, place: Path | None = None) -> PatchFiles:
    """The patches of `folder` with a manifest of this text."""
    manifest = (place or folder) / "m.csv"
    manifest.write_bytes(text.encode())
    return open_patches(folder, manifest)


def said(patches: PatchFiles, column: str) -> dict[str, str]:
    values = zip(patches.column("path"), patches.column(column), strict=True)
    return {str(path): value for path, value in values if value is not None}


@pytest.mark.parametrize("key", ["path", "file", "slide", "name"])
def test_rows_name_patches(folder: Path, key: str) -> None:
    patches = opened(folder, f"{key},patient,scanner\na/s1/0.jpg,P,x\nb/süß/3.jpg,,y\n")
    assert said(patches, "patient") == {"a/s1/0.jpg": "P"}
    assert said(patches, "scanner") == {"a/s1/0.jpg": "x", "b/süß/3.jpg": "y"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_write_csv_in_many_ways(folder: Path, delimiter: str) -> None:
    rows = [["path", "label"], ['"b/s 2/1.jpg"', f'"one{delimiter} two"'], [" a/s1/0.jpg ", " z "], []]
    text = "\ufeff" + "".join(delimiter.join(row) + "\r\n" for row in rows)
    assert said(opened(folder, text), "label") == {"b/s 2/1.jpg": f"one{delimiter} two", "a/s1/0.jpg": "z"}


def test_paths_may_be_absolute_roundabout_or_beside_the_manifest(folder: Path) -> None:
    text = f"path,label\n{folder}/a/s1/0.jpg,1\n./a/../b/s1/1.jpg,2\ncut/a/s1/2.jpg,3\n"
    assert said(opened(folder, text, folder.parent), "label") == {
        "a/s1/0.jpg": "1", "b/s1/1.jpg": "2", "a/s1/2.jpg": "3",
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["", ".svs", ".h5"])
def test_rows_name_slides(tmp_path: Path, suffix: str) -> None:
    write_hdf5(tmp_path, "plain")
    patches = opened(tmp_path, f"slide,patient\ns1{suffix},P\nsüß{suffix},Q\n")
    told = said(patches, "patient")
    assert {name.split("/")[1]: value for name, value in told.items()} == {"s1.h5": "P", "süß.h5": "Q"}
    assert len(told) == 8


def test_what_is_said_of_a_patch_goes_before_its_slide(folder: Path) -> None:
    patches = opened(folder, "path,label\na/s1/0.jpg,own\ns1,slide\n")
    assert said(patches, "label") == {
        "a/s1/0.jpg": "own", "a/s1/2.jpg": "slide", "b/s1/1.jpg": "slide", "b/s1/3.jpg": "slide",
    }  # fmt: skip


def test_a_slide_column_replaces_the_folder(folder: Path) -> None:
    patches = opened(folder, "path,slide\na/s1/0.jpg,other\n")
    assert sorted(patches.names) == ["other", "s 2", "s1", "süß"]
    assert said(patches, "slide")["a/s1/0.jpg"] == "other" and said(patches, "slide")["a/s1/2.jpg"] == "s1"


def test_everything_wrong_is_said_at_once(folder: Path) -> None:
    text = (
        "path,split,mpp\n../secret.jpg,,\n/elsewhere/s1,,\na/s1/9.jpg,,\na/s1/0.jpg,vla,\na/s1/0.jpg,,half\n"
        "s1,,0.5\ns1,,400\n,,\n"
    )
    with pytest.raises(CohortError) as caught:
        opened(folder, text)
    lines = str(caught.value).split("; ")
    assert [line for line in lines if "outside" in line] == [
        f"manifest {folder / 'm.csv'}: line 2: '../secret.jpg' lies outside {folder}",
        f"line 3: '/elsewhere/s1' lies outside {folder}",
    ]
    assert "line 4: 'a/s1/9.jpg' is no patch and no slide of this folder" in lines
    assert "split 'vla' is none of train, val, test" in lines
    assert "mpp 'half' is no number of um/px in 0.1-4" in lines and "mpp '400' is no number of um/px in 0.1-4" in lines
    assert "and 1 more" in lines and lines[-1] == "correct it and run again"


def test_a_patch_or_slide_is_spoken_of_once(folder: Path) -> None:
    with pytest.raises(CohortError, match=r"line 3: a second row for a/s1/0.jpg; correct it"):
        opened(folder, "path,label\na/s1/0.jpg,1\n./a/s1/0.jpg,2\n")
    with pytest.raises(CohortError, match=r"line 3: a second row for s1; correct it"):
        opened(folder, "path,label\ns1,1\ns1.svs,2\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Empty CSV"),
        ("image,label\na,1\n", r"no column path, file, slide, name \(it has: image, label\); add one"),
        ("path,label\n", "has no rows"),
        ("path,label,label\na,1,1\n", "two columns of one name"),
        ("path,label\na,1,1\n", "cannot be read"),
    ],
)
def test_tables_that_are_no_manifest(folder: Path, text: str, message: str) -> None:
    with pytest.raises(CohortError, match=message):
        opened(folder, text)


def test_files_that_are_no_manifest(folder: Path) -> None:
    (folder / "m.csv").write_bytes("path,label\nü,1\n".encode("latin-1"))
    for path in (folder / "m.csv", folder / "nowhere.csv", folder):
        with pytest.raises(CohortError, match=r"cannot be read .*give a CSV in UTF-8"):
            open_patches(folder, path)
