"""A list of one's own: what its columns mean, and one clear line for each thing that can be wrong with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from g2l.errors import CohortError
from g2l.evaluation.tables.listing import Listing
from g2l.evaluation.tables.splits import PATIENTS, make_split

HEAD = "path,label,patient,slide,centre,split,time,note\n"
ROWS = [
    "a/1.png,x,p1,s1,north,train,12.5,first",
    "a/2.png,y,p2,s2,south,Valid,,second",
    "b/ü 3.png,x,p3,s3,,testing,7,",
]


def files(folder: Path, lines: list[str] | None = None, head: str = HEAD, name: str = "list.csv") -> Path:
    """The list, and empty files of every path in it."""
    lines = ROWS if lines is None else lines
    for line in lines:
        file = folder / line.split(",")[0]
        if not file.is_dir():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    (folder / name).write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def test_columns_become_a_table(tmp_path: Path) -> None:
    table = Listing(str(files(tmp_path)), homepage="https://example.org", mpp=0.5).read()
    assert table.ids.tolist() == ["a/1.png", "a/2.png", "b/ü 3.png"] and table.name == "list"
    assert table.paths[2] == str(tmp_path / "b/ü 3.png") and table.rows.tolist() == [-1, -1, -1]
    assert table.labels.tolist() == ["x", "y", "x"] and table.centres.tolist() == ["north", "south", ""]
    assert table.splits.tolist() == ["train", "val", "test"] and table.mpp == 0.5
    assert table.origin == {"homepage": "https://example.org"}
    assert np.array_equal(table.extra["time"], [12.5, np.nan, 7], equal_nan=True)
    assert table.extra["note"].tolist() == ["first", "second", ""]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_a_byte_order_mark_are_read(tmp_path: Path, delimiter: str) -> None:
    file = files(tmp_path)
    file.write_text("\ufeff" + file.read_text(encoding="utf-8").replace(",", delimiter), encoding="utf-8")
    assert Listing(str(file)).read().patients.tolist() == ["p1", "p2", "p3"]


def test_parquet_equals_csv(tmp_path: Path) -> None:
    expected = Listing(str(files(tmp_path))).read()
    columns = {name: [row.split(",")[k] for row in ROWS] for k, name in enumerate(HEAD.strip().split(","))}
    columns |= {"time": [12.5, None, 7.0], "centre": ["north", "south", None]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    found = Listing(str(tmp_path / "list.parquet")).read()
    for name in ("ids", "labels", "patients", "slides", "centres", "splits"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert np.array_equal(found.extra["time"], expected.extra["time"], equal_nan=True)


def test_columns_can_have_other_names_and_files_another_root(tmp_path: Path) -> None:
    head = HEAD.replace("label", "diagnosis").replace("patient", "case")
    files(tmp_path / "images")
    (tmp_path / "other.csv").write_text(head + "\n".join(ROWS), encoding="utf-8")
    table = Listing(
        str(tmp_path / "other.csv"), root=str(tmp_path / "images"), columns={"label": "diagnosis", "patient": "case"}
    ).read()
    assert table.labels.tolist() == ["x", "y", "x"] and table.patients.tolist() == ["p1", "p2", "p3"]


def test_rows_of_stacks_are_told_apart(tmp_path: Path) -> None:
    file = files(tmp_path, ["x.npy,a,0", "x.npy,b,1"], "path,label,row\n")
    table = Listing(str(file), independent=True).read()
    assert table.ids.tolist() == ["x.npy#0", "x.npy#1"] and table.rows.tolist() == [0, 1]


def test_survival_needs_no_label(tmp_path: Path) -> None:
    file = files(tmp_path, ["1.svs,p1,3,1", "2.svs,p2,4,0"], "path,patient,time,event\n")
    assert Listing(str(file), label=False).read().extra["event"].tolist() == [1, 0]
    with pytest.raises(
        CohortError, match=r"list .*list.csv has no column label \(it has: path, patient, time, event\)"
    ):
        Listing(str(file)).read()


def test_a_statement_of_the_patients_goes_to_the_split(tmp_path: Path) -> None:
    file = files(tmp_path, ["1.png,a,train", "2.png,b,train", "3.png,a,test"], "path,label,split\n")
    table = Listing(str(file), patients_unknown="the publisher says so").read()
    assert table.origin[PATIENTS] == "the publisher says so"
    assert "the publisher says so" in make_split(table, ("train", "test")).notes[0]


@pytest.mark.parametrize(
    ("lines", "head", "settings", "message"),
    [
        (["1.png,a", "1.png,b"], "path,label\n", {}, r"1 paths occur more than once \(1.png\)"),
        ([",a", "1.png,b"], "path,label\n", {}, r"1 lines have no path \(lines 2\)"),
        ([], "path,label\n", {}, "has no rows"),
        (["1.png,a"], "path,path\n", {}, "two columns of one name"),
        (["1.png,a,b"], "path,label\n", {}, "lines 2 have not 2 values"),
        (["1.png,a,x"], "path,label,row\n", {}, "row must hold whole numbers"),
        (["1.png,a"], "path,label\n", {"columns": {"patient": "case"}}, "has no column case"),
        (["1.png,a"], "path,label\n", {"columns": {"pathology": "x"}}, "`columns` names pathology, but only path"),
        (['1.png,"a'], "path,label\n", {}, "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, lines: list[str], head: str, settings: dict[str, Any], message: str
) -> None:
    file = files(tmp_path, lines, head)
    with pytest.raises(CohortError, match=message) as error:
        Listing(str(file), **settings).read()
    assert "\n" not in str(error.value)


def test_missing_files_are_counted_and_five_named(tmp_path: Path) -> None:
    file = files(tmp_path, [f"{k}.png,a" for k in range(9)], "path,label\n")
    for k in range(7):
        (tmp_path / f"{k}.png").unlink()
    with pytest.raises(CohortError, match=r"7 of 9 files are missing \(.*0.png, .*4.png, \.\.\.\)"):
        Listing(str(file)).read()


def test_a_list_that_is_not_there_or_no_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"none.csv does not exist \(below .*correct its path"):
        Listing(str(tmp_path / "none.csv")).read()
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(CohortError, match=r"bad.parquet cannot be read .*give a CSV in UTF-8, or Parquet"):
        Listing(str(tmp_path / "bad.parquet")).read()
    (tmp_path / "latin.csv").write_bytes("path,label\nm\xfc.png,a\n".encode("latin-1"))
    with pytest.raises(CohortError, match=r"latin.csv cannot be read"):
        Listing(str(tmp_path / "latin.csv")).read()


@pytest.mark.real_data
def test_the_real_patches_are_read(real_data: Path) -> None:
    table = Listing(str(real_data / "patches" / "patches.csv"), columns={"patient": "group"}).read()
    assert len(table) == 2960 and len(np.unique(table.patients)) == 150
    split = make_split(table)
    assert set(table.labels[split.test]) == {"lung_aca", "lung_n", "lung_scc"}
