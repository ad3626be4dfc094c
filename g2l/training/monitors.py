"""How fast a run goes, and what its data cost it."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from g2l.training.batch import Batch


class Throughput(Callback):
    """Logs `train/images_per_second` (all processes), `train/data_wait`, the share of time waiting for data, and
    `train/replaced`, the share of this process' patches that stand for others, unreadable or unwanted.
    """

    def __init__(self, every: int = 20) -> None:
        """Args: every: steps that one figure covers."""
        self.every = every
        self._reset()

    def _reset(self) -> None:
        self._busy = self._waited = 0.0
        self._images = self._batches = self._own = self._replaced = 0
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
        self._own += len(batch["index"])
        self._replaced += int((batch["attempt"] > 0).sum()) if "attempt" in batch else 0
        self._batches += 1
        if self._batches == self.every:
            elapsed = self._busy + self._waited
            pl_module.log("train/images_per_second", self._images / elapsed)
            pl_module.log("train/data_wait", self._waited / elapsed)
            pl_module.log("train/replaced", self._replaced / self._own)
            self._reset()
            self._mark = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation between two batches is neither work nor waiting."""
        self._mark = None
