"""AdamW with what every recipe of this field agrees on."""

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW


def decay_groups(modules: Iterable[nn.Module]) -> list[dict[str, object]]:
    """Two parameter groups: matrices with weight decay; biases, norms and LayerScale (all of one axis), and the
    tokens and position embeddings (leading axis 1), without. A group's `decays` says which it is.
    """
    decayed, plain = [], []
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                is_matrix = parameter.ndim > 1 and parameter.shape[0] > 1
                (decayed if is_matrix else plain).append(parameter)
    return [{"params": decayed, "decays": True}, {"params": plain, "decays": False, "weight_decay": 0.0}]


def adamw(modules: Iterable[nn.Module], lr: float, weight_decay: float, betas: tuple[float, float]) -> AdamW:
    """AdamW over the trainable parameters of `modules`, grouped by `decay_groups`."""
    return AdamW(decay_groups(modules), lr=lr, weight_decay=weight_decay, betas=betas)
