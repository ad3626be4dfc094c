"""The ways to run one encoder that inference.py compares, and the matrix products that its shares are taken of."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from g2l.deploy.graph import Graph, plain
from g2l.deploy.runtime.engines import open_file_engine
from g2l.deploy.runtime.formats import FORMATS, Format
from g2l.deploy.runtime.processor import usable
from g2l.deploy.runtime.silent import import_openvino
from g2l.encoders.encoder import Encoder

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

BASE = "torch-fp32"
NAMES = (BASE, "torch-bf16", "torch-bf16-compiled", "onnx-int8-dynamic", *(form.name for form in reversed(FORMATS)))
# of a ViT-L: 8 images of 197 tokens, an MLP of 1024 -> 4096 -> 1024, twice
ROWS, WIDTH, HIDDEN, PRODUCTS = 1576, 1024, 4096, 4
FLOPS = 2.0 * ROWS * WIDTH * HIDDEN * PRODUCTS


class Contender(NamedTuple):
    """name; run: one batch; product: the arithmetic of its matrix products (f32, bf16, int8)."""

    name: str
    run: Run
    product: str


def contenders(
    encoder: Encoder, files: Path, temporary: Path, batch_size: int, threads: int, chosen: list[str] | None
) -> Iterator[Contender]:
    """All that can run here, PyTorch in float32 first.

    Args:
        files: a bundle, or a folder with its model.onnx and openvino/.
        temporary: where what no bundle holds is made.
        chosen: names; None for all. BASE is always among them.
    """
    half = plain(encoder).halve()
    yield Contender(BASE, _torch(Graph(plain(encoder)).eval()), "f32")
    if _wanted("torch-bf16", chosen):
        yield Contender("torch-bf16", _torch(Graph(half).eval()), "bf16")
    if _wanted("torch-bf16-compiled", chosen):
        compiled = torch.compile(Graph(half).eval(), dynamic=False)
        yield Contender("torch-bf16-compiled", _torch(compiled), "bf16")
    if _wanted("onnx-int8-dynamic", chosen):
        yield Contender("onnx-int8-dynamic", _dynamic(files, temporary, batch_size, threads), "int8")
    for form in reversed(FORMATS):
        if _wanted(form.name, chosen) and (files / form.file).is_file() and not usable(form):
            engine = open_file_engine(files / form.file, form, batch_size, threads)
            yield Contender(form.name, engine, "int8" if form.kind == "int8" else form.precision)


def _wanted(name: str, chosen: list[str] | None) -> bool:
    return chosen is None or name in chosen


def _torch(graph: nn.Module | Any) -> Run:
    @torch.inference_mode()
    def run(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return graph(torch.from_numpy(patches)).float().numpy()

    return run


def _dynamic(files: Path, temporary: Path, batch_size: int, threads: int) -> Run:
    """ONNX Runtime's weights in 8 bits, by channel, and activations rounded as they come: no calibration."""
    file = temporary / "dynamic.onnx"
    logging.getLogger().setLevel(logging.ERROR)  # it advises a step that changes nothing here
    quantize_dynamic(
        files / "model.onnx",
        file,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    return open_file_engine(file, Format(file.stem, file.name, "onnxruntime", "f32", "int8"), batch_size, threads)


def flops(encoder: Encoder) -> float:
    """Operations of one image's matrix products and convolutions."""
    graph = Graph(plain(encoder)).eval()
    counter = FlopCounterMode(display=False)
    # torch's counter knows fused attention of GPUs alone
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        graph(torch.zeros(1, encoder.size, encoder.size, 3, dtype=torch.uint8))
    return float(counter.get_total_flops())


def product(kind: str, threads: int) -> Callable[[], object]:
    """FLOPS operations of large matrix products in OpenVINO: f32, bf16, or int8 with its rounding of activations."""
    openvino = import_openvino()
    from openvino import opset13 as op

    rng = np.random.default_rng(0)
    given = op.parameter([ROWS, WIDTH], np.float32)
    node = given
    for shape in [(WIDTH, HIDDEN), (HIDDEN, WIDTH)] * (PRODUCTS // 2):
        weights = rng.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[0], dtype=np.float32)
        if kind == "int8":
            edges = [op.constant(np.float32(edge)) for edge in (-4, 4, -4, 4)]
            node = op.fake_quantize(node, *edges, 256)
            eight = np.clip(np.round(weights * 500), -127, 127).astype(np.int8)
            right = op.multiply(op.convert(op.constant(eight), "f32"), op.constant(np.float32(1 / 500)))
        else:
            right = op.constant(weights)
        node = op.matmul(node, right, False, False)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if kind == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = openvino.Core().compile_model(openvino.Model([node], [given]), "CPU", settings).create_infer_request()
    left = rng.standard_normal((ROWS, WIDTH), dtype=np.float32)
    return lambda: request.infer([left])
