"""Weight files: what is refused, and how; what is resampled; what is recorded."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed

from g2l.encoders.catalog import get_spec
from g2l.encoders.encoder import create_encoder
from g2l.encoders.locate import find_weights
from g2l.encoders.weights import read_file
from g2l.errors import EncoderError

TINY: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2}
NAME = "demo-student"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return create_encoder(NAME, init="random", **TINY).backbone.state_dict()


def load(file: Path, name: str = NAME, **args: Any):
    return create_encoder(name, file, **{**TINY, **args})


def refused(file: Path, **args: Any) -> str:
    with pytest.raises(EncoderError) as error:
        load(file, **args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_hash_of_the_file_is_recorded(state: dict, tmp_path: Path) -> None:
    save_file(state, tmp_path / f"{NAME}.safetensors")
    encoder = load(tmp_path)
    assert encoder.source["sha256"] == hashlib.sha256((tmp_path / f"{NAME}.safetensors").read_bytes()).hexdigest()
    assert encoder.source["file"] == f"{NAME}.safetensors"
    assert all(p.requires_grad and not p.is_meta for p in encoder.parameters())


def test_half_precision_files_become_float32(state: dict, tmp_path: Path) -> None:
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors").backbone.state_dict()
    assert all(torch.equal(loaded[key], value.half().float()) for key, value in state.items())


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "bin", "pt", "ckpt"])
def test_a_folder_is_searched_for_the_encoders_name(state: dict, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"{NAME}.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    assert find_weights(get_spec(NAME), tmp_path) == file
    load(tmp_path)


def test_a_file_that_matches_nothing_is_refused_with_counts_and_first_keys(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    message = refused(tmp_path / "w.safetensors")
    assert "0 of 18 tensors match" in message
    assert "18 missing (first: cls_token)" in message and "1 unexpected (first: conv.weight)" in message


def test_a_file_that_matches_in_part_is_refused(state: dict, tmp_path: Path) -> None:
    del state["blocks.0.norm1.weight"]
    state["norm.weight"] = torch.zeros(5)
    save_file(state, tmp_path / "w.safetensors")
    message = refused(tmp_path / "w.safetensors")
    assert "16 of 18 tensors match" in message
    assert "1 missing (first: blocks.0.norm1.weight)" in message
    assert "1 of another shape (first: norm.weight [5], not [32])" in message


def test_a_pickle_that_would_run_code_is_refused(state: dict, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({**state, "payload": Payload()}, tmp_path / "w.pth")
    assert "holds Python objects beside tensors and is not read" in refused(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x02garbage"])
def test_a_damaged_file_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"w.{suffix}").write_bytes(content)
    message = refused(tmp_path / f"w.{suffix}")
    assert f"w.{suffix}" in message and ("fetch it again" in message or "not read" in message)


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"")
    with pytest.raises(EncoderError, match=r"w\.h5 is no weight file: \.safetensors"):
        read_file(tmp_path / "w.h5")


def test_missing_weights_name_file_hub_licence_and_gate(tmp_path: Path) -> None:
    with pytest.raises(EncoderError) as error:
        create_encoder("uni", tmp_path)
    message = str(error.value)
    for part in (
        f"{tmp_path}/uni.safetensors does not exist",
        "hub id MahmoodLab/UNI",
        "CC-BY-NC-ND-4.0",
        "gated: accept",
    ):
        assert part in message
    with pytest.raises(EncoderError, match=r"h-optimus-0\.safetensors .*Apache-2\.0, not gated"):
        create_encoder("h-optimus-0")
    with pytest.raises(EncoderError, match=r"elsewhere\.pth does not exist"):
        create_encoder("uni", tmp_path / "elsewhere.pth")


def test_the_hub_is_asked_only_when_told_and_its_refusal_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    asked = []

    def offline(repository: str, name: str) -> str:
        asked.append(repository)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(EncoderError):
        create_encoder("uni", tmp_path)
    assert asked == []
    with pytest.raises(EncoderError, match=r"the hub answered: no route to host") as error:
        create_encoder("uni", "hub")
    assert asked == ["MahmoodLab/UNI"] and "\n" not in str(error.value)


@torch.no_grad()
def test_positions_of_another_grid_are_refused_unless_stated_then_resampled_and_recorded(
    state: dict, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    private = tmp_path / "other.yaml"
    args = "{img_size: 96, embed_dim: 32, depth: 1, num_heads: 2, mlp_ratio: 3.0}"
    private.write_text(f"architecture: vit_tiny_patch16_224\nargs: {args}\nsize: 96\nnormalisation: half\n")
    with pytest.raises(EncoderError, match=r"65 position embeddings, not the 1 \+ 6x6 expected; state .*file_grid"):
        create_encoder(str(private), tmp_path / "w.safetensors")
    encoder = create_encoder(str(private), tmp_path / "w.safetensors", file_grid=[8, 8])
    expected = resample_abs_pos_embed(state["pos_embed"], [6, 6], num_prefix_tokens=1)
    assert torch.equal(encoder.backbone.pos_embed, expected)
    assert encoder.source["positions"] == "position embeddings resampled 8x8 -> 6x6 (bicubic, antialiased)"


@torch.no_grad()
@pytest.mark.parametrize("name", ["demo-student", "vit_tiny_patch16_224"])
def test_another_image_size_resamples_the_published_positions(name: str, tmp_path: Path) -> None:
    args: dict[str, Any] = {**TINY, "mlp_ratio": 3.0}
    torch.manual_seed(0)
    published = create_encoder(name, init="random", **args)
    save_file(published.backbone.state_dict(), tmp_path / f"{name}.safetensors")
    small = create_encoder(name, tmp_path, img_size=64, **args)
    assert (small.size, small.grid) == (64, (4, 4))
    expected = resample_abs_pos_embed(published.backbone.pos_embed.detach(), [4, 4], num_prefix_tokens=1)
    assert torch.equal(small.backbone.pos_embed, expected)


@torch.no_grad()
def test_a_published_classifier_is_left_out(tmp_path: Path) -> None:
    import timm

    args: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=10, **args).eval()
    save_file(model.state_dict(), tmp_path / "vit_tiny_patch16_224.safetensors")
    encoder = create_encoder("vit_tiny_patch16_224", tmp_path, **args)
    images = torch.rand(1, 3, 224, 224)
    assert torch.equal(encoder(images).patches, model.forward_features((images - encoder.mean) / encoder.std)[:, 1:])


def test_random_weights_follow_the_seed() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(create_encoder(NAME, init="random", **TINY).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
