"""Encoders that a user describes in a YAML file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from g2l.encoders.catalog import get_spec
from g2l.encoders.encoder import create_encoder
from g2l.errors import EncoderError

ENTRY = """
architecture: vit_tiny_patch16_224
args: {img_size: 32, embed_dim: 32, depth: 1, num_heads: 2, init_values: 1e-5, mlp_layer: SwiGLUPacked, act_layer: SiLU}
pooling: cls+mean
normalisation: bioptimus
size: 32
mpp: 0.25
licence: ours
"""


@torch.no_grad()
def test_a_yaml_is_an_encoder_and_finds_weights_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.yaml").write_text(ENTRY + "weights: ours.safetensors\n")
    torch.manual_seed(0)
    made = create_encoder(str(tmp_path / "ours.yaml"), init="random")
    save_file(made.backbone.state_dict(), tmp_path / "ours.safetensors")
    monkeypatch.chdir(tmp_path.parent)
    loaded = create_encoder(f"{tmp_path.name}/ours.yaml")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(made(images).cls, loaded(images).cls)
    assert (loaded.spec.name, loaded.embed_dim, loaded.spec.mpp) == ("ours", 64, 0.25)
    assert loaded.spec.mean == get_spec("h-optimus-0").mean


def test_all_faults_of_an_entry_come_at_once(tmp_path: Path) -> None:
    faulty = ENTRY.replace("size: 32", "sise: 32").replace("bioptimus", "hamatoxylin").replace("cls+mean", "max")
    (tmp_path / "ours.yaml").write_text(faulty + "mpp_: 1\ngated: 3\nstd: [1, 0, 1]\n")
    with pytest.raises(EncoderError) as error:
        get_spec(str(tmp_path / "ours.yaml"))
    message = str(error.value)
    for fault in (
        "unknown field 'sise' (did you mean 'size'?)",
        "normalisation 'hamatoxylin' is none of imagenet",
        "unknown field 'mpp_'",
        "missing size",
        "pooling 'max' is none of cls",
        "gated is 3, not bool",
        "std is [1, 0, 1], not three positive numbers",
    ):
        assert fault in message
    assert "\n" not in message


def test_an_absent_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"nowhere\.yaml does not exist"):
        get_spec(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(EncoderError, match=r"broken\.yaml cannot be read as YAML"):
        get_spec(str(tmp_path / "broken.yaml"))


def test_a_size_the_model_does_not_take_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text(ENTRY.replace("size: 32\n", "size: 48\n"))
    with pytest.raises(EncoderError, match=r"states size 48, the model takes \(32, 32\) px"):
        create_encoder(str(tmp_path / "ours.yaml"), init="random")


@torch.no_grad()
def test_a_hugging_face_folder_is_an_encoder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path / "weights" / "ours")
    (tmp_path / "ours.yaml").write_text("architecture: transformers\nnormalisation: half\nsize: 32\n")
    encoder = create_encoder(str(tmp_path / "ours.yaml"), tmp_path / "weights")
    images = torch.rand(2, 3, 32, 32)
    expected = model(pixel_values=(images - 0.5) / 0.5).last_hidden_state
    tokens = encoder(images)
    assert torch.allclose(tokens.cls, expected[:, 0], atol=1e-6)
    assert torch.allclose(tokens.patches, expected[:, 1:], atol=1e-6)
    assert tokens.grid == encoder.grid == (4, 4)
    assert len(str(encoder.source["sha256"])) == 64


def test_a_hugging_face_model_without_its_folder_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("architecture: transformers\nnormalisation: half\nsize: 32\n")
    with pytest.raises(EncoderError, match=r"config\.json and model\.safetensors"):
        create_encoder(str(tmp_path / "ours.yaml"), tmp_path)
