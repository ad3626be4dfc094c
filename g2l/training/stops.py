"""Callbacks that end a run before its budget is spent: G2L's stop rule, and a collapse."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from g2l.errors import ConfigError, TrainingError


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


class CollapseStop(Callback):
    """Ends a run whose student tells no image from another, after `patience` validations in a row that show it.

    Signs (any one counts; those that a run does not log are passed over):
    train/<term>_information of self-distillation, the earliest (`target_use`): in small runs of DINO on the demo's
        patches it was .39 at first and rose from .27 to 1.2 where they went well. Where targets became uniform or all
        the same, it passed .01 within 20 to 160 steps and never rose again, while the embeddings still looked spread.
    val/embedding_std and val/embedding_rank (`spread`): ViTs with random weights have .07 (one layer of width 16) to
        .74 and 5 to 26, the demo's teacher .72 and 30; equal rows 0 and 1. Rank alone tells little: rounding errors
        around one point have a full rank.
    """

    def __init__(
        self, patience: int = 3, min_std: float = 0.02, min_rank: float = 1.5, min_information: float = 0.01
    ) -> None:
        """Args: patience: validations in a row; the others: what is below them is a sign of collapse; 0: not judged."""
        if patience < 1 or min(min_std, min_rank, min_information) < 0:
            raise ConfigError(
                f"CollapseStop has patience {patience} and limits {min_std}, {min_rank}, {min_information}; give a "
                "patience of at least 1 and no limit below 0"
            )
        self.patience = patience
        self._least = {"val/embedding_std": min_std, "val/embedding_rank": min_rank}
        self._min_information = min_information
        self._information: dict[str, Tensor] = {}
        self._collapsed = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep what the targets told last; a validation no longer sees it."""
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            metrics = trainer.callback_metrics
            self._information = {name: metrics[name] for name in metrics if name.endswith("_information")}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count a validation; TrainingError at the last one that is borne, after the state was saved."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        # The targets of each process are its own: the first one's verdict is that of all, so that all stop together.
        signs = trainer.strategy.broadcast(self.signs(trainer.callback_metrics | self._information))
        self._collapsed = self._collapsed + 1 if signs else 0
        if self._collapsed < self.patience:
            return
        path = Path(trainer.default_root_dir) / "collapsed.ckpt"
        trainer.save_checkpoint(path)
        raise TrainingError(
            f"the student has collapsed: at {self._collapsed} validations in a row it hardly told images apart (step "
            f"{trainer.global_step}: {', '.join(signs)}); the state is in {path}; go back to an earlier checkpoint and "
            "lower model.lr or lengthen model.warmup_steps, or give koleo or the distillation of a teacher more weight"
        )

    def signs(self, metrics: Mapping[str, Tensor]) -> list[str]:
        """The signs of collapse among `metrics`, in words."""
        found = []
        for name in sorted(metrics):
            least = self._min_information if name.endswith("_information") else self._least.get(name, 0.0)
            if float(metrics[name]) < least:
                found.append(f"{name} {float(metrics[name]):.2g} below {least:g}")
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to stop at the same validation."""
        return {"collapsed": self._collapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was."""
        self._collapsed = state_dict["collapsed"]
