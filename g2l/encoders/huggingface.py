"""Any vision model of Hugging Face's transformers, from a folder with config.json and model.safetensors.

Nothing is fetched, and no code of the folder is run.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from g2l.errors import EncoderError


class HuggingFaceBackbone(nn.Module):
    """Gives a transformers model the two methods Encoder asks of a timm one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        if any(True for _ in getattr(model, "pooler", nn.Identity()).parameters()):
            # Many files lack this head, and no token passes through it: its parameters would never see a gradient.
            model.pooler = None

    def forward_features(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) normalised. Returns (B, prefix + N, D), or (B, D, h, w) for convolutional models."""
        return self.model(pixel_values=images).last_hidden_state

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Returns (B, D): the first token, or the mean over a feature map."""
        return features[:, 0] if features.ndim == 3 else features.mean((2, 3))


def build_huggingface(folder: str | Path | None, random: bool, args: dict[str, Any], where: str) -> HuggingFaceBackbone:
    """A backbone from a local folder.

    Args:
        folder: holds config.json and, unless `random`, model.safetensors.
        random: build from config.json alone, with random weights.
        args: entries that replace those of config.json.
        where: the encoder, for messages.
    Raises:
        EncoderError: when transformers or the folder is missing, the folder needs code of its own, or its tensors do
            not fit.
    """
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise EncoderError(f"{where} is a Hugging Face model: install transformers to use it") from error
    path = Path(folder) if folder is not None else None
    needed = ["config.json"] + ([] if random else ["model.safetensors"])
    if path is None or not all((path / name).is_file() for name in needed):
        raise EncoderError(
            f"{where} is a Hugging Face model: give `weights` as the folder holding its {' and '.join(needed)} "
            f"(given: {folder})"
        )
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True, **args)
        if random:
            return HuggingFaceBackbone(AutoModel.from_config(config, trust_remote_code=False))
        model, report = AutoModel.from_pretrained(
            path,
            config=config,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise EncoderError(
            f"{where}: {path} cannot be loaded by transformers: {' '.join(str(error).split())[:300]}"
        ) from error
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = {kind: sorted(str(key) for key in report[kind] if not str(key).startswith("pooler.")) for kind in kinds}
    if any(wrong.values()):
        faults = ", ".join(
            f"{len(keys)} {kind.replace('_', ' ')} (first: {keys[0]})" for kind, keys in wrong.items() if keys
        )
        raise EncoderError(f"{where}: {path}/model.safetensors does not fit its config.json: {faults}")
    return HuggingFaceBackbone(model.float())
