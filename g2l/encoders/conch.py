"""The visual tower of CONCH: a ViT-B/16 whose tokens one learned query pools by attention."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn, zeros


class AttentionPool(nn.Module):
    """Learned queries attend to all tokens (Lee et al. 2019, Set Transformer; Yu et al. 2022, CoCa, section 3.2)."""

    def __init__(self, width: int, token_width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Parameter(zeros(queries, width))
        nn.init.normal_(self.query)
        self.attn = nn.MultiheadAttention(width, heads, kdim=token_width, vdim=token_width, batch_first=True)
        self.ln_q = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(token_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N, token_width). Returns (B, queries, width)."""
        keys = self.ln_k(tokens)
        # Not len(tokens), which a traced graph takes for a constant: an exported model would take no other batch.
        queries = self.ln_q(self.query).expand(tokens.shape[0], -1, -1)
        return self.attn(queries, keys, keys, need_weights=False)[0]


class ConchVisual(nn.Module):
    """Keys as in CONCH's public file, below `visual.`. The embedding (512) is taken before the projection to text."""

    def __init__(
        self,
        img_size: int = 448,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        width: int = 512,
        pool_heads: int = 8,
        **args: Any,
    ) -> None:
        super().__init__()
        self.trunk = VisionTransformer(
            img_size=img_size,
            patch_size=16,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            num_classes=0,
            **args,
        )
        self.attn_pool_contrast = AttentionPool(width, embed_dim, pool_heads, queries=1)
        self.ln_contrast = nn.LayerNorm(width)

    @property
    def num_prefix_tokens(self) -> int:
        """Class token and registers in front of the patch tokens."""
        return self.trunk.num_prefix_tokens

    @property
    def patch_embed(self) -> nn.Module:
        """The trunk's patch embedding, which knows the grid (a property, so that its tensors keep one name)."""
        return self.trunk.patch_embed

    def forward_features(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) normalised. Returns (B, 1 + N, embed_dim): class token, then patch tokens."""
        return self.trunk.forward_features(images)

    def forward_head(self, tokens: Tensor, pre_logits: bool = True) -> Tensor:
        """tokens: (B, 1 + N, embed_dim). Returns (B, width). The class token is pooled too, as published."""
        return self.ln_contrast(self.attn_pool_contrast(tokens)[:, 0])
