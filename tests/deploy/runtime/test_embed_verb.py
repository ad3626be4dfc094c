"""`embed`: the right features in the layout others read, nothing computed twice, no slide stopped by another."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openslide
import pytest
import torch
from dicom_slide import write_pyramid
from feature_files import mute, read, refusal, same, states, table

from g2l.__main__ import main
from g2l.data.demo import cohort_orders, draw_slide
from g2l.deploy.runtime import embed as module
from g2l.deploy.runtime.embed import embed
from g2l.encoders.encoder import create_encoder
from g2l.evaluation.embedding.grid import tissue_grid
from g2l.slides.cohort import Cohort
from g2l.slides.index import index

# --- what it gives ----------------------------------------------------------------------------------------------------


def test_features_are_what_pytorch_makes_of_the_pixels_at_the_coordinates(
    bundle: Path, tiny_encoder: Path, small_slides: Path, tmp_path: Path
) -> None:
    """Read as CLAM and TRIDENT do: coords are OpenSlide's level-0 pixels, patch_size_level0 their side."""
    embed(str(bundle), str(small_slides / "s0.tif"), out=str(tmp_path), format="onnx-fp32", threads=1)
    encoder = create_encoder(str(tiny_encoder), str(tiny_encoder.parent)).eval()
    with h5py.File(tmp_path / "s0.h5") as file, openslide.OpenSlide(small_slides / "s0.tif") as slide:
        content: Any = file
        coords, found = content["coords"][:], content["features"][:]
        side, about = int(content["coords"].attrs["patch_size_level0"]), dict(content["coords"].attrs)
        patches = [np.asarray(slide.read_region(tuple(at), 0, (side, side)))[..., :3] for at in coords.tolist()]
    assert side == about["patch_size"] == 64  # the slide has the bundle's .5 um/px
    with torch.inference_mode():
        images = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() / 255
        expected = encoder(images, resize=False).cls.numpy()
    assert len(coords) > 20 and expected.std(axis=0).min() > 1e-3
    # OpenSlide's JPEG decoder and ours differ by rounding.
    np.testing.assert_allclose(found, expected, atol=0.05)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.999
    assert coords.dtype == np.int64 and found.dtype == np.float32


def test_the_attributes_are_those_trident_writes_and_ours(bundle: Path, small_features: Path) -> None:
    with h5py.File(small_features / "s4.h5") as file:
        content: Any = file
        of_file, of_coords = dict(content.attrs), dict(content["coords"].attrs)
        assert set(content) == {"features", "coords", "um"} and content["features"].fletcher32
        np.testing.assert_allclose(content["um"][:], content["coords"][:] * of_file["level0_mpp"])
    trident = {"patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap", "name"}
    assert trident | {"level0_width", "level0_height", "level0_mpp", "mpp", "size_um"} <= set(of_coords)
    assert {key: of_file[key] for key in of_coords} == of_coords
    assert (of_file["patch_size"], of_file["mpp"], of_file["size_um"], of_file["overlap"]) == (64, 0.5, 32.0, 0)
    assert of_file["target_magnification"] == 20 and of_file["name"] == "s4" and of_file["encoder"] == "tiny"
    digest = module.open_bundle(bundle).digest
    run = json.loads((small_features / "run.json").read_text())
    assert of_file["encoder_hash"] == digest == run["settings"]["bundle"]
    assert of_file["format"] == run["settings"]["format"] == run["settings"]["format"]


def test_the_patches_are_those_of_g2l_predict(small_features: Path, small_slides: Path, tmp_path: Path) -> None:
    index(str(small_slides), str(tmp_path), workers=0)
    cohort = Cohort.open(tmp_path)
    for slide in range(3):
        found = read(small_features / f"{cohort[slide].name}.h5")
        grid = tissue_grid(cohort, slide, 64, 0.5, 0.5)
        assert np.array_equal(found["coords"], grid.coords) and np.array_equal(found["um"], grid.um)


def test_a_dicom_series_of_several_levels_is_one_slide(bundle: Path, small_features: Path, tmp_path: Path) -> None:
    """Of the pixels of s0, in another container: their patches lie where they lay, and look as they did."""
    rgb, _, _, stain = draw_slide(3, cohort_orders()[0], 300.0)
    files = write_pyramid(tmp_path / "series", rgb, stain.mpp)
    result = embed(str(bundle), str(tmp_path / "series"), out=str(tmp_path / "out"), threads=1)
    assert len(files) > 1 and result.count("done") == 1 and result.exit_code == 0
    (made,) = (tmp_path / "out").glob("*.h5")
    one, other = read(made), read(small_features / "s0.h5")
    shared = {tuple(place) for place in one["coords"].tolist()} & {tuple(place) for place in other["coords"].tolist()}
    assert len(shared) > 0.8 * len(other["coords"])
    for place in shared:
        a, b = (x["features"][(x["coords"] == place).all(axis=1)][0] for x in (one, other))
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9  # the JPEGs are of different quality


def test_a_picture_and_an_outline_show_the_tissue(small_features: Path, small_slides: Path) -> None:
    import cv2

    for name in ("s0", "s4", "s9"):
        picture = cv2.imread(str(small_features / "pictures" / f"{name}.jpg"))
        assert picture is not None and max(picture.shape) > 500 and picture.std() > 5
        line = (np.abs(picture.astype(int) - (94, 122, 0)).max(axis=2) < 40).sum()
        assert line > 100
        outline = json.loads((small_features / "tissue" / f"{name}.geojson").read_text())
        assert outline["type"] == "FeatureCollection" and outline["features"]
        corners = np.concatenate([one["geometry"]["coordinates"][0] for one in outline["features"]])
        coords = read(small_features / f"{name}.h5")["coords"]
        assert (corners.min(axis=0) <= coords.min(axis=0) + 64).all()
        assert (corners.max(axis=0) >= coords.max(axis=0)).all()


def test_the_table_and_the_records_say_what_was_done(bundle: Path, small_slides: Path, tmp_path: Path) -> None:
    result = embed(str(bundle), str(small_slides), out=str(tmp_path), threads=1)
    lines = str(result).splitlines()
    assert lines[0].split() == ["slide", "status", "patches", "seconds"] and lines[-1] == "3 done, 0 skipped, 0 failed"
    assert [line.split()[0] for line in lines[1:4]] == ["s0", "s4", "s9"] and "patches/s" in lines[-2]
    counts = {name: len(read(tmp_path / f"{name}.h5")["coords"]) for name in ("s0", "s4", "s9")}
    assert {name: int(row["patches"]) for name, row in table(tmp_path).items()} == counts
    run = json.loads((tmp_path / "run.json").read_text())["runs"][-1]
    assert run["patches"] == result.patches == sum(counts.values()) and run["patches_of_slides"] == counts
    assert run["slides"] == {"done": 3, "skipped": 0, "failed": 0} and run["threads"] == 1 and run["processor"]
    assert run["patches_per_second"] == pytest.approx(result.patches / result.seconds, rel=1e-3)
    assert 0 < run["engine_seconds"] < run["seconds"] and run["versions"]["numpy"] == np.__version__
    embed(str(bundle), str(small_slides), out=str(tmp_path), threads=1)
    runs = json.loads((tmp_path / "run.json").read_text())["runs"]
    assert len(runs) == 2 and runs[0] == run and runs[1]["slides"] == {"done": 0, "skipped": 3, "failed": 0}


def test_the_command_prints_the_table_and_a_bar(
    bundle: Path, small_slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(bundle), str(small_slides), "--out", str(tmp_path), "--threads", "1"]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("3 done, 0 skipped, 0 failed\n") and "patches/s, slide 3 of 3" in shown.err
    assert main(["embed", str(bundle), str(small_slides / "absent"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- nothing twice ----------------------------------------------------------------------------------------------------


def test_what_is_done_stays_and_what_changed_is_made_again(bundle: Path, small_slides: Path, tmp_path: Path) -> None:
    mine, out = Path(shutil.copytree(small_slides, tmp_path / "slides")), tmp_path / "out"
    embed(str(bundle), str(mine), out=str(out), threads=1)
    before = states(out)
    again = embed(str(bundle), str(mine), out=str(out), threads=1)
    assert states(out) == before and again.count("skipped") == 3 and again.patches == 0
    shutil.copy(mine / "s9.tif", mine / "s4.tif")
    changed = embed(str(bundle), str(mine), out=str(out), threads=1)
    after = states(out)
    assert {row.slide for row in changed.rows if row.status == "done"} == {"s4"}
    assert [name for name in before if after[name] != before[name]] == ["s4.h5"]
    assert same(out / "s4.h5", out / "s9.h5")


def test_a_given_resolution_is_for_slides_that_state_none(bundle: Path, small_slides: Path, tmp_path: Path) -> None:
    mine, out = Path(shutil.copytree(small_slides, tmp_path / "slides")), tmp_path / "out"
    mute(mine / "s0.tif")
    first = embed(str(bundle), str(mine), out=str(out), mpp=0.5, threads=1)
    assert first.count("done") == 3
    other = embed(str(bundle), str(mine), out=str(out), mpp=0.25, threads=1)
    assert {row.slide: row.status for row in other.rows} == {"s0": "done", "s4": "skipped", "s9": "skipped"}
    with h5py.File(out / "s0.h5") as file:
        assert (file.attrs["level0_mpp"], file.attrs["patch_size_level0"]) == (0.25, 128)
    (tmp_path / "list.csv").write_text("slide,mpp\nslides/s0.tif,0.25\nslides/s4.tif,\n")
    listed = embed(str(bundle), str(tmp_path / "list.csv"), out=str(out), threads=1)
    assert {row.slide: row.status for row in listed.rows} == {"s0": "skipped", "s4": "skipped"}


def test_features_of_one_folder_are_made_alike(
    bundle: Path, small_slides: Path, small_features: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(small_features, tmp_path / "out")
    before = states(out)
    assert "min_tissue 0.5 instead of 0.2" in refusal(str(bundle), str(small_slides), out=str(out), min_tissue=0.2)
    assert "instead of onnx-fp32" in refusal(str(bundle), str(small_slides), out=str(out), format="onnx-fp32")
    assert states(out) == before


def test_a_file_of_another_program_is_not_replaced(bundle: Path, small_slides: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s0.h5", "w") as file:
        file["features"] = np.ones((3, 1024))
    (tmp_path / "s4.h5").write_bytes(b"")  # as a power failure can leave it
    before = (tmp_path / "s0.h5").read_bytes()
    result = embed(str(bundle), str(small_slides), out=str(tmp_path), threads=1)
    assert {row.slide: row.status for row in result.rows} == {"s0": "failed", "s4": "done", "s9": "done"}
    assert "was not made by g2l embed; move it away" in str(result) and result.exit_code == 1
    assert (tmp_path / "s0.h5").read_bytes() == before
