"""The ONNX graph gives what the encoder gives, for any number of patches, and holds nothing but the network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from g2l.deploy import graph
from g2l.deploy.graph import plain, torch_embed, write_onnx
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.errors import EncoderError

TINY: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL: dict[str, Any] = {"img_size": 28, **TINY}


def network(name: str = "demo-student", **args: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = create_encoder(name, init="random", **args)
    for parameter in encoder.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.2  # layer scales start at 1e-5 and would hide the blocks
    return encoder


def patches(encoder: Encoder, count: int = 5) -> NDArray[np.uint8]:
    shape = (count, encoder.size, encoder.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def run(file: Path, given: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, {"patches": given})]


def by_hand(encoder: Encoder, given: NDArray[np.uint8]) -> Tensor:
    """(B, 3, S, S) as every model card has it: bytes over 255, less the mean, over the deviation."""
    images = torch.from_numpy(given.astype(np.float32) / 255).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.spec.mean, encoder.spec.std))
    return (images - mean) / std


@pytest.fixture(scope="module")
def plain_vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    """One export that several tests look at: each takes seconds."""
    encoder = network(**TINY, mean=[0.7, 0.5, 0.6], std=[0.1, 0.2, 0.3])
    file = tmp_path_factory.mktemp("plain") / "model.onnx"
    write_onnx(encoder, file)
    return encoder, file


@pytest.mark.parametrize(
    ("name", "args"),
    [
        # class token and mean of the patches, registers in neither
        ("virchow2", SMALL),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("demo-student", {**TINY, "pooling": "mean", "dynamic_img_size": True}),
                ("hibou-l", SMALL),
                ("vit_base_patch16_siglip_224", {"img_size": 32, **TINY}),  # pooled by attention
                ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}),
                ("resnet10t", {}),
                ("conch", {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}),
            )
        ),
    ],
)
@torch.no_grad()
def test_onnx_gives_the_embedding_and_tokens_of_the_encoder(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    encoder = network(name, **args)
    write_onnx(encoder, tmp_path / "model.onnx", tokens=True)
    given = patches(encoder)
    expected = encoder(torch.from_numpy(given).permute(0, 3, 1, 2) / 255)
    for count in (1, 2, 5):
        embedding, tokens = run(tmp_path / "model.onnx", given[:count])
        assert embedding.shape == (count, encoder.embed_dim) and embedding.dtype == np.float32
        assert tokens.shape == (count, encoder.grid[0] * encoder.grid[1], encoder.token_dim)
        assert np.abs(embedding - expected.cls[:count].numpy()).max() < 1e-4
        assert np.abs(tokens - expected.patches[:count].numpy()).max() < 1e-4


@pytest.mark.slow
def test_a_model_of_transformers_gets_a_graph_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sides = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
    transformers.Dinov2Config(num_hidden_layers=2, num_attention_heads=2, **sides).save_pretrained(tmp_path / "folder")
    entry = tmp_path / "entry.yaml"
    entry.write_text(
        "{architecture: transformers, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], size: 32, licence: MIT}"
    )
    torch.manual_seed(0)
    encoder = create_encoder(str(entry), tmp_path / "folder", init="random")
    write_onnx(encoder, tmp_path / "model.onnx")
    expected = torch_embed(encoder, patches(encoder))
    assert np.abs(run(tmp_path / "model.onnx", patches(encoder))[0] - expected).max() < 1e-4
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


@torch.no_grad()
def test_normalisation_lies_in_the_graph_and_colours_stay_in_order(plain_vit: tuple[Encoder, Path]) -> None:
    encoder, file = plain_vit
    given = patches(encoder)
    expected = encoder.backbone(by_hand(encoder, given)).numpy()
    (found,) = run(file, given)
    assert np.abs(found - expected).max() < 1e-4
    (swapped,) = run(file, given[..., ::-1].copy())
    assert np.abs(swapped - expected).max() > 1e-2


@pytest.mark.slow
@torch.no_grad()
def test_a_model_of_any_size_gets_the_positions_of_its_own(tmp_path: Path) -> None:
    """Positions of 8 x 8 tokens, images of 4 x 4: timm resamples in every pass, the graph holds the result."""
    encoder = network(**TINY, dynamic_img_size=True)
    small = Encoder(replace(encoder.spec, size=64), encoder.backbone)
    assert small.size == 64 and small.grid == (4, 4) and small.backbone.pos_embed.shape[1] == 65
    write_onnx(small, tmp_path / "model.onnx")
    assert "Resize" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    given = patches(small)
    expected = small(torch.from_numpy(given).permute(0, 3, 1, 2) / 255).cls.numpy()
    assert np.abs(run(tmp_path / "model.onnx", given)[0] - expected).max() < 1e-4
    assert small.backbone.pos_embed.shape[1] == 65  # of the encoder that was given nothing is changed


def test_an_encoder_in_training_can_be_exported_and_stays_as_it_is(tmp_path: Path) -> None:
    encoder = network(**TINY).checkpoint_activations().set_drop_path(0.3).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    write_onnx(encoder, tmp_path / "model.onnx")
    assert encoder.training and all(p.requires_grad for p in encoder.parameters())
    assert encoder.backbone.grad_checkpointing
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_the_graph_takes_bytes_of_one_size_and_any_number(plain_vit: tuple[Encoder, Path]) -> None:
    model = onnx.load(plain_vit[1])
    onnx.checker.check_model(model, full_check=True)
    (given,), (found,) = model.graph.input, model.graph.output
    dims = [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim]
    assert (given.name, dims) == ("patches", ["batch", 128, 128, 3])
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert (found.name, found.type.tensor_type.elem_type) == ("embedding", onnx.TensorProto.FLOAT)
    assert {entry.domain for entry in model.opset_import} == {""}  # no operator but the standard's


@pytest.mark.slow
def test_the_file_tells_nothing_of_this_machine_and_is_the_same_twice(tmp_path: Path) -> None:
    encoder = network("vit_small_patch16_dinov3", img_size=32, depth=1)  # torch folds its rotary positions
    for name in ("one", "two"):
        write_onnx(encoder, tmp_path / f"{name}.onnx")
    content = (tmp_path / "one.onnx").read_bytes()
    assert content == (tmp_path / "two.onnx").read_bytes()
    for told in (str(Path(graph.__file__).parent), str(Path(torch.__file__).parent), ".py", "stack_trace", "pkg."):
        assert told.encode() not in content, told
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.onnx", "two.onnx"]


@pytest.mark.slow
def test_it_is_written_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: Any) -> None:
    write_onnx(network("conch", img_size=32, embed_dim=24, depth=1, num_heads=2), tmp_path / "model.onnx")
    out, err = capfd.readouterr()
    assert (out, err, [str(one.message) for one in recwarn]) == ("", "", [])


@pytest.mark.slow
def test_weights_above_the_limit_lie_beside_and_go_with_the_next_export(
    tmp_path: Path, plain_vit: tuple[Encoder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (encoder, whole), file = plain_vit, tmp_path / "model.onnx"
    monkeypatch.setattr(graph, "ONE_FILE", whole.stat().st_size // 2)
    write_onnx(encoder, file)
    assert file.stat().st_size < whole.stat().st_size / 2 < (tmp_path / "model.onnx.data").stat().st_size
    tensors = onnx.load(file, load_external_data=False).graph.initializer
    named = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    assert named == {"model.onnx.data"}
    assert np.array_equal(run(file, patches(encoder))[0], run(whole, patches(encoder))[0])
    monkeypatch.undo()
    write_onnx(encoder, file)
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]
    assert file.read_bytes() == whole.read_bytes()


class Fixed(VisionTransformer):
    """Written as much research code is: the number of images is taken out as a Python number."""

    def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward_features(x).reshape(int(x.shape[0]), -1, self.embed_dim) * len(x) / len(x)


class Branching(VisionTransformer):
    """A path that depends on pixels."""

    def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward_features(x if x.mean() > 0 else -x)


@pytest.mark.parametrize("kind", [Fixed, Branching])
def test_a_network_without_a_graph_is_refused_in_one_line_and_the_former_file_stays(
    kind: type[VisionTransformer], tmp_path: Path
) -> None:
    backbone = kind(img_size=32, patch_size=16, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    encoder = Encoder(network("vit_tiny_patch16_224", img_size=32, **TINY).spec, backbone)
    (tmp_path / "model.onnx").write_bytes(b"former")
    with pytest.raises(EncoderError, match=r"encoder vit_tiny_patch16_224 cannot be exported to ONNX: ") as raised:
        write_onnx(encoder, tmp_path / "model.onnx")
    assert "\n" not in str(raised.value)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("model.onnx", b"former")]


@torch.no_grad()
def test_the_reference_is_the_encoder_in_float32_whatever_it_was_made_to_do() -> None:
    encoder = network("virchow2", **SMALL)
    given = patches(encoder, 7)
    expected = encoder(torch.from_numpy(given).permute(0, 3, 1, 2) / 255).cls.numpy()
    found = torch_embed(encoder, given, batch_size=3)
    assert found.dtype == np.float32 and np.allclose(found, expected, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(torch_embed(encoder.train(), given, batch_size=3), found)
    assert torch_embed(encoder, given[:0]).shape == (0, encoder.embed_dim)


def test_a_halved_encoder_computes_in_float32_again() -> None:
    encoder = network(**TINY).halve()
    copied = plain(encoder)
    assert {p.dtype for p in copied.parameters()} == {torch.float32} and not copied.halved
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16} and encoder.halved
