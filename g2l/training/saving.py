"""How a run ends and goes on: its last state is kept where all processes stand between the same two steps.

Lightning's `save_on_exception` saves upon every error: on one process alone, which then waits for the others for ever,
and also a state that the error spoilt. Its handler of SIGTERM sends to the other processes in the midst of whatever is
being sent, and they may all wait.
"""

import signal
import threading
from collections.abc import MutableMapping
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.rank_zero import rank_zero_info

from g2l.errors import ConfigError


class KeepLast(ModelCheckpoint):
    """last.ckpt, where `--ckpt_path last` goes on: saved after every validation, and when the run is asked to stop.

    SIGTERM and Ctrl-C, on any process, are noted; before the next step of the optimiser all processes save and stop. A
    second Ctrl-C ends the run at once. It and errors save nothing: last.ckpt stays that of the last validation.
    """

    def __init__(self, dirpath: str | None = None, every_n_train_steps: int = 0) -> None:
        """Args:
        dirpath: folder; default: `checkpoints` in trainer.default_root_dir.
        every_n_train_steps: saved after so many steps too; 0: after validations alone.
        """
        if every_n_train_steps < 0:
            raise ConfigError(f"KeepLast has every_n_train_steps {every_n_train_steps}; give 0 or more")
        super().__init__(dirpath, filename="last", enable_version_counter=False, save_on_train_epoch_end=False)
        # Beside validations; Lightning's constructor takes one of the two.
        self._every_n_train_steps = every_n_train_steps
        self._asked: int | None = None
        self._stopping = False
        self._handlers: dict[int, Any] = {}

    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        # Lightning looks for them before `setup`.
        self._settle(trainer)
        return super()._find_last_checkpoints(trainer)

    def _settle(self, trainer: Trainer) -> None:
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir).resolve() / "checkpoints")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder."""
        self._settle(trainer)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals, after Lightning, which gives all of them back at the end of every run."""
        super().on_train_start(trainer, pl_module)
        self._asked, self._stopping = None, False
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler. It only notes: whatever it interrupts goes on."""
        if number == self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number
        if number == signal.SIGINT:
            rank_zero_info("stopping after this step; Ctrl-C once more ends at once, without saving")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop between two steps of the optimiser."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before what follows the last step, which signals then end at once."""
        super().on_train_epoch_end(trainer, pl_module)
        self._stop_if_asked(trainer)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        """On all processes once any was asked to."""
        if trainer.strategy.reduce_boolean_decision(self._asked is not None, all=False):
            self._stopping = True
            raise KeyboardInterrupt if self._asked == signal.SIGINT else SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where all processes stop together."""
        if self._stopping and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, {})
            rank_zero_info(f"stopped at step {trainer.global_step}; the state is in {self.best_model_path}")


def back_to_step(checkpoint: MutableMapping[str, Any], accumulated: int) -> None:
    """Set Lightning's count of batches in a checkpoint that was taken within a step of the optimiser to the beginning
    of that step: there the weights are, and there the stream of patches goes on.

    As it stands, the gradient of the next step would be that of the batches that were missing in this one, and
    validations would come early by the others.

    Args: accumulated: batches of one step.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop")
    if loop is None:
        return
    progress = loop["epoch_loop.batch_progress"]
    surplus = progress["total"]["ready"] - checkpoint["global_step"] * accumulated
    if 0 < surplus <= accumulated:
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, counts["ready"] - surplus))
