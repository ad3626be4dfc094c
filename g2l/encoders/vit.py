"""What self-distillation asks of a vision transformer: masked patches, small crops, blocks dropped at one rate.

Letters: `B` images, `N` patch tokens, `P` width of a token.
"""

import torch
from timm.layers.drop import DropPath
from timm.layers.patch_embed import PatchEmbed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from g2l.errors import EncoderError


def check_maskable(backbone: nn.Module, where: str) -> None:
    """EncoderError unless patches of this backbone can be masked; callable before a training starts."""
    if (
        not isinstance(backbone, VisionTransformer)
        or type(backbone).forward_features is not VisionTransformer.forward_features
    ):
        raise EncoderError(
            f"{where} is built by {type(backbone).__name__}, whose patches cannot be masked; take one of timm's plain "
            "vision transformers (vit_*, not DINOv3's or EVA's), or switch off dino, ibot and masked terms"
        )


def masked_features(vit: VisionTransformer, images: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    """Tokens of images some of whose patches are hidden, as iBOT hides them: before the position embeddings are added.

    The steps are those of timm's `forward_features`, which has no place for a mask.

    Args:
        images: (B, 3, H, W) normalised.
        mask: (B, N) bool, True where hidden, row by row.
        token: (1, P), what stands in a hidden patch's place.
    Returns:
        (B, prefix + N, P) after the last norm.
    Source: Zhou et al. 2022 (iBOT), section 3.2.
    """
    x = vit.patch_embed(images)  # [B, N, P], or [B, h, w, P] of a model that takes several sizes
    hidden = mask.view(x.shape[:-1]).unsqueeze(-1)
    x = torch.where(hidden, token.to(x.dtype).view(-1), x)
    x = vit.norm_pre(vit.patch_drop(vit._pos_embed(x)))
    x = checkpoint_seq(vit.blocks, x) if vit.grad_checkpointing else vit.blocks(x)
    return vit.norm(x)


def check_size(backbone: nn.Module, size: tuple[int, int], where: str) -> None:
    """EncoderError unless the backbone takes images of this (height, width) as far as can be told beforehand; callable
    before a training starts.
    """
    embed = getattr(backbone, "patch_embed", None)
    own = getattr(embed, "img_size", None)
    if not isinstance(embed, PatchEmbed) or own is None or size == own:
        return
    patch = [int(side) for side in embed.patch_size]
    pixels = "x".join(str(side) for side in size)
    if embed.strict_img_size:
        raise EncoderError(
            f"{where} takes {own[0]}x{own[1]} px and no others, such as {pixels}; build it with dynamic_img_size: true "
            "(timm's vision transformers have it), or let it resize"
        )
    if not embed.dynamic_img_pad and any(s % p for s, p in zip(size, patch, strict=True)):
        near = "x".join(str(max(1, round(s / p)) * p) for s, p in zip(size, patch, strict=True))
        raise EncoderError(
            f"{where} cuts images into patches of {patch[0]}x{patch[1]} px, which do not fill {pixels}; "
            f"give it {near} px"
        )


def set_drop_path(backbone: nn.Module, rate: float, where: str) -> None:
    """While training, every residual branch of every block is left out with probability `rate`, per image.

    One rate for all blocks, as in DINOv2's training settings, on which GPFM's build. timm's own `drop_path_rate` is
    another thing: it rises linearly with depth from 0, so that its mean is half of what its name says. DINOv2 also
    saves the computation of what is left out, by computing each branch on a part of the batch; here all is computed.

    Raises:
        EncoderError: when no such branches are found in the architecture, or `rate` is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise EncoderError(f"{where}: drop_path is {rate}; give a probability from 0 to below 1")
    found = [
        (block, name)
        for block in backbone.modules()
        for name in ("drop_path", "drop_path1", "drop_path2")
        if isinstance(getattr(block, name, None), (DropPath, nn.Identity))
    ]
    if not found and rate > 0:
        raise EncoderError(
            f"{where}: {type(backbone).__name__} names no residual branches that drop_path {rate} could leave out; "
            "set it to 0, or take one of timm's vision transformers"
        )
    for block, name in found:
        setattr(block, name, (DropPath(rate) if rate > 0 else nn.Identity()).train(block.training))
