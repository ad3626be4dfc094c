"""AdamW with what the recipes of this field agree on: groups of parameters, their rates, clipping by module."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW, Optimizer

from g2l.errors import ConfigError
from g2l.objectives.heads import PrototypeHead

STUDENT = "student"

_BLOCK = re.compile(r"^(.*?)blocks\.(\d+)\.")
# What comes before the blocks; registers too, which DINOv2's list leaves out.
_EMBEDDING = re.compile(r"(^|\.)(cls_token|reg_token|mask_token|dist_token|pos_embed|norm_pre\..*)$")
_PATCH_EMBED = re.compile(r"(^|\.)patch_embed\.")


class _Kind(NamedTuple):
    """What the parameters of one group have in common."""

    scale: float
    decays: bool
    last_layer: bool


def layer_scale(student: nn.Module, decay: float, patch_embed: float = 1.0) -> Callable[[str], float]:
    """The factor of the learning rate of a vision transformer's parameter, as a function of its name.

    Of L blocks, block i has decay^(L - i), counted from 0; what comes before the blocks decay^(L + 1), and its patch
    embedding `patch_embed` times that; norm and pooling after them 1. With both at 1 any network will do.

    Raises:
        ConfigError: for factors out of range; with one other than 1, when the network is no plain vision transformer.
    Source: Bao et al. 2022 (BEiT); DINOv2's code for the patch embedding, at .2 in its settings and GPFM's.
    """
    if not 0 < decay <= 1 or patch_embed <= 0:
        raise ConfigError(
            f"layer_decay is {decay} and patch_embed_scale {patch_embed}; give factors above 0, layer_decay at most 1"
        )
    if decay == patch_embed == 1:
        return lambda name: 1.0
    names = [name for name, _ in student.named_parameters()]
    blocks = [match for name in names if (match := _BLOCK.match(name))]
    if len({match[1] for match in blocks}) != 1 or not any(_PATCH_EMBED.search(name) for name in names):
        raise ConfigError(
            f"layer_decay is {decay} and patch_embed_scale {patch_embed}, but the student is no plain vision "
            "transformer of timm (patch_embed, then one row of blocks); set both to 1 or choose a vit_* student"
        )
    depth = 1 + max(int(match[2]) for match in blocks)

    def scale(name: str) -> float:
        block = _BLOCK.match(name)
        if block:
            return decay ** (depth - int(block[2]))
        if _PATCH_EMBED.search(name):
            return decay ** (depth + 1) * patch_embed
        return decay ** (depth + 1) if _EMBEDDING.search(name) else 1.0

    return scale


def decays(parameter: Tensor) -> bool:
    """Whether weight decay acts on it: on matrices and kernels, not on biases, norms, LayerScale and the lengths of
    weight-normed layers (one axis longer than 1), nor on tokens and position embeddings (leading axis 1).
    """
    return sum(side > 1 for side in parameter.shape) > 1 and parameter.shape[0] > 1


def parameter_groups(
    modules: Mapping[str, nn.Module], layer_decay: float = 1.0, patch_embed_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for AdamW of all parameters that require gradients, each once, as few groups as there are kinds.

    A group's `scale` is its factor of the learning rate, `decays` says whether weight decay acts on it, `last_layer`
    whether it is a prototype layer, which is frozen in the first steps; `set_rates` reads all three.

    Args:
        modules: what is trained, by name; of these `student` is the one whose layers are told apart (`layer_scale`).
    """
    scale = layer_scale(modules[STUDENT], layer_decay, patch_embed_scale)
    heads = [part for module in modules.values() for part in module.modules() if isinstance(part, PrototypeHead)]
    last = {id(parameter) for head in heads for parameter in head.prototypes.parameters()}
    groups: dict[_Kind, list[Tensor]] = {}
    seen: set[int] = set()
    named = [(module, *pair) for module in modules for pair in modules[module].named_parameters()]
    for module, name, parameter in named:
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        # A mask token may stand beside the student; it goes into it with the other tokens.
        layered = module == STUDENT or name.endswith("mask_token")
        kind = _Kind(scale(name) if layered else 1.0, decays(parameter), id(parameter) in last)
        groups.setdefault(kind, []).append(parameter)
    return [{"params": group, **kind._asdict()} for kind, group in groups.items()]


def adamw(
    modules: Mapping[str, nn.Module],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    layer_decay: float = 1.0,
    patch_embed_scale: float = 1.0,
) -> AdamW:
    """AdamW over the `parameter_groups` of `modules`, on a GPU with one kernel for each group."""
    groups = parameter_groups(modules, layer_decay, patch_embed_scale)
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    optimizer = AdamW(groups, lr=lr, weight_decay=weight_decay, betas=betas, fused=True if on_gpu else None)
    set_rates(optimizer, lr, weight_decay)
    return optimizer


def set_rates(optimizer: Optimizer, lr: float, weight_decay: float, freeze_last_layer: bool = False) -> None:
    """Learning rate and weight decay of a step, for every group by what it knows of itself.

    A frozen last layer keeps its weights (AdamW's weight decay is times the rate too) and gathers Adam's moments, as
    in DINOv2.
    """
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if freeze_last_layer and group["last_layer"] else lr * group["scale"]
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def clip_by_module(modules: Mapping[str, nn.Module], max_norm: float, whole: bool = False) -> dict[str, Tensor]:
    """Scale the gradients of each module to a norm of at most `max_norm`, each module by itself; or all together, as
    one gradient (`whole`).

    A gradient that explodes in one head then takes nothing from the step of the others. A parameter of two modules
    counts in the first. GPFM clips student and prototype head so, at 3, and its expert heads not at all.

    Returns:
        The norm before clipping of every module that has a gradient, on its device: nothing waits for a GPU here.
    """
    norms: dict[str, Tensor] = {}
    parameters: dict[str, list[nn.Parameter]] = {}
    seen: set[int] = set()
    for name, module in modules.items():
        own = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen |= {id(parameter) for parameter in own}
        gradients = [parameter.grad for parameter in own if parameter.grad is not None]
        if gradients:
            norms[name], parameters[name] = get_total_norm(gradients), own
    together = torch.linalg.vector_norm(torch.stack(list(norms.values()))) if whole and norms else None
    for name, norm in norms.items():
        clip_grads_with_norm_(parameters[name], max_norm, norm if together is None else together)
    return norms
