"""A student as a folder that `timm.create_model("local-dir:...", pretrained=True)` reloads to identical embeddings."""

import copy
import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data.config import resolve_model_data_config
from timm.layers.layer_scale import LayerScale
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from g2l.encoders.catalog import EncoderSpec
from g2l.encoders.encoder import Encoder, Tokens
from g2l.errors import EncoderError

TENSORS = "model.safetensors"
_TIMM_EPS = 1e-6


def check_exportable(spec: EncoderSpec) -> None:
    """EncoderError where timm's config.json cannot state the architecture; callable before a training starts."""
    reason = ""
    if spec.architecture in ("conch-visual", "transformers"):
        reason = f"its architecture ({spec.architecture}) is not timm's"
    elif "mlp_layer" in spec.args:
        reason = "timm's config.json cannot name an mlp_layer; describe it as catalog.yaml does h0-mini"
    elif spec.norm_eps not in (None, _TIMM_EPS):
        reason = f"timm's config.json cannot state norm_eps {spec.norm_eps}; train it with norm_eps: {_TIMM_EPS}"
    if reason:
        raise EncoderError(f"encoder {spec.name} cannot be exported as a timm folder: {reason}")


def write_timm_folder(encoder: Encoder, folder: Path) -> None:
    """Writes model.safetensors (float32, timm's keys) and config.json, reloads them and compares.

    Raises:
        EncoderError: when the architecture cannot be stated, or the folder does not give back the same embeddings.
    """
    check_exportable(encoder.spec)
    # A copy on the CPU: the check must not depend on the device training ran on, nor disturb it.
    student = copy.deepcopy(encoder).cpu().float().eval()
    state = {key: value.contiguous() for key, value in student.backbone.state_dict().items()}
    save_file(state, folder / TENSORS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(timm_config(student), indent=2) + "\n")
    _check_reload(student, state, folder)


def timm_config(encoder: Encoder) -> dict[str, Any]:
    """config.json: the architecture, its arguments, and how images are prepared, all from the encoder.

    timm's own writer takes `pretrained_cfg` from the architecture (mean .5, crop .9, an ImageNet tag): not used here.
    """
    spec, backbone = encoder.spec, encoder.backbone
    args = {**spec.args, "num_classes": 0}
    if isinstance(args.get("act_layer"), str):
        args["act_layer"] = args["act_layer"].lower()
    if isinstance(backbone, VisionTransformer):
        scaled = any(isinstance(module, LayerScale) for module in backbone.modules())
        args |= {
            "img_size": list(backbone.patch_embed.img_size or (spec.size, spec.size)),
            "global_pool": backbone.global_pool,
            "reg_tokens": backbone.num_reg_tokens,
            "init_values": args.get("init_values", 1e-5) if scaled else None,
        }
    own = getattr(backbone, "pretrained_cfg", {})
    prepared = {
        "input_size": [3, spec.size, spec.size],
        "fixed_input_size": bool(own.get("fixed_input_size", False)),
        "interpolation": spec.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(spec.mean),
        "std": list(spec.std),
        "num_classes": 0,
        "first_conv": own.get("first_conv"),
        "classifier": own.get("classifier"),
        "custom_load": False,
    }
    return {
        "architecture": spec.architecture.split(".")[0],
        "num_classes": 0,
        "num_features": encoder.embed_dim,
        "model_args": args,
        "pretrained_cfg": prepared,
    }


@torch.no_grad()
def _check_reload(student: Encoder, state: dict[str, Tensor], folder: Path) -> None:
    """Reloads the folder as any user of timm would, prepares images as it says, and compares all tensors and tokens."""
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:  # timm raises what the failing part raises; whatever it is, the folder is of no use
        raise EncoderError(f"the folder written for {student.spec.name} does not reload: {error}") from error
    config = resolve_model_data_config(model)
    size = config["input_size"][-1]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    reloaded = model.state_dict()
    same = reloaded.keys() == state.keys() and all(torch.equal(reloaded[key], state[key]) for key in state)
    expected, found = student(images), Encoder(student.spec, model)(images)
    direct = model((images - mean) / std)
    pooled = direct if student.spec.pooling in ("cls", "native") and direct.ndim == 2 else expected.cls
    if (
        not same
        or size != student.size
        or not (_close(expected, found) and torch.allclose(pooled, expected.cls, atol=1e-5))
    ):
        raise EncoderError(
            f"the folder written for {student.spec.name} reloads to other embeddings (largest difference "
            f"{(pooled - expected.cls).abs().max():.2g}): timm's config.json does not state all that this model is"
        )


def _close(one: Tokens, other: Tokens) -> bool:
    return torch.allclose(one.cls, other.cls, atol=1e-5) and torch.allclose(one.patches, other.patches, atol=1e-5)
