"""The moving average: equal at first, the stated mixture after, never in training mode, saved and loaded strictly."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from g2l.encoders.encoder import Encoder, create_encoder
from g2l.objectives.heads import PrototypeHead
from g2l.training.ema import EMA

TINY: dict[str, Any] = {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 32, "patch_size": 8}


def networks(seed: int = 0) -> dict[str, nn.Module]:
    """A student that drops paths, a weight-normed head, and a module with buffers, one of whole numbers."""
    torch.manual_seed(seed)
    student = create_encoder("demo-student", init="random", **TINY).set_drop_path(0.5).train()
    return {"student": student, "head": PrototypeHead(16, 8, 4, 12), "norm": nn.BatchNorm1d(3)}


def disturb(modules: dict[str, nn.Module], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in modules.values():
        for parameter in module.parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator)
    modules["norm"].train()(torch.randn(5, 3, generator=generator))


def test_it_equals_the_modules_at_first_and_is_another_memory() -> None:
    modules = networks()
    ema = EMA(modules)
    for name, module in modules.items():
        own = ema[name].state_dict()
        assert own.keys() == module.state_dict().keys()
        for key, value in module.state_dict().items():
            assert torch.equal(own[key], value) and own[key].data_ptr() != value.data_ptr()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(ema["student"](images).cls, modules["student"].eval()(images).cls)


def test_after_updates_it_is_the_mixture_in_float64() -> None:
    modules = networks()
    ema = EMA(modules)
    expected = {n: {k: v.double().numpy().copy() for k, v in m.named_parameters()} for n, m in ema.averaged.items()}
    for step, momentum in enumerate((0.9, 0.99, 0.0, 0.996, 1.0)):
        disturb(modules, step)
        ema.update(modules, momentum)
        for name, module in modules.items():
            for key, value in module.named_parameters():
                mixed = momentum * expected[name][key] + (1 - momentum) * value.detach().double().numpy()
                expected[name][key] = mixed
                assert np.allclose(dict(ema[name].named_parameters())[key], mixed, rtol=1e-6, atol=1e-6)
        assert all(torch.equal(b, c) for b, c in zip(modules["norm"].buffers(), ema["norm"].buffers(), strict=True))
    assert ema["norm"].num_batches_tracked == 5


def test_it_never_trains() -> None:
    modules = networks()
    ema = EMA(modules)
    holder = nn.ModuleDict({"ema": ema}).train()
    assert holder.training and not any(module.training for module in ema.modules())
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert isinstance(ema["student"], Encoder)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(ema["student"](images).cls, ema["student"](images).cls)  # no path is dropped
    ema.update(modules, 0.5)
    assert all(p.grad is None and p.is_leaf for p in ema.parameters())
    assert all(p.requires_grad for p in modules["student"].parameters())


def test_a_loaded_average_is_the_same_bit_for_bit_and_goes_on_so() -> None:
    modules, others = networks(), networks(seed=1)
    ema, loaded = EMA(modules), EMA(others)
    disturb(modules, 0)
    ema.update(modules, 0.7)
    loaded.load_state_dict(ema.state_dict())
    for _ in range(2):
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in ema.state_dict().items())
        disturb(modules, 1)
        ema.update(modules, 0.9)
        loaded.update(modules, 0.9)


def test_what_does_not_fit_is_refused() -> None:
    modules = networks()
    ema = EMA(modules)
    state = ema.state_dict()
    state["averaged.student.other"] = state.pop("averaged.student.backbone.cls_token")
    with pytest.raises(RuntimeError, match=r"Missing key.*cls_token(.|\n)*Unexpected key.*other"):
        ema.load_state_dict(state)
    with pytest.raises(KeyError, match="cannot follow student"):
        ema.update({"student": modules["student"]}, 0.9)
