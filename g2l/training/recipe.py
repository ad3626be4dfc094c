"""Rates of a training as functions of the step, applied to the optimiser's groups."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from g2l.errors import ConfigError
from g2l.training.optim import adamw, set_rates
from g2l.training.schedules import cosine


@dataclass(frozen=True)
class Recipe:
    """How student and heads are optimised; the fields are explained where they are set (`Distiller`)."""

    lr: float
    lr_final: float
    warmup_steps: int
    weight_decay: float
    weight_decay_final: float | None
    betas: tuple[float, float]
    layer_decay: float
    patch_embed_scale: float
    freeze_last_layer: int
    ema_momentum: float
    ema_momentum_final: float
    clip: Literal["whole", "module"]

    def __post_init__(self) -> None:
        """ConfigError for values out of range."""
        least = {"lr": self.lr, "lr_final": self.lr_final, "weight_decay": self.weight_decay}
        least |= {"warmup_steps": self.warmup_steps, "freeze_last_layer": self.freeze_last_layer}
        wrong = [f"model.{name} is {value}" for name, value in least.items() if value < 0]
        if wrong:
            raise ConfigError(f"{', '.join(wrong)}; give 0 or more")
        momenta = (self.ema_momentum, self.ema_momentum_final)
        if not all(0 <= momentum <= 1 for momentum in momenta):
            raise ConfigError(f"model.ema_momentum is {momenta[0]} to {momenta[1]}; give values from 0 to 1")

    def optimizer(self, modules: Mapping[str, nn.Module]) -> torch.optim.AdamW:
        """AdamW over what is trainable in `modules`, of which `student` is the one with layers."""
        return adamw(modules, self.lr, self.weight_decay, self.betas, self.layer_decay, self.patch_embed_scale)

    def apply(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> dict[str, float]:
        """Set the rates of a step of `total`; returns them by name."""
        lr = cosine(step, total, self.lr, self.lr_final, self.warmup_steps)
        final = self.weight_decay if self.weight_decay_final is None else self.weight_decay_final
        decay = cosine(step, total, self.weight_decay, final)
        set_rates(optimizer, lr, decay, step < self.freeze_last_layer)
        return {"lr": lr, "weight_decay": decay}

    def momentum(self, step: int, total: int) -> float:
        """Of the moving average of the student after a step."""
        return cosine(step, total, self.ema_momentum, self.ema_momentum_final)
