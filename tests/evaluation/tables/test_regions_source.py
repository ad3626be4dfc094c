"""Patches of the embedded cohort, written once and the same for every encoder."""

from pathlib import Path

import numpy as np
import pytest

from g2l.data.drawing.layout import CLASSES
from g2l.errors import CohortError
from g2l.evaluation.embedding.images import read_image
from g2l.evaluation.tables.regions import CohortRegions
from g2l.evaluation.tables.splits import check_labels, make_split


def source(cohort: Path, folder: Path, **more: int) -> CohortRegions:
    return CohortRegions(str(cohort), str(folder), **({"patches": 30, "patch_size": 96} | more))  # type: ignore[arg-type]


def test_the_demo_cohort_gives_labelled_patches_of_its_parts(demo_cohort: Path, tmp_path: Path) -> None:
    table = source(demo_cohort, tmp_path).read()
    assert {part: int((table.splits == part).sum()) for part in ("train", "val", "test")} == {
        "train": 30, "val": 30, "test": 30,
    }  # fmt: skip
    assert set(table.labels) <= set(CLASSES) and set(table.centres) == {"north", "east", "south"}
    split = make_split(table)
    assert np.array_equal(split.test, np.flatnonzero(table.splits == "test"))
    pixels = read_image(table.paths[0])
    assert pixels.shape == (96, 96, 3) and pixels.std() > 1
    try:
        check_labels(table, split)
    except CohortError as error:  # 30 patches may miss a class of the test part
        assert "train has not" in str(error)


def test_patches_are_written_once_and_other_settings_apart(demo_cohort: Path, tmp_path: Path) -> None:
    first = source(demo_cohort, tmp_path).read()
    dates = {path: Path(path).stat().st_mtime_ns for path in first.paths.tolist()}
    again = source(demo_cohort, tmp_path).read()
    assert again.paths.tolist() == first.paths.tolist()
    assert all(Path(path).stat().st_mtime_ns == date for path, date in dates.items())
    other = source(demo_cohort, tmp_path, seed=1).read()
    assert not set(other.paths.tolist()) & set(first.paths.tolist())
    assert {path.name for path in tmp_path.iterdir()} == {Path(t.paths[0]).parents[1].name for t in (first, other)}


def test_the_pixels_are_those_of_the_slides(demo_cohort: Path, tmp_path: Path) -> None:
    from g2l.data.labelled import labelled_patches
    from g2l.slides.cohort import Cohort
    from g2l.slides.sampling import Sampler

    table = source(demo_cohort, tmp_path).read()
    cohort = Cohort.open(demo_cohort)
    rows = cohort.split("patient", 0.2, 0)["test"]
    drawn = labelled_patches(cohort, Sampler(cohort, rows, 0, 96, [0.5], min_tissue=0.5), 30)
    found = np.flatnonzero(table.splits == "test")
    assert (
        table.slides[found].tolist() == drawn.slides.tolist() and table.labels[found].tolist() == drawn.labels.tolist()
    )
    assert np.array_equal(np.stack([read_image(table.paths[k]) for k in found]), drawn.images)  # PNG loses nothing


def test_what_cannot_be_drawn_is_one_line(demo_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"patches of .* cannot be drawn") as error:
        source(demo_cohort, tmp_path / "a", patch_size=1600).read()
    assert "\n" not in str(error.value) and not any((tmp_path / "a").glob("*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(CohortError, match="cannot be written"):
        source(demo_cohort, tmp_path / "file").read()
    with pytest.raises(CohortError, match="no cohort in"):
        source(tmp_path / "none", tmp_path / "b").read()
