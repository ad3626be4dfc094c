"""A good bundle is verified; one that computes something else is not, even where its sums were recomputed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from g2l.deploy.openvino_ir import write_openvino
from g2l.deploy.runtime import engines, processor
from g2l.deploy.runtime.engines import open_engine
from g2l.deploy.runtime.formats import FORMATS, NAMES
from g2l.deploy.runtime.opened import open_bundle
from g2l.deploy.runtime.picked import pick_patches
from g2l.deploy.runtime.verified import Row, speed
from g2l.deploy.runtime.verify import verify
from g2l.errors import CohortError, ConfigError, SlideError
from g2l.sums import write_sums


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def by_name(rows: tuple[Row, ...]) -> dict[str, Row]:
    return {row.format.name: row for row in rows}


# --- a good one -------------------------------------------------------------------------------------------------------


def test_a_good_bundle_is_verified(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(str(bundle), threads=1)
    rows = by_name(found.rows)
    assert found.exit_code == 0 and tuple(rows) == NAMES
    parity = json.loads((bundle / "parity.json").read_text())["formats"]
    for format in open_bundle(bundle).formats:
        row = rows[format.name]
        assert row.exported == parity[format.name]["vector"]["min_cosine"]
        if row.ran:
            assert row.vector and row.vector.passed and row.rate > 0 and not row.why
            assert row.vector.min_cosine == pytest.approx(row.exported, abs=1e-4)
    text = str(found).splitlines()
    assert text[-1].startswith(f"verified: {sum(row.ran for row in found.rows)} formats on ")
    assert (
        f"{len(open_bundle(bundle).files)} files, all as SHA256SUMS states" in text[1] and "64 drawn patches" in text[1]
    )
    table = text[2 : 3 + len(NAMES)]
    # in line: the columns of figures end where their heads do
    for head in ("at export", "here", "patches/s"):
        end = table[0].index(head) + len(head)
        assert all(line[end - 1] != " " and line[end : end + 2].strip() == "" for line in table), head
    assert max(map(len, table)) < 90 and capsys.readouterr().out == ""


def test_formats_that_are_not_there_or_cannot_run_are_told_and_no_failure(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = processor.capabilities() - {"BF16"}
    monkeypatch.setattr(processor, "capabilities", lambda: left)
    monkeypatch.setattr(engines, "capabilities", lambda: left)
    parity = json.loads((copied / "parity.json").read_text())
    parity["formats"]["openvino-int8"] = {"written": False, "passed": False, "why": "too far from PyTorch"}
    (copied / "parity.json").write_text(json.dumps(parity))
    write_sums(copied)
    found = verify(str(copied), threads=1)
    rows = by_name(found.rows)
    assert rows["openvino-int8"].why == "not in this bundle: too far from PyTorch" and not rows["openvino-int8"].ran
    assert "    openvino-int8: not in this bundle: too far from PyTorch" in str(found).splitlines()
    assert rows["openvino-bf16"].why.startswith("cannot run here: this processor has no 16-bit")
    assert found.exit_code == 0 and "verified: 3 formats" in str(found)
    monkeypatch.setattr(processor, "find_spec", lambda name: None)
    nothing = verify(str(copied))
    assert nothing.exit_code == 1 and str(nothing).endswith("NOT verified: no format of this bundle can run here")


def test_one_format_alone_can_be_asked_for(bundle: Path) -> None:
    found = verify(str(bundle), format="onnx-fp32", threads=1)
    assert [row.format.name for row in found.rows] == ["onnx-fp32"] and "verified: 1 format on" in str(found)


def test_requests_that_cannot_be_met_are_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no format is called x; known are"):
        verify(str(bundle), format="x")
    with pytest.raises(ConfigError, match="patches 0 must be at least 1"):
        verify(str(bundle), patches=0)
    with pytest.raises(ConfigError, match="absent does not exist"):
        verify(str(tmp_path / "absent"))
    with pytest.raises(CohortError, match="does not exist"):
        verify(str(bundle), slides=str(tmp_path / "absent"))
    monkeypatch.setattr(processor, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"format onnx-fp32 cannot be used: onnxruntime is not installed"):
        verify(str(bundle), format="onnx-fp32")


# --- damaged ones -----------------------------------------------------------------------------------------------------


def change_graph(file: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Changes an ONNX file as one would who knows how, and the sums with it."""
    model = onnx.load(file)
    change(model)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
    write_sums(file.parent)


def other_weights(model: onnx.ModelProto) -> None:
    """The largest matrix, each number off by a little: nothing that looks broken."""
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    values = numpy_helper.to_array(largest)
    noise = np.random.default_rng(0).normal(size=values.shape) * values.std() * 0.3
    largest.CopyFrom(numpy_helper.from_array((values + noise).astype(values.dtype), largest.name))


def wrong_mean(model: onnx.ModelProto) -> None:
    """ImageNet's in place of the one that the graph subtracts."""
    found = [one for one in model.graph.initializer if _is_mean(numpy_helper.to_array(one))]
    assert len(found) == 1
    shape = numpy_helper.to_array(found[0]).shape
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(shape)
    found[0].CopyFrom(numpy_helper.from_array(mean, found[0].name))


def _is_mean(values: np.ndarray) -> bool:
    return values.size == 3 and values.dtype == np.float32 and np.allclose(values.ravel(), [0.72, 0.57, 0.77])


def swapped_channels(model: onnx.ModelProto) -> None:
    """BGR: what OpenCV reads, where RGB is due."""
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == "patches":
                node.input[at] = "turned"
    model.graph.initializer.append(helper.make_tensor("bgr", TensorProto.INT64, [3], [2, 1, 0]))
    model.graph.node.insert(0, helper.make_node("Gather", ["patches", "bgr"], ["turned"], axis=3))


def not_a_number(model: onnx.ModelProto) -> None:
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    values = numpy_helper.to_array(largest).copy()
    values.ravel()[0] = np.nan
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))


@pytest.mark.parametrize("damage", [other_weights, wrong_mean, swapped_channels, not_a_number])
def test_a_damaged_graph_is_found_out_though_its_sums_are_right(
    damage: Callable[[onnx.ModelProto], None], copied: Path
) -> None:
    assert json.loads((copied / "preprocess.json").read_text())["mean"] == [0.72, 0.57, 0.77]
    change_graph(copied / "model.onnx", damage)
    found = verify(str(copied), threads=1)
    assert found.exit_code == 1 and {row.format.name for row in found.failed} == {"onnx-fp32", "openvino-fp32"}
    assert str(found).splitlines()[-1].startswith("NOT verified: openvino-fp32: test vector: ")
    # Neither may be used; what lies in other files is as good as it was.
    for name in ("onnx-fp32", "openvino-fp32"):
        with pytest.raises(ConfigError, match=rf"cannot be used here: {name}: .*, or run: g2l verify"):
            open_engine(open_bundle(copied), name, threads=1)
    write_openvino(copied / "model.onnx", copied / "openvino")
    for name in ("int8.xml", "int8.bin"):
        (copied / "openvino" / name).unlink(missing_ok=True)
    parity = json.loads((copied / "parity.json").read_text())
    parity["formats"].pop("openvino-int8", None)
    (copied / "parity.json").write_text(json.dumps(parity))
    write_sums(copied)
    again = verify(str(copied), threads=1)
    assert {row.format.name for row in again.failed} == {row.format.name for row in again.rows if row.ran}
    with pytest.raises(ConfigError, match=r"cannot be used here: openvino-.*; onnx-fp32: .*; run: g2l verify"):
        open_engine(open_bundle(copied), threads=1)


def test_a_changed_byte_is_found_by_its_hash(copied: Path) -> None:
    for name in open_bundle(copied).files:
        file = copied / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ConfigError) as caught:
            verify(str(copied))
        assert name in str(caught.value)
        file.write_bytes(whole)


def test_a_graph_that_cannot_be_read_fails_alone(copied: Path) -> None:
    xml = copied / "openvino" / "model.xml"
    xml.write_text(xml.read_text().replace("<layers>", "<players>"))
    write_sums(copied)
    found = verify(str(copied), threads=1)
    rows = by_name(found.rows)
    assert found.exit_code == 1 and "cannot be read by openvino" in rows["openvino-fp16"].why
    assert rows["onnx-fp32"].ran and not rows["onnx-fp32"].why and not rows["openvino-fp32"].why


def test_a_test_vector_of_another_network_verifies_nothing(copied: Path) -> None:
    import h5py

    with h5py.File(copied / "test_vector.h5", "a") as content:
        embedding: Any = content["embedding"]
        embedding[:] = np.roll(embedding[:], 1, axis=1)
    write_sums(copied)
    found = verify(str(copied), threads=1)
    assert found.exit_code == 1 and len(found.failed) == sum(row.ran for row in found.rows)


# --- the receiver's slides --------------------------------------------------------------------------------------------


def test_formats_agree_on_the_receivers_own_slides(bundle: Path, drawn_slide: Path) -> None:
    found = verify(str(bundle), slides=str(drawn_slide), patches=40, threads=1)
    assert found.exit_code == 0 and found.picked and found.picked.slides == 1 and found.reference == "onnx-fp32"
    assert "your slides: 40 patches of 1, against onnx-fp32" in str(found)
    for row in found.rows:
        assert (row.slides is not None and row.slides.passed and row.slides.count == 40) == row.ran
    exact = by_name(found.rows)["onnx-fp32"].slides
    assert exact and exact.max_difference == 0


def test_formats_that_differ_on_them_fail(copied: Path, drawn_slide: Path) -> None:
    change_graph(copied / "model.onnx", other_weights)
    found = verify(str(copied), slides=str(drawn_slide), patches=16, threads=1)
    assert by_name(found.rows)["openvino-fp16"].why.startswith("your slides: ")
    assert found.exit_code == 1


def test_patches_are_spread_over_tissue_and_the_same_every_time(drawn_slide: Path) -> None:
    picked = pick_patches(drawn_slide, 25, 64, 0.5)
    assert picked.patches.shape == (25, 64, 64, 3) and picked.patches.dtype == np.uint8
    assert (picked.patches == pick_patches(drawn_slide, 25, 64, 0.5).patches).all()
    assert len({patch.tobytes() for patch in picked.patches}) == 25
    assert picked.patches.mean() < 235  # tissue, not glass
    assert len(pick_patches(drawn_slide, 10_000, 64, 0.5).patches) < 10_000


def test_a_folder_gives_patches_of_its_slides_and_tells_which_gave_none(drawn_slide: Path, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        shutil.copy(drawn_slide, tmp_path / name)
    (tmp_path / "c.tif").write_bytes(b"no slide")
    picked = pick_patches(tmp_path, 21, 64, 0.5)
    assert picked.slides == 2 and len(picked.patches) == 21 - 7
    assert len(picked.left_out) == 1 and "c.tif" in picked.left_out[0]
    with pytest.raises(SlideError, match="no patch of 64 px at 50 um/px"):
        pick_patches(drawn_slide, 5, 64, 50.0)
    (tmp_path / "none").mkdir()
    with pytest.raises(CohortError, match="no slides found"):
        pick_patches(tmp_path / "none", 5, 64, 0.5)


@pytest.mark.real_data
@pytest.mark.slow
def test_real_slides_serve_too(bundle: Path, real_data: Path) -> None:
    dicom = real_data / "slides" / "camelyon_level.dcm"
    found = verify(str(bundle), slides=str(dicom), patches=16, mpp=0.5, threads=1)
    assert found.exit_code == 0 and found.picked and len(found.picked.patches) == 16
    folder = verify(str(bundle), slides=str(real_data / "slides"), patches=64, mpp=0.5, threads=1)
    assert folder.exit_code == 0 and folder.picked and folder.picked.slides >= 5
    assert "broken.svs" in str(folder) and len(folder.picked.left_out) == 1


def test_the_fastest_is_named_and_that_embed_would_take_another(bundle: Path) -> None:
    found = verify(str(bundle), threads=1)
    ran = [row for row in found.rows if row.ran]

    def told(*rates: float) -> str:
        rows = tuple(replace(row, rate=rate) for row, rate in zip(ran, rates, strict=False))
        return str(replace(found, rows=rows)).splitlines()[-1]

    assert told(3.3, 1.6).endswith(f"fastest here: {ran[0].format.name} at 3.30 patches/s")
    hint = f"{ran[1].format.name} at 4.00 patches/s (give it as --format; g2l embed takes {ran[0].format.name})"
    assert told(3.3, 4.0).endswith(hint)
    assert "--format" not in told(3.3, 3.4)  # no difference to speak of


def test_speeds_are_told_to_three_figures_or_so() -> None:
    assert [speed(rate) for rate in (0.123, 3.456, 34.56, 3456.7)] == ["0.12", "3.46", "34.6", "3,457"]


def test_every_row_stands_for_a_format(bundle: Path) -> None:
    rows: Any = verify(str(bundle), threads=1).rows
    assert [row.format for row in rows] == list(FORMATS)
