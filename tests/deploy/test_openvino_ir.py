"""OpenVINO's files give the encoder's embeddings, tell nothing of this machine, and nobody of their making."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from g2l.deploy import openvino_ir
from g2l.deploy.graph import torch_embed, write_onnx
from g2l.deploy.openvino_ir import write_int8, write_openvino
from g2l.deploy.runtime.silent import import_openvino
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.errors import EncoderError

SIZE = 64


def patches(count: int) -> NDArray[np.uint8]:
    """Smooth coloured fields, as tissue is and noise is not."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1)
    return (fine * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    torch.manual_seed(0)
    args: dict[str, Any] = {"img_size": SIZE, "embed_dim": 64, "depth": 2, "num_heads": 2}
    encoder = create_encoder("vit_tiny_patch16_224", init="random", **args)
    for parameter in encoder.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.1
    file = tmp_path_factory.mktemp("made") / "model.onnx"
    write_onnx(encoder, file)
    return encoder, file


@pytest.fixture(scope="module")
def int8(made: tuple[Encoder, Path]) -> Path:
    return write_int8(made[1], made[1].parent / "openvino", patches(40))


def run(file: Path, given: NDArray[np.uint8]) -> NDArray[np.float32]:
    compiled = import_openvino().Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(given)[0]


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_half_precision_weights_give_the_same_embeddings_for_any_number(made: tuple[Encoder, Path]) -> None:
    encoder, onnx = made
    file = write_openvino(onnx, onnx.parent / "half")
    assert sorted(one.name for one in file.parent.iterdir()) == ["model.bin", "model.xml"]
    assert 0.45 < file.with_suffix(".bin").stat().st_size / onnx.stat().st_size < 0.55
    expected = torch_embed(encoder, patches(5))
    for count in (1, 5):
        found = run(file, patches(5)[:count])
        assert found.shape == (count, 64) and cosines(found, expected[:count]).min() > 0.9999
        assert np.abs(found - expected[:count]).max() > 0  # that they were rounded can be seen


def test_int8_is_a_quarter_as_large_and_gives_nearly_the_same(made: tuple[Encoder, Path], int8: Path) -> None:
    encoder, onnx = made
    model = import_openvino().Core().read_model(int8)
    assert 0.2 < int8.with_suffix(".bin").stat().st_size / onnx.stat().st_size < 0.4
    # 2 blocks of 4 products, and the patch embedding, each with its weights in 8 bits
    eight = [
        op for op in model.get_ops() if op.get_type_name() == "Constant" and op.get_element_type().to_string() == "i8"
    ]
    assert len(eight) == 9
    others = patches(80)[40:]
    found = run(int8, others)
    assert cosines(found, torch_embed(encoder, others)).min() > 0.99
    assert np.abs(found - run(onnx, others)).max() > 1e-4


def test_what_the_gates_should_see_int8_on_other_pixels_is_worse(made: tuple[Encoder, Path], tmp_path: Path) -> None:
    """Calibrated on black patches alone, the ranges of activations fit nothing: the file is written all the same."""
    encoder, onnx = made
    wrong = run(write_int8(onnx, tmp_path, np.zeros((8, SIZE, SIZE, 3), np.uint8)), patches(20))
    assert cosines(wrong, torch_embed(encoder, patches(20))).min() < 0.99


@pytest.mark.slow
def test_the_same_graph_and_patches_give_the_same_bytes(made: tuple[Encoder, Path], int8: Path, tmp_path: Path) -> None:
    one, two = (write_openvino(made[1], tmp_path / name) for name in ("one", "two"))
    again = write_int8(made[1], tmp_path / "one", patches(40))
    for former, latter in ((one, two), (int8, again)):
        for suffix in (".xml", ".bin"):
            assert former.with_suffix(suffix).read_bytes() == latter.with_suffix(suffix).read_bytes()
    for file in (one, again):
        for told in (str(tmp_path), str(made[1].parent), str(Path(openvino_ir.__file__).parents[2]), "model.onnx"):
            assert told not in file.read_text(), told


def test_calibration_takes_a_few_spread_over_all(
    made: tuple[Encoder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Watched(openvino_ir._Shown):
        def __init__(self, chosen: NDArray[np.uint8]) -> None:
            seen.extend(int(patch[0, 0, 0]) for patch in chosen)
            super().__init__(chosen)

    monkeypatch.setattr(openvino_ir, "_Shown", Watched)
    monkeypatch.setattr(openvino_ir, "CALIBRATION", 5)
    given = patches(41)
    given[:, 0, 0, 0] = np.arange(41)
    write_int8(made[1], tmp_path, given)
    assert seen == [0, 10, 20, 30, 40]
    with pytest.raises(ValueError, match="at least one patch"):
        write_int8(made[1], tmp_path, given[:0])


def test_a_damaged_graph_is_refused_in_one_line_and_the_former_files_stay(
    made: tuple[Encoder, Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(made[1].read_bytes()[:5000])
    (tmp_path / "model.xml").write_text("former")
    for write in (write_openvino, lambda onnx, folder: write_int8(onnx, folder, patches(4))):
        with pytest.raises(EncoderError, match=r"cut\.onnx cannot be read by OpenVINO: ") as raised:
            write(cut, tmp_path)
        assert "\n" not in str(raised.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cut.onnx", "model.xml"]


def test_without_nncf_there_is_a_line_that_says_so(
    made: tuple[Encoder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(EncoderError, match="nncf, which is not installed; pip install nncf"):
        write_int8(made[1], tmp_path, patches(4))


# Outside pytest, in whose presence NNCF sends nothing anyway. Every way out of the process is watched.
WATCHED = """
import socket, sys
from pathlib import Path
import numpy as np
def refused(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        Path(sys.argv[3]).write_text(f"{event} {args}")
        raise OSError("not from here")
sys.addaudithook(refused)
from g2l.deploy.openvino_ir import write_int8, write_openvino
onnx, out = Path(sys.argv[1]), Path(sys.argv[2])
write_openvino(onnx, out)
write_int8(onnx, out, np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
import threading
for thread in threading.enumerate():
    if thread is not threading.main_thread() and not thread.daemon:
        thread.join(10)
"""


@pytest.mark.slow
def test_nothing_is_sent_nothing_is_left_in_the_home_folder_and_nothing_is_said(
    made: tuple[Encoder, Path], tmp_path: Path
) -> None:
    home, told = tmp_path / "home", tmp_path / "told"
    home.mkdir()
    surroundings = {key: value for key, value in os.environ.items() if key not in ("CI", "NNCF_CI", "NNCF_DEV")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(made[1]), str(tmp_path / "out"), str(told)],
        env=surroundings | {"HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [
        "int8.bin",
        "int8.xml",
        "model.bin",
        "model.xml",
    ]
    assert not told.exists(), told.read_text()
    assert not (home / "intel").exists()
