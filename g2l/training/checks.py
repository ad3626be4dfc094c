"""What only the trainer knows, checked before the first step; and losses and gradients that are not finite."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from g2l.data.module import SlideDataModule
from g2l.errors import ConfigError, TrainingError
from g2l.objectives.collective import all_sum
from g2l.training.labels import Labels
from g2l.training.terms import Term

# What else is logged under train/ and val/, and must not be overwritten by a term.
RESERVED = {"loss", "lr", "weight_decay", "ema_momentum", "images_per_second", "data_wait", "replaced", "cka"}
RESERVED |= {"embedding_std", "embedding_rank"}


def check_names(names: Iterable[str]) -> None:
    """ConfigError for terms whose name cannot stand in the log or in a module."""
    taken = RESERVED | set(dir(nn.ModuleDict))
    wrong = [name for name in names if name in taken or name.startswith("cka_") or not name.isidentifier()]
    if wrong:
        raise ConfigError(
            f"model.terms names {', '.join(wrong)}, which cannot be a term's name (it must be letters, digits and _, "
            "and no other figure of the log); choose another"
        )


def check_labels(terms: Mapping[str, Term], data: object) -> None:
    """ConfigError where a term learns classes that the training part of a SlideDataModule does not state, or states
    under other names: without one its loss would be 0 and nothing would be learnt.
    """
    learnt = {name: term for name, term in terms.items() if isinstance(term, Labels)}
    if not learnt or not isinstance(data, SlideDataModule):
        return
    column = data.data.column("label") if "label" in data.data.columns else []
    stated = {str(column[row]) for row in data.split["train"] if column[row]} if column else set[str]()
    for name, term in learnt.items():
        if not stated:
            raise ConfigError(
                f"model.terms.{name} learns classes, but {data.cohort_path} states none in its training part; give the "
                "manifest a label column"
            )
        term.require(stated)


def check_trainer(trainer: Trainer, terms: Mapping[str, Term], frozen: Collection[str]) -> None:
    """ConfigError for settings that were found to go wrong in silence, all of them named."""
    problems = []
    if trainer.max_steps < 1:
        problems.append("trainer.max_steps is not set; patches are drawn without end, so give a number of steps")
    interval, accumulated = trainer.val_check_interval, trainer.accumulate_grad_batches  # both count batches
    if trainer.enable_validation and isinstance(interval, int):
        if interval % accumulated:
            problems.append(
                f"trainer.val_check_interval {interval} counts batches and is no multiple of "
                f"trainer.accumulate_grad_batches {accumulated}: it would validate in the middle of a step; give "
                f"{-(-interval // accumulated) * accumulated}"
            )
        elif trainer.max_steps * accumulated % interval:
            batches = f" times trainer.accumulate_grad_batches {accumulated}" if accumulated > 1 else ""
            problems.append(
                f"trainer.max_steps {trainer.max_steps}{batches} is no multiple of trainer.val_check_interval "
                f"{interval}: the last steps would be neither validated nor kept; change one of them"
            )
    if trainer.precision not in ("32-true", "bf16-mixed"):
        problems.append(
            f"trainer.precision is {trainer.precision}; the losses and moments need float32 beside the "
            "networks: give 32-true or bf16-mixed"
        )
    if trainer.gradient_clip_algorithm not in (None, "norm"):
        problems.append(
            f"trainer.gradient_clip_algorithm is {trainer.gradient_clip_algorithm}; gradients are clipped by norm alone"
        )
    monitors = {getattr(callback, "monitor", None) for callback in trainer.checkpoint_callbacks}
    if not frozen and "val/cka" in monitors:
        problems.append(
            "a ModelCheckpoint monitors val/cka, but no term has a frozen network to compare with: monitor "
            "val/embedding_rank"
        )
    inexact = sorted(name for name, term in terms.items() if not term.accumulates)
    if trainer.accumulate_grad_batches > 1 and inexact:
        problems.append(
            f"trainer.accumulate_grad_batches is above 1, but {', '.join(inexact)} compare the images of a batch: "
            "the mean over micro-batches would be something else (the log of a sum is not the mean of logs); raise "
            "data.batch_size or devices instead"
        )
    if problems:
        raise ConfigError("; ".join(problems))


class FiniteLoss:
    """Looks at every loss and gradient, and ends the run on all processes before an optimiser's step on one that is not
    finite.

    The verdicts are fetched together, when forward and backward pass and clipping have been queued: that is the one
    place of a step where the CPU waits for a GPU.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[Tensor, dict[str, Tensor], Sequence[str]]] = []
        self._gradient: tuple[Tensor, dict[str, Tensor]] | None = None
        self._event: torch.cuda.Event | None = None

    def note(self, loss: Tensor, values: Mapping[str, Tensor], slides: Sequence[str]) -> None:
        """One loss, the terms it is the sum of, and the slides of its batch."""
        verdict = self._fetch(~torch.isfinite(loss.detach()))
        self._noted.append((verdict, {name: value.detach() for name, value in values.items()}, slides))

    def note_gradient(self, norms: Mapping[str, Tensor]) -> None:
        """The norms of the step's gradient by module; of a sharded one those of this process' part."""
        own = {name: norm.to_local() if isinstance(norm, DTensor) else norm for name, norm in norms.items()}
        self._gradient = (self._fetch(~torch.isfinite(torch.stack(list(own.values()))).all()), own)

    def _fetch(self, broken: Tensor) -> Tensor:
        """On how many processes it is so; to be read once `_event` has passed."""
        broken = all_sum(broken.float())
        if not broken.is_cuda:
            return broken
        held = torch.empty_like(broken, device="cpu", pin_memory=True)
        held.copy_(broken, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()
        return held

    def require(self, trainer: Trainer) -> None:
        """TrainingError naming step, terms or modules, and slides, after the state was saved; nothing when all that was
        noted was finite.
        """
        (noted, self._noted), (gradient, self._gradient) = (self._noted, []), (self._gradient, None)
        if self._event:
            self._event.synchronize()
        for broken, values, slides in noted:
            if broken > 0:
                self._stop(trainer, f"the loss is not finite at step {trainer.global_step} (term", values, slides)
        if gradient and gradient[0] > 0:
            slides = [slide for *_, batch in noted for slide in batch]
            self._stop(trainer, f"the gradient is not finite at step {trainer.global_step} (of", gradient[1], slides)

    @staticmethod
    def _stop(trainer: Trainer, what: str, values: Mapping[str, Tensor], slides: Sequence[str]) -> NoReturn:
        names = [name for name, value in values.items() if not torch.isfinite(value)] or ["(another process)"]
        path = Path(trainer.default_root_dir) / "nonfinite.ckpt"
        trainer.save_checkpoint(path)
        raise TrainingError(
            f"{what} {', '.join(names)}; slides {', '.join(sorted(set(slides)))}); the state is in {path}; lower "
            "model.lr or set trainer.gradient_clip_val, or look at these slides"
        )
