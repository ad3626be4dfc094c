"""Real patches for an export: of slides, a cohort or images; held-out patients first; none used twice."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from g2l.deploy import patches as module
from g2l.deploy.patches import CALIBRATION, Patches, read_patches
from g2l.errors import ConfigError
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Sampler


def keys(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def check(found: Patches, size: int, calibration: int = CALIBRATION) -> None:
    """So many, of that size, and no patch twice, within or between the two sets."""
    assert found.parity.shape == (256, size, size, 3) and found.calibration.shape == (calibration, size, size, 3)
    assert found.parity.dtype == found.calibration.dtype == np.uint8
    assert len(keys(found.parity)) == 256 and len(keys(found.parity) | keys(found.calibration)) == 256 + calibration


def test_patches_of_a_slide_are_tissue_and_none_comes_twice(drawn_slide: Path) -> None:
    found = read_patches(str(drawn_slide), 64, 0.5, 256)
    check(found, 64)
    assert found.about == {"count": 256, "slides": 1, "source": "slides given at the export", "calibration": 300}
    assert 60 < found.parity.mean() < 225
    again = read_patches(str(drawn_slide.parent), 64, 0.5, 256)
    assert np.array_equal(again.parity, found.parity) and np.array_equal(again.calibration, found.calibration)


def test_of_a_cohort_held_out_patients_are_compared_on_and_the_others_calibrated_on(
    demo_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []
    honest = module._source

    def source(data: Cohort, rows: list[int], size: int, mpp: float) -> object:
        drawn.append(rows)
        return honest(data, rows, size, mpp)

    monkeypatch.setattr(module, "_source", source)
    found = read_patches(str(demo_cohort), 48, 1.0, 256, {"hold_out": "patient", "fraction": 0.2, "seed": 0})
    check(found, 48)
    cohort = Cohort.open(demo_cohort)
    patients, splits = cohort.column("patient"), cohort.column("split")
    held_out, rest = ({patients[row] for row in rows} for rows in drawn)
    assert held_out and rest and not held_out & rest
    assert {splits[row] for row in drawn[0]} == {"val", "test"} and {splits[row] for row in drawn[1]} == {"train"}
    assert found.about["source"] == "cohort of slides, patients held out of the training"
    assert 2 <= found.about["slides"] <= len(drawn[0])


def test_patches_are_those_that_the_sampler_draws(demo_cohort: Path) -> None:
    """An independent reading of the first ones, slide by slide."""
    found = read_patches(str(demo_cohort), 32, 1.0, 256)
    assert found.about["source"] == "cohort of slides, patients held out of the calibration"
    cohort = Cohort.open(demo_cohort)
    split = cohort.split("patient", 0.2, 0)
    sampler = Sampler(cohort, [*split["val"], *split["test"]], module.SEED, 32, 1.0)
    for k in range(5):
        patch = sampler.patch(k)
        with cohort.open_slide(patch.slide) as slide:
            assert np.array_equal(found.parity[k], slide.read_patch(patch.x, patch.y, 32, 1.0))


def images(folder: Path, count: int, size: int = 40, alike: int = 0) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for k in range(count):
        pixels = np.zeros((size, size, 3), np.uint8) if k < alike else rng.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


def test_images_are_each_taken_once_and_what_is_over_calibrates(tmp_path: Path) -> None:
    found = read_patches(str(images(tmp_path / "p", 300, alike=3)), 40, 0.5, 256)
    check(found, 40, 300 - 2 - 256)
    assert found.about["source"] == "images"


def test_a_damaged_image_is_left_out(tmp_path: Path) -> None:
    folder = images(tmp_path / "p", 258)
    (folder / "100.png").write_bytes((folder / "100.png").read_bytes()[:200])
    check(read_patches(str(folder), 40, 0.5, 256), 40, 1)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("few", r"--patches .*few: 10 patches that differ could be read, 256 are needed; give more"),
        ("small", r"smaller than 64 px"),
        ("nowhere", r"nowhere does not exist; give a cohort"),
        ("empty", r"--patches .*empty: "),
        ("cohort", r"no place"),
    ],
)
def test_what_cannot_serve_is_refused_in_one_line(place: str, reason: str, tmp_path: Path, demo_cohort: Path) -> None:
    images(tmp_path / "few", 10, size=64)
    images(tmp_path / "small", 300)
    (tmp_path / "empty").mkdir()
    path, size = (demo_cohort, 4000) if place == "cohort" else (tmp_path / place, 64)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_patches(str(path), size, 0.5, 256)
    assert "\n" not in str(caught.value)


def test_fewer_than_the_gates_ask_for_are_refused(drawn_slide: Path) -> None:
    with pytest.raises(ConfigError, match="give 256 or more"):
        read_patches(str(drawn_slide), 64, 0.5, 255)


@pytest.mark.real_data
@pytest.mark.slow
def test_real_slides_give_patches_and_those_without_resolution_are_left_out(
    real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_patches(str(real_data / "slides"), 96, 0.5, 256)
    check(found, 96)
    assert found.about["slides"] >= 4
    assert "left out " in (said := capsys.readouterr().err) and "broken.svs" in said
