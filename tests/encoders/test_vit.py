"""Masked patches, small crops and dropped branches of a vision transformer, and arguments that only training sees."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers.drop import DropPath
from torch import Tensor

from g2l.deploy.timm_folder import timm_config, write_timm_folder
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.errors import EncoderError

TINY: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
DYNAMIC = {"dynamic_img_size": True}
# Plain; registers that have positions; registers without; another norm before the blocks; several sizes taken.
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("demo-student", {"img_size": 56, "patch_size": 14}),
    ("virchow2", {"img_size": 56, "mlp_ratio": 2.0}),
    ("uni2-h", {"img_size": 56, "mlp_ratio": 2.0}),
    ("vit_base_patch16_clip_224", {"img_size": 56, "patch_size": 14}),
]


def tiny(name: str = "demo-student", **arguments: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = create_encoder(name, init="random", **TINY, **arguments)
    for parameter in encoder.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.2  # layer scales start at 1e-5 and would hide the blocks
    return encoder


def images(size: int = 56, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def random_mask(count: int = 2, tokens: int = 16) -> Tensor:
    return torch.rand(count, tokens, generator=torch.Generator().manual_seed(2)) < 0.4


@pytest.mark.parametrize("training_args", [None, DYNAMIC])
@pytest.mark.parametrize(("name", "arguments"), KINDS)
@torch.no_grad()
def test_a_mask_that_hides_nothing_changes_no_bit(
    name: str, arguments: dict[str, Any], training_args: dict[str, Any] | None
) -> None:
    encoder = tiny(name, training_args=training_args, **arguments)
    token = torch.randn(1, 32)
    whole = encoder(images())
    masked = encoder(images(), mask=torch.zeros(2, 16, dtype=torch.bool), mask_token=token)
    assert torch.equal(masked.cls, whole.cls) and torch.equal(masked.patches, whole.patches)
    assert masked.grid == whole.grid == (4, 4)


@pytest.mark.parametrize("training_args", [None, DYNAMIC])
@pytest.mark.parametrize(("name", "arguments"), KINDS)
@torch.no_grad()
def test_hidden_pixels_do_not_reach_the_tokens_and_others_do(
    name: str, arguments: dict[str, Any], training_args: dict[str, Any] | None
) -> None:
    encoder = tiny(name, training_args=training_args, **arguments)
    mask, token = random_mask(), torch.randn(1, 32)
    pixels = mask.view(2, 1, 4, 4).repeat_interleave(14, 2).repeat_interleave(14, 3)
    before = encoder(images(), mask, token)
    changed = encoder(torch.where(pixels, 1 - images(), images()), mask, token)
    assert torch.equal(changed.cls, before.cls) and torch.equal(changed.patches, before.patches)
    others = encoder(torch.where(pixels, images(), 1 - images()), mask, token)
    assert not torch.allclose(others.cls, before.cls, atol=1e-2)
    assert not torch.allclose(encoder(images(), mask, token.roll(1)).cls, before.cls, atol=1e-2)


@torch.no_grad()
def test_an_image_hidden_altogether_is_one_whose_patches_all_project_to_the_token() -> None:
    encoder, token = tiny("uni2-h", img_size=56, mlp_ratio=2.0), torch.randn(1, 32)
    found = encoder(images(), torch.ones(2, 16, dtype=torch.bool), token)
    projection = encoder.backbone.patch_embed.proj
    projection.weight.zero_()
    projection.bias.copy_(token[0])
    expected = encoder(images())
    assert torch.allclose(found.patches, expected.patches, atol=1e-5)
    assert not torch.allclose(found.patches[:, 0], found.patches[:, 1], atol=1e-2)  # positions tell them apart


def test_the_gradient_of_the_token_comes_from_hidden_patches_alone() -> None:
    encoder, token = tiny(img_size=56, patch_size=14), torch.randn(1, 32, requires_grad=True)
    for mask, reached in ((random_mask(), True), (torch.zeros(2, 16, dtype=torch.bool), False)):
        token.grad = None
        encoder(images(), mask, token).cls.square().sum().backward()
        assert token.grad is not None and bool(token.grad.any()) is reached


@torch.no_grad()
def test_autocast_keeps_its_precision_in_the_masked_pass() -> None:
    encoder = tiny(img_size=56, patch_size=14)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, masked = encoder(images()), encoder(images(), random_mask(), torch.randn(1, 32))
    assert masked.patches.dtype == whole.patches.dtype


@pytest.mark.parametrize(("name", "size"), [("conch", 32), ("resnet10t", 64), ("eva02_tiny_patch14_224", 56)])
def test_what_cannot_be_masked_is_refused_before_and_in_the_forward_pass(name: str, size: int) -> None:
    arguments: dict[str, Any] = TINY if name == "conch" else {"depth": 1} if "eva" in name else {}
    encoder = create_encoder(name, init="random", img_size=size, **arguments)
    with pytest.raises(EncoderError, match=rf"encoder {name} .* cannot be masked; take one of"):
        encoder.check(masked=True)
    with pytest.raises(EncoderError, match="cannot be masked"):
        encoder(images(size), torch.zeros(2, 4, dtype=torch.bool), torch.zeros(1, 32))
    with pytest.raises(TypeError, match="mask_token"):
        encoder(images(size), torch.zeros(2, 4, dtype=torch.bool))


@pytest.mark.parametrize(("name", "patch", "size", "grid"), [("uni2-h", 14, 98, (7, 7)), ("uni", 16, 96, (6, 6))])
@torch.no_grad()
def test_local_crops_keep_their_size_and_see_resampled_positions(
    name: str, patch: int, size: int, grid: tuple[int, int]
) -> None:
    encoder = tiny(name, img_size=8 * patch, training_args=DYNAMIC)
    encoder.check(size=size)
    local = encoder(images(size), resize=False)
    assert local.grid == grid and local.patches.shape == (2, grid[0] * grid[1], 32)
    # The same network built for this size alone, its positions resampled by hand.
    fixed = tiny(name, img_size=size, dynamic_img_size=False)
    positions = encoder.backbone.pos_embed
    prefix = positions.shape[1] - 64
    plane = positions[:, prefix:].transpose(1, 2).unflatten(2, (8, 8))
    plane = torch.nn.functional.interpolate(plane, grid, mode="bicubic", antialias=True, align_corners=False)
    state = encoder.backbone.state_dict()
    state["pos_embed"] = torch.cat([positions[:, :prefix], plane.flatten(2).transpose(1, 2)], 1)
    fixed.backbone.load_state_dict(state)
    assert torch.allclose(local.patches, fixed(images(size)).patches, atol=1e-5)
    assert encoder(images(size)).grid == (8, 8)  # resized unless told otherwise


def test_sizes_that_cannot_be_taken_are_refused_with_the_remedy() -> None:
    with pytest.raises(EncoderError, match=r"takes 128x128 px and no others, such as 96x96; .* dynamic_img_size: true"):
        tiny()(images(96), resize=False)
    encoder = tiny(img_size=112, patch_size=14, training_args=DYNAMIC)
    with pytest.raises(EncoderError, match=r"patches of 14x14 px, which do not fill 96x96; give it 98x98 px"):
        encoder.check(size=96)
    create_encoder("resnet10t", init="random", img_size=64).check(size=48)  # convolutions take any


def test_training_arguments_are_in_no_description_and_no_export(tmp_path: Path) -> None:
    plain, trained = tiny(), tiny(training_args={**DYNAMIC, "drop_path_rate": 0.4})
    assert trained.backbone.dynamic_img_size and not plain.backbone.dynamic_img_size
    assert trained.spec == plain.spec and timm_config(trained) == timm_config(plain)
    assert trained.state_dict().keys() == plain.state_dict().keys()
    assert torch.allclose(trained(images(128)).cls, plain(images(128)).cls, atol=1e-6)
    write_timm_folder(trained, tmp_path)  # reloads it and compares
    save_file(plain.backbone.state_dict(), tmp_path / "weights.safetensors")
    loaded = create_encoder("demo-student", tmp_path / "weights.safetensors", training_args=DYNAMIC, **TINY)
    assert loaded.spec == plain.spec and loaded(images(64), resize=False).grid == (4, 4)


def test_training_arguments_that_an_architecture_lacks_are_named() -> None:
    with pytest.raises(EncoderError, match="dynamic_img_size"):
        create_encoder("resnet10t", init="random", img_size=64, training_args=DYNAMIC)


def test_every_branch_is_dropped_at_one_rate_and_only_in_training() -> None:
    encoder = tiny()
    before, keys = encoder(images(128)).cls, encoder.state_dict().keys()
    encoder.set_drop_path(0.4)
    rates = [module.drop_prob for module in encoder.modules() if isinstance(module, DropPath)]
    assert rates == [0.4] * 4  # two in each of two blocks
    assert encoder.state_dict().keys() == keys and torch.equal(encoder(images(128)).cls, before)
    assert not torch.equal(encoder.train()(images(128)).cls, before)
    assert torch.equal(encoder.set_drop_path(0).train()(images(128)).cls, before)


def test_of_many_branches_the_stated_share_is_dropped() -> None:
    encoder = tiny("demo-student", img_size=32).set_drop_path(0.3).train()
    taken = []
    encoder.backbone.blocks[0].drop_path1.register_forward_hook(
        lambda _, x, y: taken.append((y != 0).flatten(1).any(1))
    )
    torch.manual_seed(0)
    encoder(images(32, count=4000))
    assert taken[0].float().mean().item() == pytest.approx(0.7, abs=0.03)  # four standard errors


def test_drop_path_that_cannot_be_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"drop_path is 1\.5"):
        tiny().set_drop_path(1.5)
    with pytest.raises(EncoderError, match="ResNet names no residual branches"):
        create_encoder("resnet10t", init="random", img_size=64).set_drop_path(0.1)
