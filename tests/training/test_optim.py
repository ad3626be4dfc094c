"""Groups of parameters, their rates, and clipping module by module."""

import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn

from g2l.encoders.encoder import Encoder, create_encoder
from g2l.errors import ConfigError
from g2l.objectives.heads import ExpertHead, PrototypeHead
from g2l.training.optim import adamw, clip_by_module, parameter_groups, set_rates

TINY: dict[str, Any] = {"embed_dim": 8, "num_heads": 2, "img_size": 28}
GPFM: dict[str, Any] = {"layer_decay": 0.9, "patch_embed_scale": 0.2}


def vit(name: str = "dinov2-l-reg4", depth: int = 24, **arguments: Any) -> Encoder:
    with torch.device("meta"):
        return create_encoder(name, init="random", **{**TINY, "depth": depth, **arguments})


def kinds(modules: dict[str, nn.Module], **arguments: Any) -> dict[str, dict[str, Any]]:
    """What the group of every parameter says, by the parameter's name; each parameter is in one group."""
    names = {id(p): f"{name}.{key}" for name, m in reversed(modules.items()) for key, p in m.named_parameters()}
    found: dict[str, dict[str, Any]] = {}
    for group in parameter_groups(modules, **arguments):
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = {key: value for key, value in group.items() if key != "params"}
    return found


def test_gpfm_s_multipliers_of_24_blocks() -> None:
    masking = nn.ParameterDict({"mask_token": nn.Parameter(torch.zeros(1, 8))})
    found = kinds({"student": vit(), "masking": masking, "head": nn.Linear(8, 8)}, **GPFM)
    assert len(found) == len(list(vit().parameters())) + 3
    pinned = {
        "student.backbone.patch_embed.proj.weight": 0.0144,
        "student.backbone.patch_embed.proj.bias": 0.0144,
        "student.backbone.cls_token": 0.0718,
        "student.backbone.reg_token": 0.0718,
        "student.backbone.pos_embed": 0.0718,
        "masking.mask_token": 0.0718,
        "student.backbone.blocks.0.attn.qkv.weight": 0.0798,
        "student.backbone.blocks.0.ls1.gamma": 0.0798,
        "student.backbone.blocks.11.mlp.fc1.bias": 0.254,
        "student.backbone.blocks.23.norm2.weight": 0.9,
        "student.backbone.norm.weight": 1,
        "head.weight": 1,
    }
    assert {name: float(f"{found[name]['scale']:.3g}") for name in pinned} == pytest.approx(pinned, rel=2e-3)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224", "vit_base_patch16_clip_224"])
def test_layers_are_scaled_as_timm_scales_them(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=2, **{**TINY, "depth": 5, "img_size": 32})
    found = kinds({"student": model}, layer_decay=0.8)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    compared = 0
    for group in param_groups_layer_decay(model, layer_decay=0.8):
        for key in (names[id(parameter)] for parameter in group["params"]):
            # timm counts the last norm to the last block, and CLIP's norm before the blocks too.
            if not key.startswith("norm"):
                assert found[f"student.{key}"]["scale"] == pytest.approx(group["lr_scale"]), key
                compared += 1
    assert compared > 60


def test_decay_acts_on_matrices_alone() -> None:
    modules: dict[str, nn.Module] = {"student": vit(depth=2), "expert": ExpertHead(8, 6, 4)}
    found = kinds(modules)
    decayed = {name for name, kind in found.items() if kind["decays"]}
    blocks = [f"student.backbone.blocks.{i}.{layer}.weight" for i in (0, 1) for layer in ("attn.qkv", "attn.proj")]
    blocks += [f"student.backbone.blocks.{i}.mlp.{layer}.weight" for i in (0, 1) for layer in ("fc1", "fc2")]
    others = ["student.backbone.patch_embed.proj.weight", "expert.bottleneck.0.weight"]
    directions = "expert.last.parametrizations.weight.original1"  # and not original0, the rows' lengths
    assert decayed == {*blocks, *others, directions}


def test_groups_are_few_and_a_shared_parameter_is_in_one() -> None:
    head = PrototypeHead(8, 8, 4, 16)
    modules: dict[str, nn.Module] = {"student": vit(), "dino": head, "ibot": nn.ModuleDict({"head": head})}
    assert len(kinds(modules)) == len(list(modules["student"].parameters())) + len(list(head.parameters())) - 1
    # With and without decay, and the prototypes' directions; their lengths are not trained.
    assert len(parameter_groups(modules)) == 3
    # 24 blocks and the patch embedding twice; tokens; norms and head twice; prototypes.
    assert len(parameter_groups(modules, **GPFM)) == 2 * 24 + 2 + 1 + 2 + 1
    frozen = vit().requires_grad_(False)
    assert {key.split(".")[0] for key in kinds({"student": frozen, "head": nn.Linear(2, 2)})} == {"head"}


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_layer_decay_without_a_row_of_blocks_is_refused(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert {kind["scale"] for kind in kinds({"student": model}).values()} == {1.0}
    for arguments in ({"layer_decay": 0.9}, {"patch_embed_scale": 0.2}):
        with pytest.raises(ConfigError, match=r"is no plain vision transformer .* set both to 1"):
            parameter_groups({"student": model}, **arguments)


@pytest.mark.parametrize("wrong", [{"layer_decay": 0.0}, {"layer_decay": 1.1}, {"patch_embed_scale": -1.0}])
def test_factors_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give factors above 0, layer_decay at most 1"):
        parameter_groups({"student": nn.Linear(2, 2)}, **wrong)


def test_rates_follow_the_groups_and_a_frozen_last_layer_stands_still() -> None:
    torch.manual_seed(0)
    head = PrototypeHead(8, 8, 4, 16)
    student = create_encoder("demo-student", init="random", **TINY, depth=2, patch_size=14)
    modules: dict[str, nn.Module] = {"student": student, "head": head}
    optimizer = adamw(modules, 0.01, 0.1, (0.9, 0.999), **GPFM)
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(student.backbone.cls_token)] == pytest.approx(0.01 * 0.9**3)
    hidden = head.mlp[0].weight
    assert isinstance(hidden, nn.Parameter)
    watched = [*head.prototypes.parameters(), hidden]
    moved = []
    for freeze in (True, False):
        before = [parameter.detach().clone() for parameter in watched]
        set_rates(optimizer, 0.01, 0.1, freeze_last_layer=freeze)
        optimizer.zero_grad()
        head(student(torch.rand(2, 3, 28, 28)).cls).square().sum().backward()
        optimizer.step()
        moved.append([not torch.equal(a, b) for a, b in zip(watched, before, strict=True)])
    # Lengths, which are not trained; directions, once released; the first layer, always.
    assert moved == [[False, False, True], [False, True, True]]
    decays = {group["decays"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {True: 0.1, False: 0.0}


def test_every_module_is_clipped_to_the_norm_by_itself() -> None:
    torch.manual_seed(0)
    modules: dict[str, nn.Module] = {name: nn.Linear(4, 3) for name in ("calm", "wild", "idle")}
    gradients: dict[str, list[Tensor]] = {}
    for name, factor in (("calm", 0.1), ("wild", 1e6)):
        for parameter in modules[name].parameters():
            parameter.grad = torch.randn(parameter.shape) * factor
        gradients[name] = [p.grad.clone() for p in modules[name].parameters() if p.grad is not None]
    norms = clip_by_module(modules, 3.0)
    for name, before in gradients.items():
        norm = math.sqrt(sum(float(np.square(g.double().numpy()).sum()) for g in before))
        assert norms[name].item() == pytest.approx(norm, rel=1e-5)
        for gradient, parameter in zip(before, modules[name].parameters(), strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, gradient * min(1, 3 / norm), rtol=1e-4)
    assert "idle" not in norms and all(p.grad is None for p in modules["idle"].parameters())


def test_clipped_as_a_whole_is_torch_s_clipping_of_all() -> None:
    torch.manual_seed(0)
    modules = {name: nn.Linear(4, 3) for name in ("calm", "wild", "idle")}
    together = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
    own = [parameter for name in ("calm", "wild") for parameter in modules[name].parameters()]
    for parameter, other in zip(own, together.parameters(), strict=True):
        parameter.grad = torch.randn(parameter.shape) * 10
        other.grad = parameter.grad.clone()
    norms = clip_by_module(modules, 3.0, whole=True)
    total = nn.utils.clip_grad_norm_(together.parameters(), 3.0)
    assert math.hypot(*(float(norm) for norm in norms.values())) == pytest.approx(float(total))
    for parameter, other in zip(own, together.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


def test_a_shared_parameter_is_clipped_once() -> None:
    shared, own = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    for layer in (shared, own):
        layer.weight.grad = torch.tensor([[3.0, 4.0]])
    norms = clip_by_module({"first": shared, "second": nn.Sequential(shared, own)}, 2.5)
    assert (norms["first"].item(), norms["second"].item()) == (5.0, 5.0)
    assert torch.allclose(shared.weight.grad, torch.tensor([[1.5, 2.0]]))  # type: ignore[arg-type]
    assert torch.allclose(own.weight.grad, torch.tensor([[1.5, 2.0]]))  # type: ignore[arg-type]


@pytest.mark.gpu
def test_on_a_gpu_the_optimiser_is_fused() -> None:
    student = nn.Linear(4, 4).cuda()
    optimizer = adamw({"student": student}, 0.01, 0.1, (0.9, 0.999))
    assert optimizer.defaults["fused"] is True
    student(torch.ones(1, 4, device="cuda")).sum().backward()
    optimizer.step()
