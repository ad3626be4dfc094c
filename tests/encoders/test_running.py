"""How an encoder runs: in half precision, with activations computed again, compiled."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from g2l.encoders.encoder import Encoder, create_encoder
from g2l.errors import EncoderError

TINY: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}


def tiny(**arguments: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = create_encoder("demo-student", init="random", **{**TINY, **arguments})
    for parameter in encoder.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.2
    return encoder


def images(size: int = 32, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_half_precision_keeps_the_direction_of_every_token() -> None:
    encoder = tiny(embed_dim=64, depth=6, pooling="cls+mean")
    whole = encoder(images(count=8))
    half = copy.deepcopy(encoder).halve()
    found = half(images(count=8))
    assert found.cls.dtype == found.patches.dtype == torch.bfloat16 and found.grid == whole.grid
    for one, other in ((found.cls, whole.cls), (found.patches, whole.patches)):
        # bfloat16 has 8 bits: relative errors of .004 in some ten roundings a block.
        assert torch.cosine_similarity(one.float(), other, dim=-1).min() > 0.999
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16} and half.mean.dtype == torch.float32
    assert not any(p.requires_grad for p in half.parameters()) and half.halved and not encoder.halved


@torch.inference_mode()
def test_half_precision_normalises_in_float32_and_ignores_autocast() -> None:
    encoder = tiny(mean=[0.7, 0.6, 0.7], std=[0.02, 0.02, 0.02]).halve()
    expected = encoder.backbone.forward_features(((images() - encoder.mean) / encoder.std).bfloat16())
    assert torch.equal(encoder(images()).patches, expected[:, 1:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(images()).patches, expected[:, 1:])


def _kept(encoder: Encoder, mask: Tensor | None, token: Tensor) -> tuple[int, dict[str, Tensor]]:
    """Bytes that the forward pass keeps for the backward pass, and the gradients."""
    bytes_kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal bytes_kept
        bytes_kept += tensor.nbytes
        return tensor

    encoder.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        tokens = encoder(images(), mask, token)
        loss = tokens.cls.square().sum() + tokens.patches.square().sum()
    kept = bytes_kept  # the backward pass computes again, and keeps again
    loss.backward()
    return kept, {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("masked", [False, True])
def test_checkpointing_keeps_less_and_gives_the_same_gradients(masked: bool) -> None:
    encoder = tiny(depth=4).set_drop_path(0.3).train()
    mask = torch.arange(32).view(2, 16) % 3 == 0 if masked else None
    token = torch.randn(1, 32, requires_grad=True)
    results = []
    for enable in (False, True, False):
        torch.manual_seed(3)  # drop path draws the same again, also in the second computation
        results.append(_kept(encoder.checkpoint_activations(enable), mask, token))
    (much, expected), (little, found), (again, _) = results
    assert little < much / 3 and again == much
    assert expected.keys() == found.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_checkpointing_is_refused_where_it_cannot_be() -> None:
    encoder = create_encoder("conch", init="random", img_size=32, embed_dim=24, depth=1, num_heads=2)
    with pytest.raises(EncoderError, match="ConchVisual cannot recompute activations"):
        encoder.checkpoint_activations()


def _passes(encoder: Encoder, token: Tensor) -> list[Tensor]:
    """Tokens and gradients of the passes of a step: masked global crops, local crops; then whole crops without."""
    mask = torch.arange(32).view(2, 16) % 3 == 0
    encoder.train().zero_grad()
    global_, local = encoder(images(), mask, token), encoder(images(16, count=4), resize=False)
    (global_.patches.square().mean() + local.cls.square().mean()).backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    with torch.no_grad():
        whole = encoder.eval()(images())
    return [global_.cls, global_.patches, local.cls, local.patches, whole.cls, whole.patches, *gradients]


@pytest.mark.slow
def test_compiled_passes_equal_the_others_and_leave_state_and_copies_alone() -> None:
    torch._dynamo.reset()
    counters.clear()
    encoder, token = tiny(depth=1, training_args={"dynamic_img_size": True}), torch.randn(1, 32)
    expected, keys = _passes(encoder, token), list(encoder.state_dict())
    encoder.compile_fixed()
    found = _passes(encoder, token)
    assert counters["stats"]["unique_graphs"] == 3 and not counters["graph_break"]
    _passes(encoder, token)
    assert counters["stats"]["unique_graphs"] == 3  # each shape once
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert list(encoder.state_dict()) == keys
    twin = copy.deepcopy(encoder)
    assert torch.equal(twin(images()).cls, expected[4])  # bit for bit: it is not compiled
    encoder.load_state_dict({key: value * 0.5 for key, value in encoder.state_dict().items()})
    twin.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        assert torch.allclose(encoder(images()).cls, twin(images()).cls, atol=1e-5)


@pytest.mark.slow
@torch.inference_mode()
def test_a_halved_encoder_can_be_compiled() -> None:
    torch._dynamo.reset()
    encoder = tiny().halve()
    expected = encoder(images(40))  # resized
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder.compile_fixed()(images(40))
    assert found.cls.dtype == torch.bfloat16
    assert torch.cosine_similarity(found.patches.float(), expected.patches.float(), dim=-1).min() > 0.999


@pytest.mark.slow
def test_a_dozen_compiled_passes_stay_compiled() -> None:
    torch._dynamo.reset()
    counters.clear()
    # Torch's own way back: monkeypatch would delete the setting at its end, which then exists no more in the process.
    with torch._dynamo.config.patch(recompile_limit=8):
        for width in (16, 32, 48, 64):
            encoder = tiny(embed_dim=width, depth=1).compile_fixed(backend="eager")
            for count in (1, 2, 3):
                encoder(images(count=count))
    assert counters["stats"]["unique_graphs"] == 12
