"""The step of a training written down as a plain PyTorch loop: what Lightning and the Distiller are compared with.

It uses the Distiller's networks, views, terms and recipe, and neither Lightning nor a method of the Distiller's step.
It logs nothing, checks no loss, seeds no drop path, and copies no frozen network's tokens.
tests/test_step_benchmark.py holds it to the same weights, bit for bit.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from g2l.data.masks import draw_masks
from g2l.encoders.encoder import Tokens
from g2l.training.batch import Batch
from g2l.training.distiller import Distiller
from g2l.training.optim import clip_by_module
from g2l.training.terms import EMA, STUDENT, Masked, Need, Passes


class Bare:
    """Steps on the networks of a model, on the device they are on."""

    def __init__(
        self,
        model: Distiller,
        optimizer: torch.optim.Optimizer,
        batches: Iterator[Any],
        device: torch.device,
        half: bool,
        clip: float,
        total: int,
    ) -> None:
        """Args: half: bfloat16 autocast. clip: norm of the gradients. total: steps of the run, for its schedules."""
        self.model, self.optimizer, self.batches = model, optimizer, batches
        self.device, self.half, self.clip, self.total, self.number = device, half, clip, total, 0
        self.averaged = model.averaged()
        self.whole = model.recipe.clip == "whole"
        self.trained = {"student": nn.ModuleList([model.student, model.masking])}
        self.trained |= {f"head {name}": nn.ModuleList([head]) for name, head in model.heads.items()}
        self.trained |= {f"term {name}": nn.ModuleList([term]) for name, term in model.terms.items()}

    def step(self) -> None:
        """One batch."""
        model, terms = self.model, [self.model.term(name) for name in self.model.terms]
        model.recipe.apply(self.optimizer, self.number, self.total)
        for term in terms:
            term.start_step(self.number, self.total)
        batch = next(self.batches)
        batch |= {"images": batch["images"].to(self.device, non_blocking=True)}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            passes = self._passes(batch)
            loss = torch.stack([term.weight * term(passes) for term in terms]).sum()
        loss.backward()
        clip_by_module(self.trained, self.clip, self.whole)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for term in terms:
            term.end_step()
        if model.ema is not None:
            model.ema.update(self.averaged, model.recipe.momentum(self.number, self.total))
        self.number += 1

    def _passes(self, batch: Batch) -> Passes:
        model, images = self.model, batch["images"]
        names = sorted({need.view for need in model.needs})
        views = model.views(images, batch["index"], seed=model.seed, training=True, names=names)
        passes = Passes(crops=model.views.crops)
        if any(need.masked for need in model.needs):
            drawn = draw_masks(batch["index"], model.seed, model.student.grid, passes.crops)
            passes.masked = Masked.of(drawn, images.device)
        for need in model.needs:
            passes[need] = self._tokens(need, views[need.view], passes.masked)
        return passes

    def _tokens(self, need: Need, view: Tensor, masked: Masked | None) -> Tokens:
        model = self.model
        if need.network == STUDENT and need.masked:
            assert masked is not None
            return model.student(view, mask=masked.tokens, mask_token=model.masking["mask_token"])
        if need.network == STUDENT:
            return model.student(view, resize=need.view != "local")
        with torch.no_grad():
            assert need.network != EMA or model.ema is not None
            network = model.ema[STUDENT] if need.network == EMA else model.frozen[need.network]  # type: ignore[index]
            return network(view)
