"""Engines of every format compute what PyTorch does, alike at every call; the fastest that is right here is taken."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.deploy.runtime import engines, processor
from g2l.deploy.runtime.engines import candidates, choose, open_engine, open_file_engine
from g2l.deploy.runtime.formats import FORMATS, NAMES, get_format
from g2l.deploy.runtime.gates import compare
from g2l.deploy.runtime.opened import OpenBundle, open_bundle
from g2l.deploy.runtime.processor import cores, usable, usable_formats
from g2l.deploy.runtime.vector import Vector, read_vector
from g2l.errors import ConfigError
from g2l.sums import write_sums


@pytest.fixture
def opened(bundle: Path) -> OpenBundle:
    return open_bundle(bundle)


@pytest.fixture
def vector(opened: OpenBundle) -> Vector:
    return read_vector(opened.folder / "test_vector.h5", opened.prepared.size, opened.prepared.embed_dim)


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def without(monkeypatch: pytest.MonkeyPatch, *gone: str) -> None:
    """A processor that lacks what it has."""
    left = processor.capabilities() - set(gone)
    monkeypatch.setattr(processor, "capabilities", lambda: left)
    monkeypatch.setattr(engines, "capabilities", lambda: left)


# --- what they compute ------------------------------------------------------------------------------------------------


def test_every_format_gives_what_pytorch_gave(opened: OpenBundle, vector: Vector) -> None:
    tried = [format for format in opened.formats if not usable(format)]
    assert {"openvino-fp32", "onnx-fp32", "openvino-fp16"} <= {format.name for format in tried}
    for format in tried:
        with open_engine(opened, format.name, threads=1) as engine:
            assert engine.format == format and engine.left_out == ()
            found = engine.all(vector.patches)
        assert found.dtype == np.float32 and found.shape == vector.embedding.shape
        assert compare(vector.embedding, found, format.kind).passed, format.name


@pytest.mark.parametrize("name", NAMES)
def test_a_call_is_repeated_bit_for_bit_and_a_short_batch_is_filled(
    name: str, opened: OpenBundle, vector: Vector
) -> None:
    if opened.why_not(get_format(name)) or usable(get_format(name)):
        pytest.skip(f"{name} cannot be had here")
    with open_engine(opened, name, 4, threads=1) as engine, open_engine(opened, name, 4, threads=1) as again:
        whole = engine(vector.patches[:4])
        assert (engine(vector.patches[:4]) == whole).all() and (again(vector.patches[:4]) == whole).all()
        for count in (1, 3):
            short = engine(vector.patches[:count])
            assert short.shape == (count, opened.prepared.embed_dim)
            # an image's embedding does not depend on its neighbours in the batch
            assert (short == whole[:count]).all()
        # what was handed out is the caller's: the next call does not write into it
        kept = whole.copy()
        engine(vector.patches[4:8])
        assert (whole == kept).all() and whole.flags.owndata


@pytest.mark.slow
def test_int8_runs_with_and_without_bfloat16(
    opened: OpenBundle, vector: Vector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle of the tests is too small a network for int8 to pass, so it is made here."""
    from g2l.deploy.openvino_ir import write_int8

    int8 = get_format("openvino-int8")
    if usable(int8):
        pytest.skip(usable(int8))
    file = write_int8(opened.folder / "model.onnx", tmp_path / "openvino", vector.patches)
    found = []
    for gone in ((), ("BF16",)):
        with monkeypatch.context() as patched:
            without(patched, *gone)
            with (
                open_file_engine(file, int8, 4, threads=1) as engine,
                open_file_engine(file, int8, 4, threads=1) as two,
            ):
                found.append(engine.all(vector.patches))
                assert (two.all(vector.patches) == found[-1]).all()
        assert compare(vector.embedding, found[-1], "int8").mean_cosine > 0.97
        assert not compare(vector.embedding, found[-1], "fp32").passed
    if "BF16" in processor.capabilities():
        assert (found[0] != found[1]).any()


def test_arrays_that_are_no_plain_block_are_taken(opened: OpenBundle, vector: Vector) -> None:
    for name in ("onnx-fp32", "openvino-fp32"):
        with open_engine(opened, name, 4, threads=1) as engine:
            turned = vector.patches[:4][:, ::-1, ::-1]
            assert (engine(turned) == engine(np.ascontiguousarray(turned))).all()
            given = vector.patches[:4].copy()
            given.flags.writeable = False
            engine(given)
            assert (given == vector.patches[:4]).all()


def test_what_does_not_fit_a_batch_is_a_mistake(opened: OpenBundle, vector: Vector) -> None:
    engine = open_engine(opened, "onnx-fp32", 4, threads=1)
    for patches in (vector.patches[:5], vector.patches[:0]):
        with pytest.raises(ValueError, match="for an engine of batches of 4"):
            engine(patches)
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine(vector.patches[:4])


def test_other_threads_go_on_while_an_engine_computes(opened: OpenBundle, vector: Vector) -> None:
    for name in ("onnx-fp32", "openvino-fp32"):
        with open_engine(opened, name, 64, threads=1) as engine:
            engine(vector.patches[:64])
            counted, ended = [0], threading.Event()

            def count(counted: list[int] = counted, ended: threading.Event = ended) -> None:
                while not ended.is_set():
                    counted[0] += 1
                    time.sleep(0)

            thread = threading.Thread(target=count)
            thread.start()
            before = counted[0]
            interval = sys.getswitchinterval()
            sys.setswitchinterval(10)  # whoever computes and keeps the lock would now keep it for ten seconds
            try:
                for _ in range(5):
                    engine(vector.patches[:64])
            finally:
                sys.setswitchinterval(interval)
                ended.set()
                thread.join()
            assert counted[0] - before > 50, name


# --- which is taken ---------------------------------------------------------------------------------------------------


def test_the_fastest_that_passed_is_taken(opened: OpenBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    able = [format.name for format in opened.formats if not usable(format)]
    assert [format.name for format in candidates(opened)] == able and choose(opened).name == able[0]
    with open_engine(opened, threads=1) as engine:
        assert engine.format.name == able[0]
    without(monkeypatch, "BF16", "INT8")
    assert choose(opened).name == "openvino-fp16"
    with open_engine(opened, threads=1) as engine:
        assert engine.format.name == "openvino-fp16"


def test_a_processor_that_cannot_is_told_what_it_can(opened: OpenBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "BF16")
    assert "openvino-bf16" not in usable_formats()
    with pytest.raises(ConfigError) as caught:
        open_engine(opened, "openvino-bf16")
    assert "format openvino-bf16 cannot be used: this processor has no 16-bit (bfloat16) arithmetic" in str(
        caught.value
    )
    assert "those that can be used here: " in str(caught.value) and "openvino-fp32, onnx-fp32" in str(caught.value)
    with pytest.raises(ConfigError, match=r"format openvino-bf16 cannot run here: .*; can run: openvino-.*onnx-fp32"):
        open_file_engine(opened.folder / "openvino" / "model.xml", get_format("openvino-bf16"))


def test_a_library_that_is_not_installed_is_named(opened: OpenBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "find_spec", lambda name: None if name == "openvino" else object())
    assert usable_formats() == ["onnx-fp32"]
    with open_engine(opened, threads=1) as engine:
        assert engine.format.name == "onnx-fp32"
    with pytest.raises(
        ConfigError, match=r"openvino is not installed \(pip install openvino\); those .* here: onnx-fp32"
    ):
        open_engine(opened, "openvino-fp32")
    monkeypatch.setattr(processor, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"no format can run here: .*onnx-fp32: onnxruntime is not installed"):
        open_engine(opened)


def change_parity(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / "parity.json").read_text())
    change(content["formats"])
    (folder / "parity.json").write_text(json.dumps(content))
    write_sums(folder)


def test_a_format_that_did_not_pass_is_refused_with_its_reason(copied: Path) -> None:
    failed = {"written": False, "passed": False, "why": "kNN agreement 0.90000 is below 0.98"}
    change_parity(copied, lambda formats: formats.update({"openvino-int8": failed}))
    with pytest.raises(
        ConfigError, match=r"openvino-int8 cannot be used: kNN agreement 0\.90000 is below 0\.98; those"
    ):
        open_engine(open_bundle(copied), "openvino-int8")
    assert choose(open_bundle(copied)).name != "openvino-int8"
    change_parity(copied, lambda formats: formats.pop("openvino-int8"))
    with pytest.raises(ConfigError, match=r"openvino-int8 cannot be used: it was not exported; those"):
        open_engine(open_bundle(copied), "openvino-int8")
    with pytest.raises(ConfigError, match="no format is called tensorrt"):
        open_engine(open_bundle(copied), "tensorrt")


def test_a_format_that_computes_something_else_here_is_passed_over(
    opened: OpenBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an int8 kernel that overflows on an older processor would: the real network, its embeddings spoilt."""
    real = engines._openvino

    def spoilt(file: Path, format: Any, batch_size: int, threads: int) -> engines.Network:
        network = real(file, format, batch_size, threads)

        def wrong(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
            found = network(patches).copy()
            found[:, ::3] *= -1
            return found

        return wrong

    monkeypatch.setattr(engines, "_openvino", spoilt)
    with open_engine(opened, threads=1) as engine:
        assert engine.format.name == "onnx-fp32"
        assert len(engine.left_out) == len([format for format in opened.formats if not usable(format)]) - 1
        assert "on this processor its cosine to the test vector is" in engine.left_out[0]
    with pytest.raises(ConfigError, match=r"cannot be used here: openvino-fp32: .*, or run: g2l verify"):
        open_engine(opened, "openvino-fp32", threads=1)


def test_a_damaged_file_is_named_and_settings_are_checked(opened: OpenBundle, copied: Path) -> None:
    for name, text in (("model.onnx", "onnxruntime"), ("openvino/model.xml", "openvino")):
        file = copied / name
        file.write_bytes(file.read_bytes()[:1000])
        format = next(
            format for format in FORMATS if format.file == name and format.engine == text and not usable(format)
        )
        with pytest.raises(ConfigError, match=rf"{name} cannot be read by {text}: .*; export it again") as caught:
            open_file_engine(file, format)
        assert "\n" not in str(caught.value)
    for settings in ({"batch_size": 0}, {"threads": 0}, {"threads": -1}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            open_engine(opened, "onnx-fp32", **settings)


def test_a_graph_for_other_patches_is_told_in_one_line(copied: Path) -> None:
    content = json.loads((copied / "preprocess.json").read_text())
    size = content["size"] // 2
    (copied / "preprocess.json").write_text(json.dumps(content | {"size": size}))
    with h5py.File(copied / "test_vector.h5", "a") as vector:
        patches = np.asarray(vector["patches"])[:, :size, :size]
        del vector["patches"]
        vector["patches"] = patches
    write_sums(copied)
    for name in ("onnx-fp32", "openvino-fp32"):
        with pytest.raises(ConfigError, match=rf"{name} fails on 8 x {size} x {size} x 3 bytes of patches: ") as caught:
            open_engine(open_bundle(copied), name, threads=1)
        assert "\n" not in str(caught.value)


def test_a_bundle_may_lie_anywhere(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "Bündel für Prüfung – 病理 'a' $HOME"))
    for name in ("onnx-fp32", "openvino-fp32", "openvino-fp16"):
        with open_engine(open_bundle(folder), name, threads=1) as engine:
            assert engine.format.name == name


# --- the computer -----------------------------------------------------------------------------------------------------


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(processor, "_QUOTA", quota)
    monkeypatch.setattr(processor, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: set(range(8)))
    for content, expected in (
        ("max 100000", 8),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 8),
        ("", 8),
    ):
        quota.write_text(content)
        assert cores() == expected, content
    quota.unlink()
    assert cores() == 8
    for number in range(8):  # two threads on each core
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    assert cores() == 4
    monkeypatch.delattr(processor.os, "sched_getaffinity")
    monkeypatch.setattr(processor.os, "cpu_count", lambda: None)
    assert cores() == 1


@pytest.mark.slow
def test_nothing_is_sent_and_nothing_is_written_beside_the_bundle(copied: Path, tmp_path: Path) -> None:
    """A process of its own whose sockets tell; openvino's telemetry starts at import."""
    code = f"""
import socket, sys
def told(*_, **__): raise SystemExit("a socket was opened")
def named(*_, **__): raise SystemExit("a name was looked up")
class Closed(socket.socket):
    connect = connect_ex = sendto = told
socket.socket = Closed
socket.getaddrinfo = named
from pathlib import Path
import numpy as np
from g2l.deploy.runtime.engines import open_engine
from g2l.deploy.runtime.opened import open_bundle
bundle = open_bundle(Path({str(copied)!r}))
for format in bundle.formats:
    with open_engine(bundle, format.name, 2, 1) as engine:
        engine(np.zeros((2, bundle.prepared.size, bundle.prepared.size, 3), np.uint8))
loaded = [name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name] is not None]
assert not loaded, loaded
heavy = {{"torch", "timm", "lightning", "pandas", "pyarrow", "scipy", "sklearn", "tiatoolbox", "jsonargparse", "onnx"}}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(engines.__file__).parents[3])},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before
    assert not list(home.iterdir())
