"""The whole bundle: complete, the same for every loader, gated, and never in place of a good one when it fails."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data.config import resolve_model_data_config

from g2l.deploy import bundle as bundles
from g2l.deploy import graph, openvino_ir
from g2l.deploy.export import export
from g2l.deploy.runtime.engines import open_engine
from g2l.deploy.runtime.formats import FORMATS
from g2l.deploy.runtime.opened import open_bundle
from g2l.deploy.runtime.processor import usable
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.encoders.opening import open_encoder
from g2l.errors import ConfigError, EncoderError
from g2l.sums import read_sums, sha256

FILES = {
    "model.safetensors", "config.json", "preprocess.json", "licences.json", "model.onnx", "openvino/model.xml",
    "openvino/model.bin", "parity.json", "test_vector.h5", "CARD.md", "metadata.json", "requirements.txt", "embed.pyz",
}  # fmt: skip


def content(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {file.relative_to(folder).as_posix(): sha256(file) for file in folder.rglob("*") if file.is_file()}


def vector(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(folder / "test_vector.h5") as file:
        patches, embedding = file["patches"], file["embedding"]
        assert isinstance(patches, h5py.Dataset) and isinstance(embedding, h5py.Dataset)
        return patches[:], embedding[:]


def test_every_file_of_the_table_is_there_hashed_and_readable_by_all(bundle: Path) -> None:
    sums, found = read_sums(bundle), content(bundle)
    assert set(found) - set(sums) == {"SHA256SUMS"} and all(found[name] == sums[name] for name in sums)
    int8 = {"openvino/int8.xml", "openvino/int8.bin"}
    assert FILES <= set(sums) <= FILES | int8
    modes = {file.stat().st_mode & 0o777 for file in bundle.rglob("*") if file.is_file()}
    assert len(modes) == 1 and modes.pop() == bundle.stat().st_mode & 0o666


def test_parity_says_what_was_measured_of_every_format(bundle: Path) -> None:
    parity = json.loads((bundle / "parity.json").read_text())
    assert parity["patches"]["count"] == 256 and parity["patches"]["slides"] == 1
    assert list(parity["formats"]) == [format.name for format in FORMATS]
    for format in FORMATS:
        entry = parity["formats"][format.name]
        assert entry["written"] == (bundle / format.file).exists()
        assert entry["passed"] == (not entry["why"])
        if not usable(format) and entry["written"]:
            assert entry["real"]["count"] == 256 and entry["vector"]["count"] == 64
    fp32 = parity["formats"]["onnx-fp32"]["real"]
    assert fp32["max_difference"] <= 1e-4 and fp32["min_cosine"] >= 0.9999


@torch.no_grad()
def test_timm_gives_the_test_vector_again(bundle: Path) -> None:
    model: Any = timm.create_model(f"local-dir:{bundle}", pretrained=True).eval()
    config = resolve_model_data_config(model)
    patches, embedding = vector(bundle)
    images = torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    found = model((images - mean) / std).numpy()
    assert embedding.std(axis=0).min() > 1e-3  # it tells patches apart, so equality says something
    np.testing.assert_allclose(found, embedding, atol=2e-5)


def test_the_fastest_format_runs_and_no_file_names_this_machine(bundle: Path, tiny_encoder: Path) -> None:
    opened = open_bundle(bundle, every_hash=True)
    patches, embedding = vector(bundle)
    with open_engine(opened) as engine:
        found = engine.all(patches)
    cosine = (found * embedding).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(embedding, axis=1)
    assert cosine.min() > 0.98
    private = [str(tiny_encoder.parent).encode(), str(bundle.parent).encode(), str(Path(__file__).parents[2]).encode()]
    for file in bundle.rglob("*"):
        if file.is_file():
            assert not any(name in file.read_bytes() for name in private), file


def test_no_pickle_is_in_the_bundle(bundle: Path) -> None:
    for file in bundle.rglob("*"):
        if not file.is_file():
            continue
        assert file.suffix not in (".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz", ".bin") or file.parent != bundle
        assert not file.read_bytes().startswith(b"\x80"), file  # a pickle's first byte from protocol 2 on
        if zipfile.is_zipfile(file):
            assert file.name == "embed.pyz"
            assert {Path(name).suffix for name in zipfile.ZipFile(file).namelist()} == {".py"}


@pytest.mark.slow
def test_a_bundle_is_exported_again_with_tokens_and_keeps_what_it_says(
    bundle: Path, drawn_slide: Path, tmp_path: Path
) -> None:
    result = export(str(bundle), str(tmp_path / "again"), patches=str(drawn_slide), tokens=True, formats=["onnx"])
    assert content(tmp_path / "again")["model.safetensors"] == content(bundle)["model.safetensors"]
    assert not (tmp_path / "again" / "openvino").exists()
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "again" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.shape[1:]) for one in session.get_outputs()] == [("embedding", [48]), ("tokens", [16, 48])]
    parity = json.loads((tmp_path / "again" / "parity.json").read_text())
    assert parity["formats"]["openvino-fp16"]["why"] == "it was not asked for"
    assert "openvino-fp16" in str(result) and str(result).splitlines()[-1] == "this encoder may be redistributed"


# --- what fails its gate --------------------------------------------------------------------------------------------


def other_mean(encoder: Encoder) -> Encoder:
    encoder.mean += 0.02
    return encoder


def swapped_channels(encoder: Encoder) -> Encoder:
    """What a reader of BGR would see."""
    weight = encoder.backbone.patch_embed.proj.weight
    weight.data = weight.data.flip(1)
    encoder.mean.data, encoder.std.data = encoder.mean.flip(0), encoder.std.flip(0)
    return encoder


def damaged(encoder: Encoder) -> Encoder:
    with torch.no_grad():
        encoder.backbone.blocks[1].mlp.fc1.weight[:5] = 0
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_mean, swapped_channels, damaged])
def test_a_wrong_graph_fails_and_the_former_bundle_stays_byte_for_byte(
    change: Callable[[Encoder], Encoder],
    bundle: Path,
    tiny_encoder: Path,
    drawn_slide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    export(str(tiny_encoder), str(out), formats=[])
    before, honest = content(out), graph.write_onnx

    def write(encoder: Encoder, file: Path, tokens: bool = False) -> None:
        honest(change(graph.plain(encoder)), file, tokens)

    monkeypatch.setattr(graph, "write_onnx", write)
    with pytest.raises(EncoderError, match=r"its ONNX file does not give PyTorch's embeddings \(real patches: "):
        export(str(tiny_encoder), str(out), patches=str(drawn_slide))
    assert content(out) == before and [one.name for one in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_formats_that_fail_their_gate_or_cannot_be_made_are_not_written(
    bundle: Path, tiny_encoder: Path, drawn_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = openvino_ir.write_openvino

    def of_noise(graph: Path, folder: Path) -> Path:
        model, rng = onnx.load(graph), np.random.default_rng(0)
        for weight in model.graph.initializer:
            values = onnx.numpy_helper.to_array(weight)
            if values.ndim > 1 and values.dtype == np.float32:
                noisy = values * (1 + 0.3 * rng.standard_normal(values.shape).astype(np.float32))
                weight.CopyFrom(onnx.numpy_helper.from_array(noisy, weight.name))
        onnx.save(model, tmp_path / "noisy.onnx")
        return honest(tmp_path / "noisy.onnx", folder)

    def cannot(graph: Path, folder: Path, patches: np.ndarray) -> Path:
        raise RuntimeError("Check 'false' failed at\nsomewhere")

    monkeypatch.setattr(openvino_ir, "write_openvino", of_noise)
    monkeypatch.setattr(openvino_ir, "write_int8", cannot)
    result = export(str(tiny_encoder), str(tmp_path / "b"), patches=str(drawn_slide))
    assert not (tmp_path / "b" / "openvino").exists()
    formats = json.loads((tmp_path / "b" / "parity.json").read_text())["formats"]
    assert "smallest cosine" in formats["openvino-fp16"]["why"] and not formats["openvino-fp16"]["written"]
    assert formats["openvino-int8"]["why"] == "it could not be made: Check 'false' failed at somewhere"
    assert formats["onnx-fp32"]["passed"] and "openvino-int8" in (tmp_path / "b" / "CARD.md").read_text()
    assert "not usable: it could not be made" in str(result)
    assert {one.name for one in open_bundle(tmp_path / "b").formats} == {"openvino-fp32", "onnx-fp32"}


# --- what can go wrong around it ------------------------------------------------------------------------------------


def test_what_is_missing_is_told_before_anything_is_computed(
    bundle: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("it began")

    monkeypatch.setattr(graph, "torch_embed", never)
    out = str(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"no patches to compare the formats of tiny on; give --patches"):
        export(str(tiny_encoder), out)
    with pytest.raises(ConfigError, match=r"--patches .*nowhere does not exist; give a cohort"):
        export(str(tiny_encoder), out, patches=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"resnet10t does not state the um per px that it sees; give --mpp"):
        save_file(create_encoder("resnet10t", init="random").backbone.state_dict(), tmp_path / "r.safetensors")
        export("resnet10t", out, patches=str(tmp_path), weights=str(tmp_path / "r.safetensors"))
    with pytest.raises(ConfigError, match=r"--mpp 250 is outside 0.1-4"):
        export(str(tiny_encoder), out, mpp=250)
    with pytest.raises(ConfigError, match=r"--formats coreml is unknown; give some of onnx, openvino, int8"):
        export(str(tiny_encoder), out, formats=["coreml"])
    with pytest.raises(ConfigError, match=r"--count 100: the gates hold on 256 patches"):
        export(str(tiny_encoder), out, patches=str(tmp_path), count=100)
    assert not Path(out).exists()


def test_too_small_a_disk_is_told_before_the_work(
    tiny_encoder: Path, drawn_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "disk" / "b"
    out.parent.mkdir()
    mounted(out.parent, "64k")
    try:
        with pytest.raises(ConfigError, match=r"the disk has 0 MB left and the bundle may need \d+ MB"):
            export(str(tiny_encoder), str(out), patches=str(drawn_slide))
        assert not list(out.parent.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", out.parent], check=True)  # the error keeps files open


@pytest.mark.slow
@pytest.mark.parametrize("size", ["200k", "600k", "1400k"])  # full while each of several files is written
def test_a_disk_that_fills_up_ends_in_one_line_and_nothing_half_written(
    size: str, tiny_encoder: Path, drawn_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2l.deploy.whole.ROOM", 0)
    out = tmp_path / "disk" / "b"
    out.parent.mkdir()
    mounted(out.parent, size)
    try:
        with pytest.raises((ConfigError, EncoderError)) as caught:
            export(str(tiny_encoder), str(out), patches=str(drawn_slide))
        assert "\n" not in str(caught.value)
        assert not list(out.parent.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", out.parent], check=True)  # the error keeps files open


def mounted(folder: Path, size: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("this user cannot mount a small disk")


@pytest.mark.slow
def test_a_killed_export_leaves_the_former_bundle_and_the_next_one_tidies(
    tiny_encoder: Path, drawn_slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    export(str(tiny_encoder), str(out), formats=[])
    before = content(out)
    command = [
        sys.executable,
        "-m",
        "g2l",
        "export",
        str(tiny_encoder),
        "--out",
        str(out),
        "--patches",
        str(drawn_slide),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(tmp_path.glob(".b.*/model.onnx")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert list(tmp_path.glob(".b.*/model.onnx"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert content(out) == before and len(list(tmp_path.iterdir())) == 2
    export(str(tiny_encoder), str(out), formats=[])
    assert [one.name for one in tmp_path.iterdir()] == ["b"]


def test_a_bundle_moved_aside_by_a_killed_export_is_put_back(tiny_encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    export(str(tiny_encoder), str(out), formats=[])
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    name = f".b.{bundles.platform.node()}.{int(dead.stdout)}"
    before = content(out)
    out.rename(tmp_path / f"{name}.old")
    (tmp_path / f"{name}.tmp").mkdir()
    (tmp_path / f".b.{bundles.platform.node()}.{os.getppid()}.tmp").mkdir()  # of a process that lives
    bundles.tidy(out)
    assert content(out) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == [f".b.{bundles.platform.node()}.{os.getppid()}.tmp", "b"]


def test_a_bundle_that_does_not_open_is_not_delivered(
    bundle: Path, tiny_encoder: Path, drawn_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last look at the folder is that of its receiver."""

    def copied(encoder: Encoder, file: Path, tokens: bool = False) -> None:
        file.write_bytes((bundle / "model.onnx").read_bytes())

    def with_pickle(file: Path) -> None:
        file.with_name("extra.pkl").write_bytes(b"\x80\x04N.")
        file.write_text("")

    monkeypatch.setattr(graph, "write_onnx", copied)
    monkeypatch.setattr("g2l.deploy.whole.write_requirements", with_pickle)
    with pytest.raises(EncoderError, match=r"the bundle does not open: .*b: .*extra\.pkl"):
        export(str(tiny_encoder), str(tmp_path / "b"), patches=str(drawn_slide), formats=["onnx"])
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_was_opened_from_the_bundle_is_the_one_exported(bundle: Path, tiny_encoder: Path) -> None:
    one, other = open_encoder(str(bundle)), open_encoder(str(tiny_encoder))
    states = one.backbone.state_dict(), other.backbone.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert (one.spec.mpp, one.spec.pooling, one.spec.mean) == (other.spec.mpp, other.spec.pooling, other.spec.mean)


@pytest.mark.slow
@pytest.mark.real_data
def test_a_trained_encoder_passes_on_real_slides(real_data: Path, tmp_path: Path) -> None:
    result = export("demo-giga", str(tmp_path / "giga"), patches=str(real_data / "slides"))
    formats = json.loads((tmp_path / "giga" / "parity.json").read_text())["formats"]
    able = [format for format in FORMATS if not usable(format) and format.kind != "int8"]
    assert all(formats[format.name]["passed"] for format in able)
    int8 = formats["openvino-int8"]  # on real patches its gate decides; either way the bundle says so
    assert int8["passed"] == (tmp_path / "giga" / "openvino" / "int8.xml").exists() == (not int8["why"])
    assert str(result).splitlines()[-1] == "this encoder may be redistributed"
