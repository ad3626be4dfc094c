"""One training measured in blocks of steps, in turns with the bare loop and with matrix products, inside one fit.

Whatever else the machine does then falls on all of them.
"""

import contextlib
import gc
import io
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bare import Bare
from cases import STEPS
from clock import Clock, Timed, Watched
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from g2l.training.monitors import Throughput

WARM = 3  # steps before anything counts; with torch.compile the first of them compiles
PROFILED = 3
SIDE = {"cuda": 8192, "cpu": 2048}  # of the matrices multiplied
PRODUCTS = {"cuda": 50, "cpu": 2}  # per block

LIGHTNING, SPLIT, BARE, MATMUL = "lightning", "split", "bare", "matmul"
TURNS = ((LIGHTNING, BARE, MATMUL, SPLIT), (BARE, LIGHTNING, SPLIT, MATMUL))


class Spent(NamedTuple):
    """Seconds of a block: by the clock on the wall, and of this process' threads together."""

    wall: float
    processor: float


class Measured(NamedTuple):
    """All of one case.

    blocks: name -> a Spent for each round. parts: part -> seconds per step, the median over rounds. flops: part ->
    operations of a step. product: operations of a matmul block. peak: GiB on the GPU, None without.
    """

    steps: int
    blocks: dict[str, list[Spent]]
    parts: dict[str, float]
    flops: dict[str, float]
    product: float
    peak: float | None


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


# torch's counter knows the attention of GPUs alone.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Matmul:
    """Products of two large matrices: the rate that a step's share is taken of."""

    def __init__(self, device: torch.device, half: bool) -> None:
        """Args: half: bfloat16 instead of float32."""
        self.side, self.count = SIDE[device.type], PRODUCTS[device.type]
        dtype = torch.bfloat16 if half else torch.float32
        # Random, not zeros: a GPU multiplies those with less power and so faster.
        self.a, self.b = (torch.randn(self.side, self.side, device=device, dtype=dtype) for _ in range(2))
        self.out = torch.empty_like(self.a)

    @property
    def flops(self) -> float:
        """Operations of `run`."""
        return 2.0 * self.side**3 * self.count

    @torch.no_grad()
    def run(self) -> None:
        """One block."""
        for _ in range(self.count):
            torch.mm(self.a, self.b, out=self.out)


class Blocks(Callback):
    """Divides a fit into blocks, with others in between, and ends it."""

    def __init__(self, clock: Clock, steps: int, rounds: int, clip: float, profile: Path | None) -> None:
        """Args: steps: of a block. clip: norm of the gradients. profile: where a trace goes, without its ending."""
        self.clock, self.steps, self.clip, self.profile = clock, steps, clip, profile
        self.spent: dict[str, list[Spent]] = defaultdict(list)
        self.splits: list[dict[str, float]] = []
        self.flops: dict[str, float] = {}
        self.product = 0.0
        self.peak: float | None = None
        self._turns = [turn for k in range(rounds) for turn in TURNS[k % 2]]
        self._plan: Iterator[None] | None = None
        self._left = WARM

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the steps of a block; between two blocks, do what is next."""
        self._left -= 1
        if self._left:
            return
        if self._plan is None:
            assert isinstance(pl_module, Timed)
            self._plan = self._blocks(trainer, pl_module, batch)
        if next(self._plan, trainer) is trainer:
            trainer.should_stop = True

    def _blocks(self, trainer: Trainer, model: Timed, batch: Any) -> Iterator[None]:
        """Yields when steps of the Trainer are to be done, `_left` of them."""
        device, half = model.device, trainer.precision == "bf16-mixed"
        batches = iter(trainer.datamodule.data.train_dataloader())  # type: ignore[attr-defined]
        bare = Bare(model, trainer.optimizers[0], batches, device, half, self.clip, STEPS)
        matmul = Matmul(device, half)
        self.product = matmul.flops
        self.flops = self._count(trainer, model, batch)
        bare.step()
        matmul.run()
        gc.collect()  # what starting up left behind is not to fall into a block: it takes .3 s
        if device.type == "cuda":
            torch.cuda.empty_cache()  # counting took more, without torch.compile
            torch.cuda.reset_peak_memory_stats(device)
        for turn in self._turns:
            with self._timed(turn, device):
                if turn == MATMUL:
                    matmul.run()
                elif turn == BARE:
                    for _ in range(self.steps):
                        bare.step()
                else:
                    if turn == SPLIT:
                        self.clock.start()
                    self._left = self.steps
                    yield
                    if turn == SPLIT:
                        self.splits.append(self.clock.stop())
        self.peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
        if self.profile is not None:
            yield from self._trace(device)

    def _trace(self, device: torch.device) -> Iterator[None]:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=kinds) as profiler:
            self.clock.start()  # for the names of the parts in the trace
            self._left = PROFILED
            yield
            self.clock.stop()
        assert self.profile is not None
        self.profile.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.profile.with_suffix(".json.gz")))
        table = profiler.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=60)
        self.profile.with_suffix(".txt").write_text(table)

    @contextlib.contextmanager
    def _timed(self, name: str, device: torch.device) -> Iterator[None]:
        begin = self._now(device)
        yield
        end = self._now(device)
        self.spent[name].append(Spent(*(b - a for a, b in zip(begin, end, strict=True))))

    @staticmethod
    def _now(device: torch.device) -> Spent:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return Spent(time.perf_counter(), time.process_time())

    def _count(self, trainer: Trainer, model: Timed, batch: Any) -> dict[str, float]:
        """Operations of one step's matrix products by part, without torch.compile, whose kernels cannot be counted."""
        counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
        with torch.compiler.set_stance("force_eager"), counter:
            self.clock.start(counter.get_total_flops)
            with trainer.precision_plugin.train_step_context():
                loss = model.total(model.forward_terms(batch)[0])
            model.backward(loss)
            counted = self.clock.stop()
        trainer.optimizers[0].zero_grad()
        return counted


def measure(
    model: Timed,
    data: LightningDataModule,
    device: torch.device,
    precision: Any,
    clip: float,
    steps: int,
    rounds: int,
    folder: Path,
    profile: Path | None = None,
) -> Measured:
    """Fit a model for as long as it takes to measure it, with the logger and progress bar of a usual run.

    Args:
        clip: norm of the gradients. steps: of a block. rounds: blocks of each kind. folder: for logs.
        profile: a trace of a few steps goes there: PROFILE.json.gz, and PROFILE.txt with a table.
    """
    model.clock = Clock(device)
    blocks = Blocks(model.clock, steps, rounds, clip, profile)
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,
        max_steps=STEPS,
        max_epochs=-1,
        limit_val_batches=0,
        gradient_clip_val=clip,
        logger=TensorBoardLogger(str(folder), name="tensorboard"),
        callbacks=[Throughput(), blocks],
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # the progress bar is drawn, but not shown
        try:
            trainer.fit(model, datamodule=Watched(data, model.clock))
        except SystemExit as ended:  # Lightning's answer to an interruption
            raise KeyboardInterrupt from ended
    names = blocks.splits[0]
    parts = {name: statistics.median(split.get(name, 0.0) for split in blocks.splits) / steps for name in names}
    return Measured(steps, dict(blocks.spent), parts, blocks.flops, blocks.product, blocks.peak)


def ratios(
    of: Sequence[Spent], to: Sequence[Spent], what: Callable[[Spent], float] = lambda spent: spent.wall
) -> list[float]:
    """Round by round."""
    return [what(a) / what(b) for a, b in zip(of, to, strict=True)]
