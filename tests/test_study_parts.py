"""The study's patches and parts: no group in two, each tested once in six seeds, and mistakes told in one line."""

import csv
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from study_patches import write_patches

from g2l.errors import CohortError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of 39 groups."""
    return write_patches(tmp_path_factory.mktemp("patches"))


def test_groups_are_whole_and_each_is_tested_once_in_six_seeds(data: Path) -> None:
    from scaled.parts import BLOCKS, TEST, assign, read_patches

    table = read_patches(data)
    tested: list[str] = []
    for seed in range(6):
        parts = np.array(assign(table, seed))
        for group in np.unique(table.patients):
            assert len(set(parts[table.patients == group])) == 1
        assert set(parts) == set(BLOCKS)
        for part in BLOCKS:
            assert set(table.labels[parts == part]) == {"a", "b", "c"}
        tested += np.unique(table.patients[parts == TEST]).tolist()
    assert Counter(tested) == Counter(np.unique(table.patients).tolist())
    assert assign(table, 6) != assign(table, 0)  # dealt anew
    assert assign(table, 3) == assign(table, 3)


def test_manifests_say_of_every_patch_what_it_is_for(data: Path, tmp_path: Path) -> None:
    from scaled.files import read_rows
    from scaled.parts import read_parts, read_patches, write_manifests, write_parts

    table = read_patches(data)
    write_parts(table, 0, tmp_path)
    rows = read_parts(tmp_path)
    write_manifests(rows, 0, tmp_path)
    part = {row["path"]: row["part"] for row in rows}
    used = {}
    for name in ("teacher", "distil", "labelled"):
        stated = read_rows(tmp_path / f"{name}.csv")
        assert len(stated) == len(table)
        assert ("label" in stated[0]) == (name != "distil")
        kind = {split: {part[row["path"]] for row in stated if row["split"] == split} for split in ("train", "val")}
        used[name] = {row["path"] for row in stated if row["split"] != "test"}
        assert kind == {key: {"teacher" if name == "teacher" else "distil"} for key in ("train", "val")}
        groups = {split: {row["group"] for row in stated if row["split"] == split} for split in ("train", "val")}
        assert not groups["train"] & groups["val"]
    judged = {row["path"] for row in read_rows(tmp_path / "test.csv")}
    assert used["distil"] == used["labelled"]
    assert not judged & (used["teacher"] | used["distil"]) and not used["teacher"] & used["distil"]
    assert judged | used["teacher"] | used["distil"] == set(part)


def test_a_group_in_two_parts_is_refused(data: Path, tmp_path: Path) -> None:
    from scaled.parts import read_parts, read_patches, write_parts

    write_parts(read_patches(data), 0, tmp_path)
    file = tmp_path / "parts.csv"
    lines = file.read_text().splitlines()
    first = next(k for k, line in enumerate(lines) if line.endswith(",teacher"))
    group = lines[first].split(",")[2]
    lines[first] = lines[first].replace(",teacher", ",test")
    file.write_text("\n".join(lines))
    with pytest.raises(CohortError, match=f"1 groups are in more than one part .{group} .teacher and test"):
        read_parts(tmp_path)


def test_patches_come_to_one_size_and_those_there_are_kept(tmp_path: Path) -> None:
    from scaled.parts import prepare, read_patches

    data, out = write_patches(tmp_path / "data", each=1), tmp_path / "out"
    wide = np.zeros((64, 96, 3), np.uint8)
    wide[:, 16:80] = 200  # the square in its middle
    cv2.imwrite(str(data / "a/0_0.png"), wide)
    table = read_patches(data)
    prepare(table, out, 32)
    made = cv2.imread(str(out / "a/0_0.png"))
    assert made is not None and made.shape == (32, 32, 3) and (made == 200).all()
    whole, half = cv2.imread(str(data / "b/1_0.png")), cv2.imread(str(out / "b/1_0.png"))
    assert whole is not None and half is not None
    mean = whole.reshape(32, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert np.abs(mean - half).max() <= 0.5
    before = (out / "b/1_0.png").stat().st_mtime_ns
    (out / "c/2_0.png").unlink()
    prepare(table, out, 32)
    assert (out / "b/1_0.png").stat().st_mtime_ns == before and (out / "c/2_0.png").is_file()
    (out / "b/1_0.png").unlink()
    (data / "b/1_0.png").write_bytes(b"no image")
    with pytest.raises(CohortError, match=re.escape("b/1_0.png cannot be read")):
        prepare(table, out, 32)


def rewritten(folder: Path, change: str) -> None:
    """The list of patches with one mistake."""
    file = folder / "patches.csv"
    rows = list(csv.DictReader(file.open()))
    if change == "two lists":
        (folder / "more.csv").write_text("path\n")
        return
    if change == "no list":
        file.unlink()
        return
    if change == "outside":
        rows[0]["path"] = f"../{folder.name}/{rows[0]['path']}"
    if change == "one name":
        twin = Path(rows[0]["path"]).with_suffix(".jpg")
        cv2.imwrite(str(folder / twin), np.zeros((64, 64, 3), np.uint8))
        rows.append(rows[0] | {"path": str(twin)})
    if change == "no label":
        rows[3]["label"] = ""
    if change == "few groups":
        rows = [row for row in rows if row["label"] != "b" or int(row["group"][2:]) < 5]
    columns = ["path", "label"] if change == "no group column" else ["path", "label", "group"]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("no list", "but holds none"),
        ("two lists", "but holds more.csv, patches.csv"),
        ("no group column", "has no column group"),
        ("no label", "1 patches have no label"),
        ("outside", "lies outside"),
        ("one name", "a/0_0.png would be the name of two patches"),
        ("few groups", "too few of b 5; give at least 12"),
    ],
)
def test_mistakes_in_the_data(tmp_path: Path, change: str, said: str) -> None:
    from scaled.parts import read_patches

    rewritten(write_patches(tmp_path, each=1), change)
    with pytest.raises(CohortError, match=re.escape(said)):
        read_patches(tmp_path)
