"""A moving average of modules: the teacher of self-distillation, and the better student at the end."""

import copy
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn


class EMA(nn.Module):
    """Copies of named modules that follow them: average <- momentum x average + (1 - momentum) x module.

    Always in eval mode and without gradients. Buffers are not averaged but copied.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """Args: modules: what to follow; the copies start equal to them."""
        super().__init__()
        self.averaged = nn.ModuleDict({name: copy.deepcopy(module) for name, module in modules.items()})
        self.requires_grad_(False).eval()

    def __getitem__(self, name: str) -> Any:
        """The average of the module called `name`, of that module's class."""
        return self.averaged[name]

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever `mode` is: a teacher drops no paths."""
        return super().train(False)

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module], momentum: float) -> None:
        """One step towards `modules`, which have the names and shapes of those it was made from; to be called once per
        step of the optimiser, however many batches were accumulated.
        """
        if modules.keys() != self.averaged.keys():
            raise KeyError(f"an average of {', '.join(self.averaged)} cannot follow {', '.join(modules)}")
        own, others, own_buffers, others_buffers = [], [], [], []
        for name, module in modules.items():
            state = dict(module.named_parameters()), dict(module.named_buffers())
            for key, parameter in self.averaged[name].named_parameters():
                own.append(parameter)
                others.append(state[0][key].detach())
            for key, buffer in self.averaged[name].named_buffers():
                own_buffers.append(buffer)
                others_buffers.append(state[1][key])
        if own:
            torch._foreach_lerp_(own, others, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]
        if own_buffers:
            torch._foreach_copy_(own_buffers, others_buffers)  # pyright: ignore[reportPrivateImportUsage]
