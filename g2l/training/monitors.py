"""Callbacks that watch a run: throughput, pictures, the paper's stop rule.

Letters: `B` images, `H` pixels of a view, `N` patch tokens, `D` width.
"""

import time
from collections import deque
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.nn.functional import interpolate

from g2l.encoders.encoder import Tokens
from g2l.errors import ConfigError
from g2l.training.distiller import Batch, Distiller
from g2l.training.terms import STUDENT


class Throughput(Callback):
    """Logs `train/images_per_second` (all processes) and `train/data_wait`, the share of time waiting for data."""

    def __init__(self, every: int = 20) -> None:
        """Args: every: steps that one figure covers."""
        self.every = every
        self._reset()

    def _reset(self) -> None:
        self._busy = self._waited = 0.0
        self._images = self._batches = 0
        self._mark: float | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """What passed since the last batch ended was spent waiting."""
        now = time.perf_counter()
        if self._mark is not None:
            self._waited += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """What passed since the batch began was work."""
        now = time.perf_counter()
        if self._mark is not None:
            self._busy += now - self._mark
        self._mark = now
        self._images += len(batch["index"]) * trainer.world_size
        self._batches += 1
        if self._batches == self.every:
            elapsed = self._busy + self._waited
            pl_module.log("train/images_per_second", self._images / elapsed)
            pl_module.log("train/data_wait", self._waited / elapsed)
            self._reset()
            self._mark = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation between two batches is neither work nor waiting."""
        self._mark = None


def token_pca(tokens: Tokens) -> Tensor:
    """Patch tokens as colours: the first three principal components over all B images, each scaled to [0, 1] between
    its 2nd and 98th percentile. Returns (B, 3, h, w); components are those of this network alone.
    """
    flat = tokens.patches.float().flatten(0, 1)  # [B N, D]
    centred = flat - flat.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    scores = centred @ axes[:3].T
    # A component's sign is arbitrary; its largest loading is made positive so that pictures of two steps compare.
    scores = scores * axes[:3].gather(1, axes[:3].abs().argmax(1, keepdim=True)).sign().T
    low, high = torch.quantile(scores, torch.tensor([0.02, 0.98], device=scores.device), dim=0)
    scaled = ((scores - low) / (high - low).clamp_min(1e-8)).clamp(0, 1)
    return scaled.unflatten(0, (tokens.patches.shape[0], *tokens.grid)).permute(0, 3, 1, 2)


def mosaic(rows: list[Tensor], gap: int = 2) -> Tensor:
    """Rows of B pictures (B, 3, H, H), one row under the other with white gaps: (3, height, width)."""
    lines = []
    for row in rows:
        padded = torch.nn.functional.pad(row, (0, gap, 0, gap), value=1.0)
        lines.append(torch.cat(list(padded), dim=2))
    return torch.cat(lines, dim=1)


def views_in_mode(module: Distiller, batch: Batch, training: bool) -> dict[str, Tensor]:
    """The views of a mode, by the flag of the module alone: its networks must not change mode for a picture."""
    was_training, module.training = module.training, training
    try:
        return module.make_views(batch)
    finally:
        module.training = was_training


class Pictures(Callback):
    """TensorBoard images at every validation: what teacher and student saw in training, and held-out patches with the
    PCA of the patch tokens of the student and of each frozen network side by side.
    """

    def __init__(self, images: int = 8) -> None:
        """Args: images: how many patches in a row."""
        self.images = images
        self._seen: Batch | None = None
        self._held_out: Batch | None = None

    def _few(self, batch: Batch) -> Batch:
        few = self.images
        return {"images": batch["images"][:few], "index": batch["index"][:few], "slides": batch["slides"][:few]}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the last training batch's first images."""
        self._seen = self._few(batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first held-out batch's first images."""
        if batch_idx == 0:
            self._held_out = self._few(batch)

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw both pictures."""
        logger = next((each for each in trainer.loggers if isinstance(each, TensorBoardLogger)), None)
        if logger is None or not isinstance(pl_module, Distiller) or not trainer.is_global_zero:
            return
        if self._seen is not None:
            logger.experiment.add_image("seen/training", self.seen(pl_module, self._seen), trainer.global_step)
        if self._held_out is not None:
            logger.experiment.add_image("tokens/pca", self.pca(pl_module, self._held_out), trainer.global_step)

    @staticmethod
    def seen(module: Distiller, batch: Batch) -> Tensor:
        """One row for each view in use, drawn again from the patches' numbers: exactly what the networks saw."""
        views = views_in_mode(module, batch, training=True)
        return mosaic([views[name].cpu() for name in sorted(views, reverse=True)])

    @staticmethod
    def pca(module: Distiller, batch: Batch) -> Tensor:
        """The patches, the student's tokens, each frozen network's tokens: one row each."""
        views = views_in_mode(module, batch, training=False)
        tokens = {need.network: module.tokens(need, views[need.view]) for need in module.needs}
        size = module.views.size
        order = [STUDENT, *(name for name in tokens if name != STUDENT)]
        colours = [interpolate(token_pca(tokens[name]), size, mode="nearest").cpu() for name in order]
        return mosaic([next(iter(views.values())).cpu(), *colours])


class PaperStop(Callback):
    """G2L's stop rule: stop once the loss was above the mean of the last `window` steps more than `patience` times.

    Reported in secondary sources only. Read cumulatively it fires at about step 120; read consecutively between step
    1,500 and never. Not the default: a fixed budget with the best checkpoint on held-out patients is.
    """

    def __init__(
        self, window: int = 100, patience: int = 10, count: Literal["consecutive", "cumulative"] = "consecutive"
    ) -> None:
        """Args: window: steps of the running mean; patience: how often it may be exceeded; count: how to read that."""
        if window < 1 or patience < 1:
            raise ConfigError(f"PaperStop has window {window} and patience {patience}; both must be at least 1")
        self.window, self.patience, self.count = window, patience, count
        self._losses: deque[float] = deque(maxlen=window)
        self._above = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare this step's loss (the mean over processes, so that all stop together) with those before it."""
        loss = float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean"))
        if self.exceeded(loss):
            rank_zero_info(f"stopped at step {trainer.global_step} by the paper's rule ({self.count})")
            trainer.should_stop = True

    def exceeded(self, loss: float) -> bool:
        """Count one loss; whether the rule says stop."""
        if len(self._losses) == self.window:
            if loss > sum(self._losses) / self.window:
                self._above += 1
            elif self.count == "consecutive":
                self._above = 0
        self._losses.append(loss)
        return self._above > self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to stop at the same step."""
        return {"losses": list(self._losses), "above": self._above}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was."""
        self._losses = deque(state_dict["losses"], maxlen=self.window)
        self._above = state_dict["above"]
