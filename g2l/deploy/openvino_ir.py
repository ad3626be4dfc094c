"""OpenVINO's files of a bundle, made from its ONNX: half-precision weights, and int8 calibrated on patches.

Letters: `B` patches, `S` their side in px.

NNCF and OpenVINO report their use over the network, unasked, unless the package openvino_telemetry cannot be imported:
both are imported here in a process where it cannot.
"""

import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from g2l.deploy.runtime.silent import import_openvino
from g2l.errors import EncoderError

CALIBRATION = 128
_LOUD = ("nncf", "torch.utils.cpp_extension")


def write_openvino(onnx: Path, folder: Path) -> Path:
    """Writes folder/model.xml and model.bin: float16 weights, computed in float32 or bfloat16 as the reader asks.

    Args:
        onnx: the graph (deploy.graph.write_onnx).
        folder: made when absent.
    Returns:
        The .xml.
    Raises:
        EncoderError: OpenVINO cannot read the graph.
    """
    return _save(_read(onnx), folder / "model.xml", halved=True)


def write_int8(onnx: Path, folder: Path, patches: NDArray[np.uint8]) -> Path:
    """Writes folder/int8.xml and int8.bin: weights and activations in 8 bits where that is faster.

    NNCF's post-training quantisation for transformers: SmoothQuant, asymmetric activations, fast bias correction. The
    ranges of activations are those of at most CALIBRATION patches, spread evenly over those given. Whether the result
    is any good is not looked at here: the gates decide.

    Args:
        onnx: the graph (deploy.graph.write_onnx).
        folder: made when absent.
        patches: (B, S, S, 3) uint8 RGB, of the tissue the encoder is for.
    Returns:
        The .xml.
    Raises:
        EncoderError: NNCF is not installed, or cannot quantise this network.
    """
    if not len(patches):
        raise ValueError("int8 needs at least one patch to calibrate on")
    nncf = _import_nncf()
    model = _read(onnx)
    chosen = patches[np.linspace(0, len(patches) - 1, min(CALIBRATION, len(patches))).round().astype(int)]
    try:
        with _quiet():
            quantised = nncf.quantize(
                model,
                nncf.Dataset(_Shown(chosen)),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(chosen),
            )
    except Exception as error:  # NNCF raises what the failing part raises
        reason = " ".join(str(error).split())[:300]
        raise EncoderError(
            f"{onnx.name} cannot be quantised to int8: {reason}; the other formats do not need it"
        ) from error
    return _save(quantised, folder / "int8.xml", halved=False)


class _Shown:
    """One patch at a time, as often as NNCF asks for them, with a bar on a terminal: of ViT-L it takes minutes."""

    def __init__(self, patches: NDArray[np.uint8]) -> None:
        self.patches, self.times = patches, 0

    def __len__(self) -> int:
        return len(self.patches)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        self.times += 1
        for patch in tqdm(self.patches, desc=f"calibrating int8, pass {self.times}", leave=False, disable=None):
            yield patch[None]


def _read(onnx: Path) -> Any:
    try:
        return import_openvino().Core().read_model(onnx)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise EncoderError(f"{onnx} cannot be read by OpenVINO: {reason}; export the encoder again") from error


def _save(model: Any, file: Path, halved: bool) -> Path:
    """Both files, under other names first, then renamed. The same graph gives the same bytes: OpenVINO numbers what it
    has no name for by what else the process has made.
    """
    for number, operation in enumerate(model.get_ordered_ops()):
        if operation.get_type_name() not in ("Parameter", "Result"):
            operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    file.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.stem}.") as building:
        written = Path(building) / file.name
        import_openvino().save_model(model, written, compress_to_fp16=halved)
        for suffix in (".bin", ".xml"):
            written.with_suffix(suffix).replace(file.with_suffix(suffix))
    return file


def _import_nncf() -> Any:
    import_openvino()
    if "nncf" not in sys.modules:
        # Also where something else imported openvino before, with its telemetry.
        sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType]
    try:
        import nncf
    except ImportError as error:
        raise EncoderError("int8 needs nncf, which is not installed; pip install nncf") from error
    return nncf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without NNCF's bars and messages, which say nothing a user could act on."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
