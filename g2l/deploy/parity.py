"""Every format of a bundle made, compared with PyTorch in float32, and kept only when it passes.

Letters: `n` patches, `S` their side in px, `D` embedding width.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from g2l import __version__
from g2l.deploy import graph, openvino_ir
from g2l.deploy.patches import FEWEST_TO_CALIBRATE, Patches
from g2l.deploy.progress import say
from g2l.deploy.runtime.engines import Engine, open_file_engine, usable
from g2l.deploy.runtime.formats import FORMATS, Format
from g2l.deploy.runtime.gates import GATES, compare
from g2l.deploy.runtime.processor import processor
from g2l.encoders.encoder import Encoder
from g2l.errors import EncoderError, G2LError

What = Literal["onnx", "openvino", "int8"]
WHATS: tuple[What, ...] = get_args(What)
FORMAT = 1
BATCH = 8
FILES: dict[What, str] = {"onnx": "model.onnx", "openvino": "openvino/model.xml", "int8": "openvino/int8.xml"}
BASE = "onnx-fp32"
VERSIONS = ("torch", "timm", "onnx", "onnxruntime", "openvino", "nncf", "numpy")


@dataclass(frozen=True)
class References:
    """PyTorch's float32 embeddings (n, D) of the real patches and of the test vector's."""

    real: NDArray[np.float32]
    vector: NDArray[np.float32]


def write_formats(
    encoder: Encoder,
    folder: Path,
    wanted: Sequence[What],
    patches: Patches,
    vector: NDArray[np.uint8],
    tokens: bool = False,
) -> tuple[dict[str, Any], References]:
    """Writes the formats that pass into a folder; of those that do not, no file is left.

    Args:
        wanted: what is made beside the ONNX file.
        vector: (n, S, S, 3) uint8, the patches of the test vector.
        tokens: the graphs have patch tokens as a second output.
    Returns:
        parity.json, and what the formats were compared with.
    Raises:
        EncoderError: the network cannot be exported, or its ONNX file does not give PyTorch's embeddings.
    """
    say("PyTorch, float32: the reference")
    reference = References(*(embed(encoder, images) for images in (patches.parity, vector)))
    say(f"writing {FILES['onnx']}")
    graph.write_onnx(encoder, folder / FILES["onnx"], tokens)
    entries: dict[str, dict[str, Any]] = {}
    made = {FILES["onnx"]: ""} | {
        FILES[what]: "it was not asked for" for what in WHATS if what not in ("onnx", *wanted)
    }
    for format in reversed(FORMATS):  # the ONNX file first: what it fails by, all others would
        if format.file not in made:
            made[format.file] = _convert(folder, format.file, patches.calibration)
        entry = entries[format.name] = {"file": format.file, "kind": format.kind, "written": False, "passed": False}
        why = made[format.file]
        entry |= {"why": why} if why else _compare(folder / format.file, format, reference, patches.parity, vector)
        if format.name == BASE and not entry["passed"]:
            raise EncoderError(
                f"encoder {encoder.spec.name}: its ONNX file does not give PyTorch's embeddings ({entry['why']}); "
                "nothing was exported"
            )
    kept = {entry["file"] for entry in entries.values() if entry["passed"]}
    for entry in entries.values():
        entry["written"] = entry["file"] in kept
    for file in set(FILES.values()) - kept:
        for part in (folder / file, (folder / file).with_suffix(".bin")):
            part.unlink(missing_ok=True)
    if (folder / "openvino").is_dir() and not any((folder / "openvino").iterdir()):
        (folder / "openvino").rmdir()
    parity = {
        "format": FORMAT,
        "reference": "PyTorch, float32, not compiled",
        "patches": patches.about | {"vector": len(vector)},
        "gates": GATES,
        "formats": {format.name: entries[format.name] for format in FORMATS},
        "made_on": made_on(),
    }
    return parity, reference


def made_on() -> dict[str, Any]:
    """The processor and the versions that the figures come from."""
    return {
        "processor": processor(),
        "versions": {"g2l": __version__, "python": platform.python_version()}
        | {name: version(name) for name in VERSIONS},
    }


def embed(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, D) of PyTorch in float32."""
    return graph.torch_embed(encoder, images, BATCH)


def _convert(folder: Path, file: str, calibration: NDArray[np.uint8]) -> str:
    """Makes an OpenVINO file of the ONNX file; why it could not be, or ""."""
    if file == FILES["int8"] and len(calibration) < FEWEST_TO_CALIBRATE:
        return f"{len(calibration)} patches are too few to calibrate on; {FEWEST_TO_CALIBRATE} are needed"
    say(f"writing {file}")
    onnx, place = folder / FILES["onnx"], (folder / file).parent
    place.mkdir(exist_ok=True)
    try:
        if file == FILES["int8"]:
            openvino_ir.write_int8(onnx, place, calibration)
        else:
            openvino_ir.write_openvino(onnx, place)
    except (G2LError, RuntimeError) as error:  # OpenVINO and NNCF raise RuntimeError for all they cannot do
        return f"it could not be made: {_reason(error)}"
    return ""


def _compare(
    file: Path, format: Format, reference: References, real: NDArray[np.uint8], vector: NDArray[np.uint8]
) -> dict[str, Any]:
    """The entry of one format: what was measured on both sets of patches, and the verdict."""
    if reason := usable(format):
        return {"why": f"it could not be measured here: {reason}"}
    say(f"comparing {format.name}")
    try:
        with open_file_engine(file, format, BATCH) as engine:
            found = {"real": compare(reference.real, _run(engine, real), format.kind)}
            found["vector"] = compare(reference.vector, _run(engine, vector), format.kind)
    except (G2LError, RuntimeError) as error:
        return {"why": f"it does not run: {_reason(error)}"}
    why = "; ".join(f"{name} patches: {one.why}" for name, one in found.items() if not one.passed)
    measured = {name: one.to_dict() for name, one in found.items()}
    return {"passed": not why, "why": why, **measured}


def _run(engine: Engine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    starts = tqdm(range(0, len(images), BATCH), desc=engine.format.name, unit="batch", leave=False, disable=None)
    return np.concatenate([engine(images[start : start + BATCH]) for start in starts])


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
