"""Schedules at the values that GPFM's recipe gives, and at their ends."""

from pathlib import Path

import numpy as np
import pytest
import timm
from omegaconf import OmegaConf

from g2l.training.recipe import Recipe
from g2l.training.schedules import cosine, linear, scaled_lr
from g2l.training.selfdistil import Dino


def test_gpfm_s_rates_at_iteration_87_499() -> None:
    step, total = 87_499, 500_000
    lr = cosine(step, total, scaled_lr(4e-4, 1536), 1e-6, warmup=50_000)
    decay, momentum = cosine(step, total, 0.04, 0.4), cosine(step, total, 0.992, 1.0)
    assert (float(f"{lr:.4g}"), round(decay, 4), round(momentum, 5)) == (4.816e-4, 0.0665, 0.99259)
    assert linear(step, 0.04, 0.07, 37_500) == 0.07


def test_the_faithful_config_has_these_rates() -> None:
    """Read from configs/gpfm_faithful.yaml and applied as a training does."""
    config = OmegaConf.load(Path(__file__).parents[2] / "configs/gpfm_faithful.yaml")
    fields = {field: config.model[field] for field in Recipe.__dataclass_fields__ if field in config.model}
    recipe = Recipe(betas=(0.9, 0.999), **fields)
    student = timm.create_model("vit_tiny_patch16_224", depth=24, embed_dim=8, num_heads=2, num_classes=0)
    optimizer = recipe.optimizer({"student": student})
    rates = recipe.apply(optimizer, 87_499, config.trainer.max_steps)
    momentum = recipe.momentum(87_499, config.trainer.max_steps)
    assert float(f"{rates['lr']:.4g}") == 4.816e-4
    assert (round(rates["weight_decay"], 4), round(momentum, 5)) == (0.0665, 0.99259)
    # patch_embed, embeddings, block 0 and 11 and 23, norm
    shares = {round(group["lr"] / rates["lr"], 4) for group in optimizer.param_groups}
    assert {0.0144, 0.0718, 0.0798, 0.2542, 0.9, 1.0} <= shares
    dino = Dino(**{**config.model.terms.dino.init_args, "prototypes": 4})
    dino.start_step(87_499, config.trainer.max_steps)
    assert dino.teacher_temperature == 0.07
    dino.start_step(0, config.trainer.max_steps)
    assert dino.teacher_temperature == 0.04


def test_the_rate_scales_with_the_root_of_the_batch() -> None:
    assert scaled_lr(4e-4, 1024) == 4e-4
    assert scaled_lr(4e-4, 1536) == pytest.approx(4.898979e-4)
    assert scaled_lr(4e-4, 4096) == 8e-4


def test_linear_rises_evenly_and_stays() -> None:
    found = [linear(step, 0.04, 0.07, 6) for step in range(9)]
    assert np.allclose(found, [*np.linspace(0.04, 0.07, 7), 0.07, 0.07]) and found[0] == 0.04
    assert found[6:] == [0.07] * 3  # exactly
    assert linear(0, 0.04, 0.07, 0) == 0.07  # no warm-up


def test_cosine_equals_its_definition_at_every_step() -> None:
    start, end, warmup, total = 0.3, 0.02, 4, 25
    rise = np.arange(1, warmup + 1) / warmup * start
    angle = np.pi * np.arange(total - warmup + 1) / (total - warmup)
    expected = [*rise, *(end + (start - end) * (1 + np.cos(angle)) / 2), end, end]
    assert np.allclose([cosine(step, total, start, end, warmup) for step in range(len(expected))], expected)
