"""What an Encoder does to images: size, normalisation, pooling, tokens."""

from typing import Any

import pytest
import timm
import torch

from g2l.encoders.conch import ConchVisual
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.errors import EncoderError

TINY: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def tiny(name: str = "demo-student", **overrides: Any) -> Encoder:
    torch.manual_seed(0)
    return create_encoder(name, init="random", **{**TINY, **overrides})


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_class_token_and_patches_are_those_of_timm_after_the_last_norm(images: torch.Tensor) -> None:
    encoder = tiny(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    model: Any = timm.create_model("vit_tiny_patch16_224", img_size=128, num_classes=0, mlp_ratio=3.0, **TINY)
    model.load_state_dict(encoder.backbone.state_dict())
    expected = model.eval().forward_features((images - mean) / std)
    tokens = encoder(images)
    assert torch.equal(tokens.cls, expected[:, 0])
    assert torch.equal(tokens.patches, expected[:, 1:])
    assert tokens.grid == (8, 8)
    assert torch.equal(tokens.cls, model((images - mean) / std))


@torch.no_grad()
def test_registers_enter_neither_patches_nor_mean(images: torch.Tensor) -> None:
    encoder = tiny("virchow2", img_size=28, mlp_ratio=2.0)
    tokens = encoder(images[..., :28, :28])
    features = encoder.backbone.forward_features((images[..., :28, :28] - encoder.mean) / encoder.std)
    assert features.shape[1] == 1 + 4 + 4
    assert torch.equal(tokens.patches, features[:, 5:])
    assert torch.allclose(tokens.cls, torch.cat([features[:, 0], features[:, 5:].mean(1)], -1))


@torch.no_grad()
def test_images_of_another_size_are_resized_within_0_and_1(images: torch.Tensor) -> None:
    encoder = tiny()
    large = torch.nn.functional.interpolate(images, (160, 160), mode="nearest")
    expected = torch.nn.functional.interpolate(large, (128, 128), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(encoder(large).cls, encoder(expected).cls)


@torch.no_grad()
def test_without_resizing_a_dynamic_model_sees_small_crops_as_they_are(images: torch.Tensor) -> None:
    encoder = tiny(resize=False, dynamic_img_size=True)
    assert encoder(images[..., :64, :48]).grid == (4, 3)
    assert encoder(images[..., :64, :48]).patches.shape == (2, 12, 32)


@pytest.mark.parametrize(
    ("name", "size", "args"),
    [
        ("resnet10t", 64, {}),
        ("swin_tiny_patch4_window7_224", 56, {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}),
        ("eva02_tiny_patch14_224", 56, {"depth": 2}),
        ("vit_base_patch16_siglip_224", 64, TINY),
    ],
)
@torch.no_grad()
def test_any_timm_model_gives_its_own_embedding_and_a_grid(name: str, size: int, args: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(name, init="random", img_size=size, **args)
    images = torch.rand(1, 3, size, size)
    tokens = encoder(images)
    expected = encoder.backbone((images - encoder.mean) / encoder.std)
    assert torch.allclose(tokens.cls, expected, atol=1e-6)
    assert tokens.cls.shape == (1, encoder.embed_dim)
    assert tokens.patches.shape == (1, encoder.grid[0] * encoder.grid[1], encoder.token_dim)


def test_timm_names_bring_their_normalisation_size_and_licence() -> None:
    encoder = create_encoder("vit_tiny_patch16_224.augreg_in21k", init="random")
    cfg = timm.get_pretrained_cfg("vit_tiny_patch16_224.augreg_in21k")
    assert cfg is not None
    assert (encoder.spec.mean, encoder.spec.std, encoder.size) == (cfg.mean, cfg.std, 224)
    assert encoder.spec.licence == "apache-2.0" and encoder.spec.redistribute
    assert encoder.source["licence"] == "none (random initial weights)"


@torch.no_grad()
def test_conch_pools_all_tokens_with_one_query() -> None:
    torch.manual_seed(0)
    tower = ConchVisual(img_size=32, embed_dim=24, depth=1, num_heads=2, width=16, pool_heads=4).eval()
    tokens = tower.forward_features(torch.rand(2, 3, 32, 32))
    pool = tower.attn_pool_contrast
    # Written out from the definition of multi-head attention: heads of width 4, keys and values from normalised tokens.
    queries = pool.ln_q(pool.query) @ pool.attn.q_proj_weight.T + pool.attn.in_proj_bias[:16]
    keys = pool.ln_k(tokens) @ pool.attn.k_proj_weight.T + pool.attn.in_proj_bias[16:32]
    values = pool.ln_k(tokens) @ pool.attn.v_proj_weight.T + pool.attn.in_proj_bias[32:]
    heads = []
    for h in range(4):
        part = slice(4 * h, 4 * h + 4)
        weights = (keys[..., part] @ queries[0, part] / 2).softmax(-1)
        heads.append((weights[..., None] * values[..., part]).sum(1))
    expected = tower.ln_contrast(pool.attn.out_proj(torch.cat(heads, -1)))
    assert torch.allclose(tower.forward_head(tokens), expected, atol=1e-5)
    assert not any(key.startswith("patch_embed") for key in tower.state_dict())


def test_the_state_holds_the_backbone_and_nothing_else() -> None:
    encoder = tiny()
    assert {key.split(".")[0] for key in encoder.state_dict()} == {"backbone"}


def test_bytes_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="divide bytes by 255"):
        tiny()((images * 255).to(torch.uint8))


def test_gradients_reach_every_parameter(images: torch.Tensor) -> None:
    encoder = tiny().train()
    tokens = encoder(images)
    (tokens.cls.sum() + tokens.patches.square().sum()).backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_pooling_the_model_has_no_token_for_is_reported() -> None:
    with pytest.raises(EncoderError, match="has no class token for pooling 'cls'"):
        create_encoder("resnet18", init="random", img_size=64, pooling="cls")
