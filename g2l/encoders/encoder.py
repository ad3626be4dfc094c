"""Encoder: images in [0, 1] -> tokens. It owns its size, its normalisation and its pooling.

Shapes: B images, N patch tokens, D embedding width, P patch-token width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch.nn import functional as F

from g2l.encoders.build import build_backbone, build_empty
from g2l.encoders.catalog import EncoderSpec, get_spec
from g2l.encoders.huggingface import build_huggingface
from g2l.encoders.locate import find_weights
from g2l.encoders.vit import check_maskable, check_size, masked_features, set_drop_path
from g2l.encoders.weights import load_weights
from g2l.errors import EncoderError
from g2l.sums import sha256


class Tokens(NamedTuple):
    """cls: (B, D) embedding; patches: (B, N, P) after the last norm, row by row; grid: (height, width) of the N."""

    cls: Tensor
    patches: Tensor
    grid: tuple[int, int]


class Encoder(nn.Module):
    """A backbone with what its images need. Its tensors stand under `backbone.` with the backbone's own keys.

    Attributes:
        spec: its description.
        embed_dim: D. token_dim: P. size: px. grid: (height, width) of the patch tokens at that size.
        source: name, hub, licence, redistribute, redistribute_reason, gated, file, sha256, layout, positions.
        halved: whether `halve` was called.
    """

    mean: Tensor
    std: Tensor
    backbone: Any  # timm's models share methods (forward_features, forward_head) but no base class that declares them

    def __init__(self, spec: EncoderSpec, backbone: nn.Module, source: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.size = spec.size
        self.halved = False
        keys = ("name", "hub", "licence", "redistribute", "redistribute_reason", "gated")
        record = {key: getattr(spec, key) for key in keys}
        self.source = record | {"file": None, "sha256": None, "layout": None, "positions": None} | (source or {})
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1), persistent=False)
        self.embed_dim, self.token_dim, self.grid = self._measure()
        for fact, found in (("embed_dim", self.embed_dim), ("grid", self.grid)):
            stated = getattr(spec, fact)
            if stated is not None and stated != found:
                raise EncoderError(
                    f"encoder {spec.name}: its entry states {fact} {stated}, the model has {found}; correct the entry"
                )

    def forward(
        self, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None, resize: bool = True
    ) -> Tokens:
        """Tokens of images.

        Args:
            images: (B, 3, H, W) floats in [0, 1], RGB. Those of another size than `size` are resized (antialiased)
                unless the entry says `resize: false`.
            mask: (B, N) bool, True for patches that are hidden, row by row; None: all are seen.
            mask_token: (1, P), what stands in place of a hidden patch's embedding; needed with `mask`.
            resize: False: small crops are taken as they are, by an encoder built with `dynamic_img_size`.
        Raises:
            EncoderError: when the architecture can hide no patches, or does not take this size.
        """
        if not images.is_floating_point():
            raise TypeError(f"an encoder takes floats in [0, 1], not {images.dtype}: divide bytes by 255")
        if resize and self.spec.resize and images.shape[-2:] != (self.size, self.size):
            resized = F.interpolate(images, (self.size, self.size), mode=self.spec.interpolation, antialias=True)
            images = resized.clamp(0, 1)  # bicubic overshoots at edges
        size = (images.shape[-2], images.shape[-1])
        check_size(self.backbone, size, f"encoder {self.spec.name}")
        images = (images - self.mean) / self.std
        if not self.halved:
            return self._tokens(images, size, mask, mask_token)
        with torch.autocast(images.device.type, enabled=False):
            return self._tokens(images.bfloat16(), size, mask, mask_token)

    def _tokens(self, images: Tensor, size: tuple[int, int], mask: Tensor | None, mask_token: Tensor | None) -> Tokens:
        if mask is None:
            features = self.backbone.forward_features(images)
        else:
            if mask_token is None:
                raise TypeError("a mask needs the mask_token (1, P) that stands in place of hidden patches")
            check_maskable(self.backbone, f"encoder {self.spec.name}")
            features = masked_features(self.backbone, images, mask, mask_token)
        patches, grid = self._patches(features, size)
        return Tokens(self._pool(features, patches), patches, grid)

    def _pool(self, features: Tensor, patches: Tensor) -> Tensor:
        pooling = self.spec.pooling
        if pooling == "native":
            return self.backbone.forward_head(features, pre_logits=True)
        if pooling == "mean":
            return patches.mean(1)
        if features.ndim != 3 or features.shape[1] == patches.shape[1]:
            raise EncoderError(
                f"encoder {self.spec.name} has no class token for pooling {pooling!r}; use mean or native"
            )
        # Registers are neither the class token nor patches: they enter no pooling.
        return features[:, 0] if pooling == "cls" else torch.cat([features[:, 0], patches.mean(1)], dim=-1)

    def _patches(self, features: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """(B, N, P) patch tokens and their grid, from a token sequence with prefix tokens or from a feature map."""
        if features.ndim == 4:
            if getattr(self.backbone, "output_fmt", "NCHW") != "NHWC":
                features = features.permute(0, 2, 3, 1)
            return features.flatten(1, 2), (features.shape[1], features.shape[2])
        embed = getattr(self.backbone, "patch_embed", None)
        prefix = getattr(self.backbone, "num_prefix_tokens", None)
        if embed is not None and prefix is not None:
            height, width = embed.dynamic_feat_size(size) if hasattr(embed, "dynamic_feat_size") else embed.grid_size
            return features[:, prefix:], (height, width)
        # Without timm's attributes: the largest grid of the image's shape that fits; what is over stands in front.
        height = int((features.shape[1] * size[0] / size[1]) ** 0.5)
        width = height * size[1] // size[0]
        return features[:, features.shape[1] - height * width :], (height, width)

    # --- how it runs -------------------------------------------------------------------------------------------

    def check(self, masked: bool = False, size: int | None = None) -> None:
        """EncoderError now, not in the first step, when it can hide no patches (`masked`) or cannot take crops of
        `size` px without resizing.
        """
        if masked:
            check_maskable(self.backbone, f"encoder {self.spec.name}")
        if size is not None:
            check_size(self.backbone, (size, size), f"encoder {self.spec.name}")

    def halve(self) -> Self:
        """Weights, computation and tokens in bfloat16, for a frozen network: half the memory, and none of the casts
        that autocast, which it switches off, makes of float32 weights. Images are resized and normalised in float32.
        """
        self.backbone.requires_grad_(False).bfloat16()
        self.halved = True
        return self

    def checkpoint_activations(self, enable: bool = True) -> Self:
        """Keep one activation per block and compute the others again in the backward pass: less memory, about a third
        more time. EncoderError where the architecture cannot.
        """
        switch = getattr(self.backbone, "set_grad_checkpointing", None)
        if switch is None:
            raise EncoderError(
                f"encoder {self.spec.name}: {type(self.backbone).__name__} cannot recompute activations; "
                "leave activation checkpointing off, or take one of timm's vision transformers"
            )
        switch(enable)
        return self

    def set_drop_path(self, rate: float) -> Self:
        """Leave out every residual branch with probability `rate` while training (see vit.py)."""
        set_drop_path(self.backbone, rate, f"encoder {self.spec.name}")
        return self

    def compile_fixed(self, backend: str = "inductor") -> Self:
        """Compile the forward pass in place, once for every shape it meets, at the first call with that shape. Keys of
        the state stay what they are; a deep copy is not compiled. Drop path then draws other random numbers.

        Args: backend: of torch.compile.
        """
        # All encoders share the code of `forward`, and Dynamo stops compiling, with no more than a log line, at 8
        # graphs per code: masked, local and whole crops of a student and its average, a teacher and three experts,
        # each again for held-out patches, are more.
        dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
        self.compile(dynamic=False, backend=backend)
        return self

    @torch.no_grad()
    def _measure(self) -> tuple[int, int, tuple[int, int]]:
        """(D, P, grid): read off the model where it is a vision transformer, else from one black image."""
        embed, pooling = getattr(self.backbone, "patch_embed", None), self.spec.pooling
        width = getattr(self.backbone, "embed_dim", None)
        takes = getattr(embed, "img_size", None)
        if takes not in (None, (self.size, self.size)) and not getattr(self.backbone, "dynamic_img_size", False):
            raise EncoderError(
                f"encoder {self.spec.name}: its entry states size {self.size}, the model takes {takes} px; "
                "give both the same (`img_size` among the args)"
            )
        vit = hasattr(self.backbone, "num_prefix_tokens") and pooling in ("cls", "cls+mean")
        if vit and embed is not None and isinstance(width, int):
            height, breadth = embed.dynamic_feat_size((self.size, self.size))
            return (width * 2 if "+" in pooling else width), width, (height, breadth)
        training = self.backbone.training
        self.backbone.eval()
        device = next((p.device for p in self.backbone.parameters()), self.mean.device)
        images = torch.zeros(1, 3, self.size, self.size, device=device)
        features = self.backbone.forward_features(images)
        patches, grid = self._patches(features, (self.size, self.size))
        cls = self._pool(features, patches)
        self.backbone.train(training)
        return cls.shape[-1], patches.shape[-1], grid


# A network that starts from random weights takes over no one's.
_RANDOM = {
    "licence": "none (random initial weights)",
    "redistribute": True,
    "redistribute_reason": "nothing was taken over but the architecture",
}


def create_encoder(
    name: str,
    weights: str | Path | None = None,
    *,
    init: Literal["weights", "random"] = "weights",
    img_size: int | None = None,
    training_args: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Encoder:
    """An encoder by name, in eval mode and float32.

    Args:
        name: a catalogue name, a timm name, or the path of a YAML with the fields of a catalogue entry.
        weights: a file, a folder holding `<name>.safetensors` (or .pth, .bin, .pt, .ckpt), or `hub` to fetch it from
            its hub id. Nothing is fetched unasked.
        init: `random` builds it with random weights from torch's global generator.
        img_size: takes images of this size instead; position embeddings of the published size are resampled.
        training_args: arguments of the architecture that change how it is trained and neither its tensors nor what it
            computes in eval mode (dynamic_img_size). They are not entered in `spec`, so no checkpoint or export of the
            encoder names them.
        overrides: fields of the entry (pooling, mean, std, resize, mpp, key_map, file_grid, norm_eps, interpolation);
            all others are arguments of the architecture.
    Raises:
        EncoderError: an unknown name (with the closest ones), missing weights (with hub id and licence), weights that
            do not fit.
    """
    published = get_spec(name)
    spec = published.override(img_size, **overrides)
    if spec.architecture == "transformers":
        if training_args:
            raise EncoderError(
                f"encoder {name} is a Hugging Face model, which takes no {', '.join(training_args)} for training; "
                "take one of timm's, or do without local crops"
            )
        return _create_huggingface(spec, weights, init).eval()
    if init == "random":
        return Encoder(spec, build_backbone(spec, training_args), _RANDOM).eval()
    file = find_weights(spec, weights)
    if img_size is not None and "img_size" in spec.args and spec.file_grid is None:
        # A timm name: its file has the grid of the size timm states.
        spec = spec.override(file_grid=Encoder(published, build_empty(published)).grid)
    backbone = build_empty(spec, training_args)
    loaded = load_weights(backbone, file, spec.key_map, spec.file_grid)
    return Encoder(spec, backbone, {"file": file.name, **loaded._asdict()}).eval()


def _create_huggingface(spec: EncoderSpec, weights: str | Path | None, init: str) -> Encoder:
    folder = Path(weights) if weights is not None else (Path(spec.weights) if spec.weights else None)
    if folder is not None and (folder / spec.name).is_dir():
        folder = folder / spec.name
    backbone = build_huggingface(folder, init == "random", spec.args, f"encoder {spec.name}")
    file = folder / "model.safetensors" if folder is not None and init != "random" else None
    return Encoder(
        spec, backbone, {"file": file.name, "sha256": sha256(file), "layout": "transformers"} if file else _RANDOM
    )
