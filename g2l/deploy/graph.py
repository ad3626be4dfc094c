"""An encoder as an ONNX graph that takes bytes: what every format of a bundle is made from, and compared with.

Letters: `B` images, `S` their side in px, `N` patch tokens, `D` embedding width, `P` patch-token width.
"""

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from g2l.encoders.encoder import Encoder
from g2l.errors import EncoderError

# The file is one protobuf message, which holds 2 GiB at most.
ONE_FILE = 1_800_000_000


class Graph(nn.Module):
    """Bytes in, embedding out: an encoder with all that its images need, at its one size."""

    def __init__(self, encoder: Encoder, tokens: bool = False) -> None:
        """Args: encoder: as `plain` gives it. tokens: patch tokens come out too."""
        super().__init__()
        self.encoder, self.tokens = encoder, tokens

    def forward(self, patches: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """patches: (B, S, S, 3) uint8 RGB. Returns (B, D) float32 and, with `tokens`, (B, N, P) float32."""
        cls, tokens, _ = self.encoder(patches.permute(0, 3, 1, 2).float() / 255, resize=False)
        return (cls, tokens) if self.tokens else cls


def plain(encoder: Encoder) -> Encoder:
    """A copy in float32 on the CPU, in eval mode, with the position embeddings of its own size.

    A model that takes any size resamples its positions in every pass; ONNX would do that with another filter.
    """
    copied = copy.deepcopy(encoder).cpu().float().eval().requires_grad_(False)
    copied.halved = False
    backbone, size = copied.backbone, (encoder.size, encoder.size)
    if hasattr(backbone, "set_grad_checkpointing"):
        backbone.set_grad_checkpointing(False)  # timm's models heed it in eval mode too, and torch cannot trace it
    if isinstance(backbone, VisionTransformer) and backbone.patch_embed.img_size not in (None, size):
        backbone.set_input_size(img_size=size)
    return copied


def write_onnx(encoder: Encoder, file: Path, tokens: bool = False) -> None:
    """Writes the graph: input `patches` (B, S, S, 3) uint8, output `embedding` (B, D) float32; B is free.

    One file up to 1.8 GB of weights; above, they lie in `<file>.data` beside it. The same encoder gives the same bytes,
    and nothing in them tells where they were made.

    Args:
        encoder: any, on any device; it is copied.
        file: replaced when it exists.
        tokens: a second output `tokens` (B, N, P) float32, row by row.
    Raises:
        EncoderError: torch cannot state the network as a graph with a free batch.
    """
    graph = Graph(plain(encoder), tokens).eval()
    model = _trace(graph, f"encoder {encoder.spec.name}")
    _forget(model)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    weights = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    data = f"{file.name}.data" if weights > ONE_FILE else None
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as building:
        written = Path(building) / file.name
        onnx_ir.save(model, written, external_data=data)
        if data is None:
            file.with_name(f"{file.name}.data").unlink(missing_ok=True)  # of a larger encoder that stood here
        else:
            (Path(building) / data).replace(file.with_name(data))
        written.replace(file)


def _trace(graph: Graph, where: str) -> onnx_ir.Model:
    size = graph.encoder.size
    # Two images: torch takes a batch of one, like every other 1, for a constant.
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=65536)
    options: dict[str, Any] = {
        "input_names": ["patches"],
        "output_names": ["embedding", "tokens"] if graph.tokens else ["embedding"],
        "dynamic_shapes": {"patches": {0: batch}},
    }
    try:
        with _quiet(), torch.autocast("cpu", enabled=False):
            program = torch.onnx.export(graph, (images,), dynamo=True, verbose=False, **options)
    except Exception as error:  # torch raises what the failing part raises; what it says first is the reason
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise EncoderError(f"{where} cannot be exported to ONNX: {reason}") from error
    model = program.model  # type: ignore[union-attr]  # None only where a file is given
    ends = (*model.graph.inputs, *model.graph.outputs)
    if any(value.shape is None or isinstance(value.shape[0], int) for value in ends):
        # A len() or an int() of a tensor's shape somewhere in the network's code: torch says nothing about it.
        raise EncoderError(f"{where} cannot be exported to ONNX: its code takes the number of images for a constant")
    return model


def _forget(model: onnx_ir.Model) -> None:
    """Takes out torch's notes: stack traces with paths of this machine, and what is not the same twice."""
    ClearMetadataAndDocStringPass()(model)
    model.graph.metadata_props.clear()
    values = [
        *model.graph.inputs,
        *model.graph.initializers.values(),
        *(v for node in model.graph for v in node.outputs),
    ]
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the optimiser's list of what it leaves as it is, and a warning of torch about torch's own code."""
    logger = logging.getLogger("onnxscript.optimizer._constant_folding")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


@torch.inference_mode()
def torch_embed(encoder: Encoder, patches: NDArray[np.uint8], batch_size: int = 8) -> NDArray[np.float32]:
    """PyTorch's float32 embeddings, not compiled: what the gates compare every format with.

    Args:
        patches: (B, S, S, 3) uint8 RGB.
        batch_size: images at a time.
    Returns:
        (B, D) float32.
    """
    graph = Graph(plain(encoder)).eval()
    with torch.autocast("cpu", enabled=False):
        parts = [graph(torch.from_numpy(patches[at : at + batch_size])) for at in range(0, len(patches), batch_size)]
    return torch.cat(parts).numpy() if parts else np.empty((0, encoder.embed_dim), np.float32)
