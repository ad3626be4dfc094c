"""Foreign layouts, made by independent implementations: after loading, the outputs are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from g2l.encoders.encoder import Encoder, create_encoder

transformers = pytest.importorskip("transformers")

IMAGES = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(3))
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TIMM: dict[str, Any] = {"img_size": 28, "embed_dim": 32, "depth": 2, "num_heads": 2}


def random_weights(model: Any) -> Any:
    """Every tensor drawn at random, also those that start as constants, so that a swap of any two shows."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


def read(name: str, file: Path, **args: Any) -> Encoder:
    return create_encoder(name, file, **{**TIMM, **args})


@torch.no_grad()
def check(encoder: Encoder, model: Any, prefix: int) -> None:
    expected = model(pixel_values=(IMAGES - encoder.mean) / encoder.std).last_hidden_state
    tokens = encoder(IMAGES)
    assert torch.allclose(tokens.patches, expected[:, prefix:], atol=2e-5)
    cls = expected[:, 0]
    if encoder.spec.pooling == "cls+mean":
        cls = torch.cat([cls, expected[:, prefix:].mean(1)], -1)
    assert torch.allclose(tokens.cls, cls, atol=2e-5)
    assert len(str(encoder.source["sha256"])) == 64


def test_phikon_from_a_hugging_face_vit(tmp_path: Path) -> None:
    model = random_weights(transformers.ViTModel(transformers.ViTConfig(**SMALL, intermediate_size=128)))
    model.save_pretrained(tmp_path)  # the library writes the published layout, which is not that of its memory
    check(read("phikon", tmp_path / "model.safetensors", patch_size=14), model, prefix=1)


def test_phikon_v2_from_a_hugging_face_dinov2(tmp_path: Path) -> None:
    model = random_weights(transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    check(read("phikon-v2", tmp_path / "pytorch_model.bin", patch_size=14), model, prefix=1)


def test_midnight_from_a_hugging_face_dinov2_with_swiglu(tmp_path: Path) -> None:
    model = random_weights(transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, use_swiglu_ffn=True)))
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    # Hugging Face rounds the hidden width, 4 * 32 * 2 / 3, up to 88; timm's ratio counts both halves.
    check(read("midnight-12k", tmp_path / "m.safetensors", mlp_ratio=2 * 88 / 32), model, prefix=1)


def test_hibou_from_a_hugging_face_dinov2_with_registers(tmp_path: Path) -> None:
    config = transformers.Dinov2WithRegistersConfig(**SMALL)
    model = random_weights(transformers.Dinov2WithRegistersModel(config))
    # The published files carry the model under its name when saved from a larger one.
    state = {f"dinov2_with_registers.{key}": value for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "h.safetensors")
    check(read("hibou-l", tmp_path / "h.safetensors"), model, prefix=5)


def native(state: dict[str, Tensor], chunked: bool) -> dict[str, Tensor]:
    """timm's layout as DINOv2 writes it: w12, w3, chunked blocks, a class position beside registers, a mask token."""
    out = {}
    for key, value in state.items():
        key = key.replace("reg_token", "register_tokens").replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        parts = key.split(".")
        out[".".join(["blocks", "0", *parts[1:]]) if chunked and parts[0] == "blocks" else key] = value
    if "register_tokens" in out:
        cls_position = torch.full((1, 1, 32), 0.25)
        out["cls_token"] = out["cls_token"] - cls_position
        out["pos_embed"] = torch.cat([cls_position, out["pos_embed"]], 1)
    return {**out, "mask_token": torch.zeros(1, 32)}


@pytest.mark.parametrize("prefix", ["teacher.backbone.", "teacher.", "backbone.", ""])
@torch.no_grad()
def test_dinov2_checkpoints_with_chunked_swiglu_blocks_and_registers(prefix: str, tmp_path: Path) -> None:
    original = create_encoder("h-optimus-0", init="random", key_map="dinov2", **TIMM)
    random_weights(original.backbone)
    state = {prefix + key: value for key, value in native(original.backbone.state_dict(), chunked=True).items()}
    state |= {"student.backbone.cls_token": torch.zeros(1)} if prefix.startswith("teacher.") else {}
    torch.save(state, tmp_path / "teacher_checkpoint.pth")
    loaded = read("h-optimus-0", tmp_path / "teacher_checkpoint.pth", key_map="dinov2")
    assert torch.allclose(loaded(IMAGES).cls, original(IMAGES).cls, atol=1e-5)


@torch.no_grad()
def test_gpfm_below_teacher_and_backbone(tmp_path: Path) -> None:
    original = create_encoder("gpfm", init="random", **TIMM)
    random_weights(original.backbone)
    teacher = {f"backbone.{key}": value for key, value in original.backbone.state_dict().items()}
    teacher |= {"backbone.mask_token": torch.zeros(1, 32), "dino_head.last_layer.weight": torch.zeros(4, 4)}
    torch.save({"teacher": teacher, "iteration": 100}, tmp_path / "GPFM.pth")
    assert torch.equal(read("gpfm", tmp_path / "GPFM.pth")(IMAGES).cls, original(IMAGES).cls)


@pytest.mark.parametrize("prefix", ["student.backbone.", "student.", "backbone.", "model.", ""])
@torch.no_grad()
def test_lightning_checkpoints_of_any_module_name(prefix: str, tmp_path: Path) -> None:
    original = create_encoder("demo-student", init="random", **TIMM)
    state = {prefix + key: value for key, value in original.backbone.state_dict().items()}
    if prefix.startswith("student."):
        state["projector.weight"] = torch.zeros(3)
    torch.save({"state_dict": state, "epoch": 1, "optimizer_states": [{"state": {}}]}, tmp_path / "last.ckpt")
    loaded = read("demo-student", tmp_path / "last.ckpt", key_map="lightning")
    assert torch.equal(loaded(IMAGES).cls, original(IMAGES).cls)


@torch.no_grad()
def test_our_own_checkpoint_loads_whatever_layout_the_entry_states(tmp_path: Path) -> None:
    original = create_encoder("hibou-l", init="random", **TIMM)
    state = {f"student.backbone.{key}": value for key, value in original.backbone.state_dict().items()}
    torch.save(
        {"state_dict": {**state, "terms.a.weight": torch.zeros(1)}, "g2l": {"version": "0"}}, tmp_path / "best.ckpt"
    )
    loaded = read("hibou-l", tmp_path / "best.ckpt")
    assert loaded.source["layout"] == "own"
    assert torch.equal(loaded(IMAGES).cls, original(IMAGES).cls)


@torch.no_grad()
def test_conch_from_the_whole_of_a_coca_model(tmp_path: Path) -> None:
    args: dict[str, Any] = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2, "width": 16, "pool_heads": 4}
    original = create_encoder("conch", init="random", **args)
    random_weights(original.backbone)
    state = {f"visual.{key}": value for key, value in original.backbone.state_dict().items()}
    others = (
        "visual.proj_contrast",
        "visual.attn_pool_caption.query",
        "visual.ln_caption.weight",
        "text.token_embedding.weight",
        "logit_scale",
    )
    torch.save(state | {key: torch.zeros(2) for key in others}, tmp_path / "pytorch_model.bin")
    loaded = create_encoder("conch", tmp_path / "pytorch_model.bin", **args)
    assert torch.equal(loaded(IMAGES).cls, original(IMAGES).cls)
