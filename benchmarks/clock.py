"""Where the time of a step goes: ranges around the Distiller's own methods, so that no second loop is measured."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor

from g2l.encoders.encoder import Tokens
from g2l.training.batch import Batch
from g2l.training.distiller import Distiller
from g2l.training.terms import EMA, STUDENT, Masked, Need, Passes

DATA, VIEWS, FROZEN, AVERAGE, FORWARD = (
    "data wait",
    "views and masks",
    "frozen forward",
    "EMA forward",
    "student forward",
)
HEADS, BACKWARD, UPDATE, REST = "heads and losses", "backward", "optimiser, EMA, clipping", "Lightning, logs, checks"
PARTS = (DATA, VIEWS, FROZEN, AVERAGE, FORWARD, HEADS, BACKWARD, UPDATE, REST)


class Clock:
    """What is spent in each part of a step; what one part spends inside another is its own alone.

    Seconds, read off the device's queue on a GPU (events, which nothing waits for), or whatever else `running` is told
    to read. Outside `running` it costs next to nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._read: Callable[[], Any] | None = None
        self._marks: list[tuple[str, Any]] = []  # (the part that ends there, reading)
        self._stack: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A range."""
        if self._read is None:
            yield
            return
        self._mark()
        self._stack.append(name)
        try:
            with torch.profiler.record_function(name):
                yield
        finally:
            if self._read is not None:
                self._mark()
            self._stack.pop()

    def start(self, read: Callable[[], float] | None = None) -> None:
        """Begin. Args: read: what is measured; seconds if nothing is given."""
        self._marks, self._stack = [], []
        self._read = read or self._time
        self._mark()

    def stop(self) -> dict[str, float]:
        """End; what each part took."""
        self._mark()
        self._read = None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        totals: dict[str, float] = defaultdict(float)
        for (_, begin), (name, end) in zip(self._marks, self._marks[1:], strict=False):
            totals[name] += _between(begin, end)
        return dict(totals)

    def _mark(self) -> None:
        assert self._read is not None
        self._marks.append((self._stack[-1] if self._stack else REST, self._read()))

    def _time(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(begin: Any, end: Any) -> float:
    return end - begin if isinstance(end, (int, float)) else begin.elapsed_time(end) / 1000


class Timed(Distiller):
    """The Distiller with a range around each part of its step; it computes what the Distiller computes."""

    clock = Clock(torch.device("cpu"))

    def run(self, batch: Batch, needs: list[Need]) -> Passes:
        """Views and masks, and inside them the networks."""
        with self.clock.part(VIEWS):
            return super().run(batch, needs)

    def tokens(self, need: Need, view: Tensor, masked: Masked | None = None) -> Tokens:
        """One network."""
        with self.clock.part({STUDENT: FORWARD, EMA: AVERAGE}.get(need.network, FROZEN)):
            return super().tokens(need, view, masked)

    def forward_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Passes]:
        """Heads and losses, and inside them `run`."""
        with self.clock.part(HEADS):
            return super().forward_terms(batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum and what is logged, and inside them `forward_terms`."""
        with self.clock.part(REST):
            return super().training_step(batch, batch_idx)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass."""
        with self.clock.part(BACKWARD):
            super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The check of the loss."""
        with self.clock.part(REST):
            super().on_before_optimizer_step(optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Clipping, step, centres and moving average, and inside them the closure: `training_step` and `backward`."""
        with self.clock.part(UPDATE):
            super().optimizer_step(*args, **kwargs)


class Watched(LightningDataModule):
    """A data module with a range around what a step waits for."""

    def __init__(self, data: LightningDataModule, clock: Clock) -> None:
        """Args: data: where patches come from."""
        super().__init__()
        self.data, self.clock = data, clock

    def prepare_data(self) -> None:
        """As of `data`."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """As of `data`."""
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def train_dataloader(self) -> Any:
        """The loader of `data`."""
        return _Waited(self.data.train_dataloader(), self.clock)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """As of `data`."""
        return self.data.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As of `data`."""
        with self.clock.part(DATA):
            return self.data.transfer_batch_to_device(batch, device, dataloader_idx)


class _Waited:
    def __init__(self, loader: Any, clock: Clock) -> None:
        self._loader, self._clock = loader, clock

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        while True:
            with self._clock.part(DATA):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
