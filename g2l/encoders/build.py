"""Architectures without weights: what EncoderSpec.architecture and .args stand for."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers.mlp import GluMlp, Mlp, SwiGLU, SwiGLUPacked
from torch import nn

from g2l.encoders.catalog import EncoderSpec
from g2l.encoders.conch import ConchVisual
from g2l.errors import EncoderError

# Model cards name these classes; in YAML they are words. timm resolves words for activations and norms by itself.
MLP_LAYERS = {"Mlp": Mlp, "GluMlp": GluMlp, "SwiGLU": SwiGLU, "SwiGLUPacked": SwiGLUPacked}


def build_backbone(spec: EncoderSpec, training_args: Mapping[str, Any] | None = None) -> nn.Module:
    """The architecture on the current default device, with the random weights of torch's global generator.

    Args:
        training_args: further arguments, which the entry does not state.
    Raises:
        EncoderError: when the architecture is unknown or its arguments do not fit it.
    """
    args = {**_resolve(spec), **(training_args or {})}
    try:
        if spec.architecture == "conch-visual":
            backbone: nn.Module = ConchVisual(**args)
        else:
            backbone = timm.create_model(spec.architecture, pretrained=False, **{"num_classes": 0, **args})
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise EncoderError(
            f"encoder {spec.name}: {spec.architecture} cannot be built with {args}: {' '.join(str(error).split())}"
        ) from error
    if spec.norm_eps is not None:
        for module in backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = spec.norm_eps
    return backbone


def build_empty(spec: EncoderSpec, training_args: Mapping[str, Any] | None = None) -> nn.Module:
    """The architecture without memory, so that weights are taken over, not copied.

    Where that is not possible (buffers would stay empty; vision transformers have none) it is built with memory.
    """
    if not spec.architecture.startswith(("vit_", "conch-visual")):
        return build_backbone(spec, training_args)
    with torch.device("meta"):
        backbone = build_backbone(spec, training_args)
    return build_backbone(spec, training_args) if any(True for _ in backbone.buffers()) else backbone


def _resolve(spec: EncoderSpec) -> dict[str, Any]:
    args = dict(spec.args)
    word = args.get("mlp_layer")
    if isinstance(word, str):
        if word not in MLP_LAYERS:
            raise EncoderError(f"encoder {spec.name}: mlp_layer {word!r} is none of {', '.join(MLP_LAYERS)}")
        args["mlp_layer"] = MLP_LAYERS[word]
    if isinstance(args.get("act_layer"), str):
        args["act_layer"] = args["act_layer"].lower()
    return args
