"""Translates the layouts in which weights are published to this project's: timm's keys (or those of conch.py).

Unchecked: the files of midnight-12k and hibou-l (`hf-dinov2`) could not be opened where this was written. Their maps
follow the public layouts of Hugging Face's Dinov2Model and Dinov2WithRegistersModel and are tested on those; a file
that differs is refused with its first foreign keys.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


@dataclass(frozen=True)
class KeyMap:
    """One layout.

    Attributes:
        prefixes: containers the tensors may sit in, tried in this order; keys outside the one found belong to something
            else (optimiser, heads).
        rename: (pattern, replacement) pairs, each applied to every key once, in order.
        drop: pattern of keys that this project has no use for.
        merge_qkv: whether query, key and value are stored apart.
    """

    prefixes: tuple[str, ...]
    rename: tuple[tuple[str, str], ...] = ()
    drop: str | None = None
    merge_qkv: bool = False

    def __call__(self, state: State) -> State:
        """The tensors under their new names; those of other containers and the dropped ones are left out."""
        prefix = next((p for p in self.prefixes if any(key.startswith(p) for key in state)), "")
        out = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if self.drop is not None:
            out = {key: value for key, value in out.items() if not re.match(self.drop, key)}
        for pattern, replacement in self.rename:
            out = {re.sub(pattern, replacement, key): value for key, value in out.items()}
        return _merge_qkv(out) if self.merge_qkv else out


def _merge_qkv(state: State) -> State:
    """Joins `attn.q|k|v.*` into `attn.qkv.*` (rows: queries, keys, values, as timm splits them).

    An incomplete triple stays apart, so that strict loading reports it.
    """
    out = dict(state)
    for key in [k for k in state if ".attn.q." in k]:
        parts = [key.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        if all(part in out for part in parts):
            out[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([out.pop(part) for part in parts])
    return out


_HF_COMMON = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.attention\.query\.", ".attn.q."),
    (r"\.attention\.attention\.key\.", ".attn.k."),
    (r"\.attention\.attention\.value\.", ".attn.v."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
)
_NATIVE_DINOV2 = (
    (r"^register_tokens$", "reg_token"),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # chunked blocks: blocks.<chunk>.<index in the whole model>
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_DINOV2_HEADS = r"(mask_token$|dino_head\.|ibot_head\.)"

KEY_MAPS: dict[str, KeyMap] = {
    "timm": KeyMap(("state_dict.", "model.", "")),
    "hf-dinov2": KeyMap(
        ("dinov2_with_registers.", "dinov2.", "model.", ""),
        (
            *_HF_COMMON,
            (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
            (r"\.mlp\.weights_in\.", ".mlp.fc1."),
            (r"\.mlp\.weights_out\.", ".mlp.fc2."),
        ),
        drop=r"(embeddings\.mask_token$|classifier\.)",
        merge_qkv=True,
    ),
    "hf-vit": KeyMap(
        ("vit.", ""),
        (
            *_HF_COMMON,
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        ),
        drop=r"(embeddings\.mask_token$|pooler\.|classifier\.|decoder\.)",
        merge_qkv=True,
    ),
    "dinov2": KeyMap(
        ("teacher.backbone.", "model.teacher.backbone.", "teacher.", "backbone.", "model.", ""),
        _NATIVE_DINOV2,
        drop=_DINOV2_HEADS,
    ),
    "gpfm": KeyMap(("teacher.backbone.", "backbone.", ""), _NATIVE_DINOV2, drop=_DINOV2_HEADS),
    "lightning": KeyMap(
        (
            "state_dict.student.backbone.",
            "state_dict.student.",
            "state_dict.backbone.",
            "state_dict.encoder.",
            "state_dict.model.",
            "state_dict.",
        )
    ),
    # The text tower, the captioning pool and the projection to the text space have no part in an image's embedding.
    "conch": KeyMap(
        ("state_dict.visual.", "visual."), drop=r"(attn_pool_caption\.|ln_caption\.|proj_contrast$|head\.)"
    ),
}

# Where a file may already hold the module's own keys, whatever layout its entry states: a bundle of ours, or a
# checkpoint of `g2l fit`.
_OWN = ("", "state_dict.student.backbone.", "state_dict.", "model.")


def flatten(content: Any, prefix: str = "") -> State:
    """All tensors of nested dictionaries under dotted keys; anything else (epochs, lists, names) is left out."""
    if isinstance(content, Tensor):
        return {prefix.removesuffix("."): content}
    if not isinstance(content, dict):
        return {}
    return {
        name: tensor for key, value in content.items() for name, tensor in flatten(value, f"{prefix}{key}.").items()
    }


def translate(state: State, module: nn.Module, key_map: str) -> tuple[State, str]:
    """The file's tensors under the module's names, and the layout they were found in (`own`, or the key map's name)."""
    wanted = set(module.state_dict())
    for prefix in _OWN:
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if set(own) == wanted:
            return own, "own"
    rename: Callable[[State], State] = KEY_MAPS[key_map]
    return rename(state), key_map
