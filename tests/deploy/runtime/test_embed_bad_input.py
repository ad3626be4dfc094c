"""`embed` with slides, settings and folders that are wrong: each told in one line, and nothing lost by it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from feature_files import mute, read, refusal, same, states, table
from numpy.typing import NDArray

from g2l.data.drawing.scanner import write_pyramid
from g2l.deploy.runtime.embed import embed
from g2l.deploy.runtime.engines import Engine
from g2l.deploy.runtime.folder import claimed
from g2l.errors import SlideError
from g2l.slides.slide import Slide


def test_a_slide_that_fails_stops_no_other(
    bundle: Path, small_slides: Path, small_features: Path, tmp_path: Path
) -> None:
    mine, out = Path(shutil.copytree(small_slides, tmp_path / "slides")), tmp_path / "out"
    shutil.copy(mine / "s0.tif", mine / "a-mute.tif")
    mute(mine / "a-mute.tif")
    rng = np.random.default_rng(0)
    blank = rng.integers(240, 244, (600, 600, 3)).astype(np.uint8)
    write_pyramid(mine / "blank.tif", blank, 0.5, 90)
    (mine / "broken.svs").write_bytes(b"II*\0 no slide")
    (mine / "dead.tif").symlink_to(tmp_path / "gone.tif")
    shutil.copy(mine / "s0.tif", mine / "speck.tif")
    ring = [[96, 96], [128, 96], [128, 128], [96, 128], [96, 96]]  # one cell of the mask
    (tmp_path / "speck.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    (tmp_path / "list.csv").write_text("slide,tissue\nspeck.tif,speck.geojson\nabsent.tif,\n")
    result = embed(str(bundle), str(mine), out=str(out), manifest=str(tmp_path / "list.csv"), threads=1)
    assert result.exit_code == 1 and str(result).endswith("3 done, 0 skipped, 6 failed")
    reasons = {row.slide: row.reason for row in result.rows if row.status == "failed"}
    assert "states no resolution" in reasons["a-mute"] and "--mpp" in reasons["a-mute"]
    assert "no tissue was found" in reasons["blank"]
    assert "no patch of 64 px at 0.5 um/px with 50% tissue; lower --min_tissue" in reasons["speck"]
    assert "it is not among the slides" in reasons["absent"]
    assert "replace or remove the file" in reasons["broken"] and "dead" in reasons
    assert all("\n" not in reason and "; " in reason for reason in reasons.values())
    assert {name: row["reason"] for name, row in table(out).items() if row["status"] == "failed"} == reasons
    assert all(same(small_features / f"{name}.h5", out / f"{name}.h5") for name in ("s0", "s4", "s9"))
    assert sorted(file.stem for file in out.glob("*.h5")) == ["s0", "s4", "s9"]


def test_a_slide_that_is_damaged_amid_its_tissue_fails_alone(
    bundle: Path, small_slides: Path, small_features: Path, tmp_path: Path
) -> None:
    mine, out = Path(shutil.copytree(small_slides, tmp_path / "slides")), tmp_path / "out"
    with tifffile.TiffFile(mine / "s4.tif") as tiff:
        page: Any = tiff.pages[0]
        offsets, counts = page.dataoffsets, page.databytecounts
    with (mine / "s4.tif").open("r+b") as stream:
        for offset, count in list(zip(offsets, counts, strict=True))[1:]:  # the first tile is whole
            stream.seek(offset + 2)
            stream.write(b"\0" * (count - 2))
    result = embed(str(bundle), str(mine), out=str(out), threads=1)
    assert {row.slide: row.status for row in result.rows} == {"s0": "done", "s4": "failed", "s9": "done"}
    assert not (out / "s4.h5").exists() and not list((out / ".partial").glob("*.rows"))
    assert same(small_features / "s9.h5", out / "s9.h5") and same(small_features / "s0.h5", out / "s0.h5")


def test_a_slide_that_breaks_off_after_some_batches_fails_alone(
    bundle: Path, small_slides: Path, small_features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, calls = Slide.read_patch, []

    def breaks(self: Slide, *arguments: Any) -> NDArray[np.uint8]:
        calls.append(self.path.name)
        if self.path.name == "s4.tif" and calls.count("s4.tif") > 20:
            raise SlideError(f"slide {self.path} is damaged at pixel (1, 2) of level 0 (why); replace the file")
        return right(self, *arguments)

    monkeypatch.setattr(Slide, "read_patch", breaks)
    result = embed(str(bundle), str(small_slides), out=str(tmp_path), threads=1)
    assert {row.slide: row.status for row in result.rows} == {"s0": "done", "s4": "failed", "s9": "done"}
    counts = {name: len(read(small_features / f"{name}.h5")["coords"]) for name in ("s0", "s9")}
    assert result.patches >= sum(counts.values()) + 16  # of the broken one two batches at least had been computed
    assert not (tmp_path / "s4.h5").exists() and not list((tmp_path / ".partial").glob("*.rows"))
    assert all(same(small_features / f"{name}.h5", tmp_path / f"{name}.h5") for name in counts)


def test_a_slide_that_changes_while_it_is_read_fails(
    bundle: Path, small_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Path(shutil.copytree(small_slides, tmp_path / "slides"))
    right, calls = Engine.__call__, []

    def while_it_grows(self: Engine, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        calls.append(1)
        if len(calls) == 2:
            with (mine / "s0.tif").open("ab") as stream:
                stream.write(b"more")
        return right(self, patches)

    monkeypatch.setattr(Engine, "__call__", while_it_grows)
    result = embed(str(bundle), str(mine), out=str(tmp_path / "out"), threads=1)
    assert {row.slide: row.status for row in result.rows} == {"s0": "failed", "s4": "done", "s9": "done"}
    assert "changed while it was being read; run the same again" in str(result)
    again = embed(str(bundle), str(mine), out=str(tmp_path / "out"), threads=1)
    assert {row.slide: row.status for row in again.rows} == {"s0": "done", "s4": "skipped", "s9": "skipped"}


def test_embeddings_that_are_not_finite_fail_their_slide(
    bundle: Path, small_slides: Path, small_features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, calls = Engine.__call__, []

    def overflows(self: Engine, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        calls.append(len(patches))
        rows = right(self, patches)
        return rows * np.float32(np.nan) if len(calls) == 2 else rows  # of the first slide

    monkeypatch.setattr(Engine, "__call__", overflows)
    result = embed(str(bundle), str(small_slides), out=str(tmp_path), threads=1)
    assert {row.slide: row.status for row in result.rows} == {"s0": "failed", "s4": "done", "s9": "done"}
    assert "not finite; choose another --format" in str(result)
    assert same(small_features / "s9.h5", tmp_path / "s9.h5") and not (tmp_path / "s0.h5").exists()


def test_an_outline_in_the_manifest_replaces_the_mask(bundle: Path, small_slides: Path, tmp_path: Path) -> None:
    ring = [[128, 64], [400, 64], [400, 320], [128, 320], [128, 64]]
    (tmp_path / "mine.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    (tmp_path / "list.csv").write_text("slide,tissue\ns0.tif,mine.geojson\n")
    options = {"manifest": str(tmp_path / "list.csv"), "threads": 1}
    result = embed(str(bundle), str(small_slides), out=str(tmp_path / "out"), **options)
    assert result.count("done") == 3
    coords = read(tmp_path / "out" / "s0.h5")["coords"]
    assert len(coords) > 3 and (coords >= (96, 32)).all() and (coords <= (368, 288)).all()
    before = states(tmp_path / "out")
    ring[1][0] = ring[2][0] = 300
    (tmp_path / "mine.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    embed(str(bundle), str(small_slides), out=str(tmp_path / "out"), **options)
    after = states(tmp_path / "out")
    assert [name for name in sorted(after) if after[name] != before[name]] == ["s0.h5"]


# --- bad settings and folders -----------------------------------------------------------------------------------------


def test_settings_that_cannot_be_are_told_at_once(bundle: Path, small_slides: Path, tmp_path: Path) -> None:
    text = refusal(str(bundle), str(small_slides), out=str(tmp_path / "out"), mpp=250.0, batch_size=0, min_tissue=2.0)
    assert "--mpp 250" in text and "--batch_size 0" in text and "--min_tissue is 2.0" in text
    assert "--threads 0" in refusal(str(bundle), str(small_slides), out=str(tmp_path / "out"), threads=0)
    assert "format nonsense" in refusal(str(bundle), str(small_slides), out=str(tmp_path), format="nonsense").replace(
        "no format is called", "format"
    )
    assert "does not exist" in refusal(str(bundle), str(tmp_path / "absent"), out=str(tmp_path / "out"))
    assert "no bundle" in refusal(str(small_slides), str(small_slides), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_used_is_told(bundle: Path, small_slides: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(str(bundle), str(small_slides), out=str(tmp_path / "file" / "out"))
    mine = shutil.copytree(bundle, tmp_path / "bundle")
    assert "lies in the bundle" in refusal(str(mine), str(small_slides), out=str(mine / "features"))
    assert not (mine / "features").exists()
    with claimed(tmp_path / "out"):
        assert "another g2l embed is working in" in refusal(str(bundle), str(small_slides), out=str(tmp_path / "out"))


def test_a_damaged_bundle_is_refused_first(bundle: Path, small_slides: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(bundle, tmp_path / "bundle")
    content = bytearray((mine / "model.onnx").read_bytes())
    content[-1] ^= 1
    (mine / "model.onnx").write_bytes(content)
    assert "model.onnx" in refusal(str(mine), str(small_slides), out=str(tmp_path / "out"), format="onnx-fp32")
    assert not (tmp_path / "out").exists()
