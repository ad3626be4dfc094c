"""Things tried for real: `python -m g2l.deploy.checks.trials NAME` tries one and writes what it saw as a line of JSON.

Each runs in a process of its own (apart.py): a library that is broken, or that ends the process, ends only its trial.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

DRAWN_UM = 400.0  # side of the slide that is drawn: 800 px
DECODED_S = 0.3  # how long the decoder is timed
# y = relu(x @ [[1, -1], [2, 0]] + [-1, 3]) as an ONNX file of three nodes, opset 17.
GRAPH = base64.b64decode(
    "CAk6kgEKEQoBeAoBdxIBbSIGTWF0TXVsCg4KAW0KAWISAWEiA0FkZAoMCgFhEgF5IgRSZWx1EgNnMmwqGwgCCAIQASIQAACAPwAAgL8AAABAAAAA"
    "AEIBdyoRCAIQASIIAACAvwAAQEBCAWJaFAoBeBIPCg0IARIJCgMSAW4KAggCYhQKAXkSDwoNCAESCQoDEgFuCgIIAkIECgAQEQ=="
)
GIVEN, DUE = [[1.0, 2.0], [3.0, 4.0]], [[4.0, 2.0], [10.0, 0.0]]


def try_slides() -> dict[str, Any]:
    """Draws a slide, writes it as a pyramid, and reads it with both readers; times the JPEG decoder."""
    import numpy as np
    import openslide
    import simplejpeg

    from g2l.slides.slide import Slide

    with tempfile.TemporaryDirectory() as folder:
        path = _drawn(Path(folder))
        read = {}
        for backend in ("tiles", "openslide"):
            with Slide.open(path, backend=backend) as slide:
                read[backend] = slide.read_patch(50, 50, 256, slide.mpp).astype(np.float32)
                reason, levels = slide.backend_reason, len(slide.levels)
    difference = float(np.abs(read["tiles"] - read["openslide"]).mean())
    tile = simplejpeg.encode_jpeg(read["openslide"].astype(np.uint8), quality=80)
    # Time of the processor, not of the clock: the other trials run at the same time.
    start, decoded, spent = time.process_time(), 0, 0.0
    while spent < DECODED_S:
        simplejpeg.decode_jpeg(tile)
        decoded, spent = decoded + 256 * 256, time.process_time() - start
    return {
        "openslide": openslide.__library_version__,
        "levels": levels,
        "reason": reason,
        "difference": difference,
        "spread": float(read["tiles"].std()),
        "megapixels_per_second": decoded / 1e6 / spent,
    }


def try_tiatoolbox() -> dict[str, Any]:
    """Reads the drawn slide as the last of the readers does, which serves files that OpenSlide does not open."""
    import tiatoolbox
    from tiatoolbox.wsicore.wsireader import WSIReader

    with tempfile.TemporaryDirectory() as folder:
        slide = WSIReader.open(_drawn(Path(folder)))
        pixels = slide.read_rect((0, 0), (64, 64), resolution=0, units="level")
    return {"version": tiatoolbox.__version__, "shape": list(pixels.shape)}


def try_torch() -> dict[str, Any]:
    """A convolution on every device, one of torchvision's own operators, and which weight files are there."""
    import torch

    seen: dict[str, Any] = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda or "",
        "driver": _driver(),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    seen["warnings"] = [" ".join(str(one.message).split()) for one in caught]
    seen["devices"] = [_device(index) for index in range(torch.cuda.device_count())] if available else []
    return seen | {"sum": _convolved("cpu"), "weights": _weights(os.environ.get("G2L_WEIGHTS", "weights"))}


def try_torchvision() -> dict[str, Any]:
    """One of torchvision's compiled operators: builds for another torch import, and then lack them."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1], [5.0, 5.0, 6.0, 6.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    return {"version": torchvision.__version__, "kept": kept.tolist()}


def try_openvino() -> dict[str, Any]:
    """Three nodes on OpenVINO's CPU plugin, and what arithmetic this processor has."""
    import numpy as np

    from g2l.deploy.runtime.silent import import_openvino

    openvino = import_openvino()
    core = openvino.Core()
    model = core.compile_model(core.read_model(GRAPH), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = model({"x": np.array(GIVEN, np.float32)})[0]
    return {
        "version": openvino.__version__.split("-")[0],
        "processor": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "capabilities": list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        "result": result.tolist(),
    }


def try_onnxruntime() -> dict[str, Any]:
    """Three nodes on ONNX Runtime's CPU provider."""
    import numpy as np

    from g2l.deploy.runtime.silent import import_onnxruntime

    onnxruntime = import_onnxruntime()
    session = onnxruntime.InferenceSession(GRAPH, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.array(GIVEN, np.float32)})
    return {
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "result": np.asarray(result).tolist(),
    }


TRIALS = {
    "slides": try_slides,
    "tiatoolbox": try_tiatoolbox,
    "torch": try_torch,
    "torchvision": try_torchvision,
    "openvino": try_openvino,
    "onnxruntime": try_onnxruntime,
}


def _drawn(folder: Path) -> Path:
    from g2l.data.demo import cohort_orders, draw_slide
    from g2l.data.drawing.scanner import write_pyramid

    rgb, _, _, stain = draw_slide(0, cohort_orders()[0], DRAWN_UM)
    write_pyramid(folder / "drawn.tif", rgb, stain.mpp, stain.quality)
    return folder / "drawn.tif"


def _weights(folder: str) -> list[str]:
    """The encoders of the catalogue whose weight file lies in a folder."""
    from g2l.encoders.catalog import load_catalog
    from g2l.encoders.weights import SUFFIXES

    return [name for name in load_catalog() if any((Path(folder) / f"{name}{end}").is_file() for end in SUFFIXES)]


def _driver() -> str:
    """The NVIDIA driver's own words; empty where there is none."""
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return ""


def _device(index: int) -> dict[str, Any]:
    """A CUDA device; `error` where it is seen and does not work (a build without kernels for it, a driver too old)."""
    import torch

    about = torch.cuda.get_device_properties(index)
    seen: dict[str, Any] = {"name": about.name, "memory": about.total_memory, "error": ""}
    try:
        seen["free"] = torch.cuda.mem_get_info(index)[0]
        seen["sum"] = _convolved(f"cuda:{index}")
    except RuntimeError as error:
        seen["error"] = " ".join(str(error).split())[:200]
    return seen


def _convolved(device: str) -> float:
    """The sum of ones (1, 3, 8, 8) convolved with ones (1, 3, 3, 3): 36 places of 27."""
    import torch

    ones = torch.ones(1, 3, 8, 8, device=device)
    return float(torch.nn.functional.conv2d(ones, torch.ones(1, 3, 3, 3, device=device)).sum())


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(TRIALS[sys.argv[1]]()) + "\n")
