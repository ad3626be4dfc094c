"""The encoder as Lightning runs it: parts shared among processes, embedded, written. Letters: `B` images, `D` width."""

import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

from g2l.encoders.encoder import Encoder
from g2l.errors import G2LError
from g2l.evaluation.embedding.batches import Batch, Batches, Problems
from g2l.evaluation.embedding.parts import Part, share
from g2l.evaluation.embedding.store import Store

Kind = Literal["cls", "tokens", "bag"]
SPEED = "speed.json"
PROBLEMS = ".problems-"
WARM_UP = 2  # batches in which memory is taken and kernels are chosen


class Network(LightningModule):
    """Forward passes over those parts that the store does not hold."""

    def __init__(
        self, encoder: Encoder, kind: Kind, parts: Sequence[Part], store: Store, batch_size: int, threads: int
    ) -> None:
        """Args: kind: "tokens" for patch tokens, else embeddings."""
        super().__init__()
        self.encoder, self.kind, self.parts, self.store = encoder, kind, parts, store
        self.batch_size, self.threads = batch_size, threads
        self.problems = Problems()
        self.mine: list[Part] = []
        self.seconds: list[tuple[int, float]] = []  # (B, of the forward pass alone)

    def predict_dataloader(self) -> Batches:
        """This process's parts. What is missing is looked up by the first process alone: others may be late."""
        found = self.store.missing(self.parts) if self.trainer.is_global_zero else []
        missing: list[int] = self.trainer.strategy.broadcast(found)
        self.mine = share([self.parts[k] for k in missing], self.trainer.global_rank, self.trainer.world_size)
        return Batches(self.mine, self.batch_size, self.threads, self.problems)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The images alone, as bytes."""
        return Batch(batch.part, batch.images.to(device), batch.at)

    @torch.compiler.set_stance("force_eager")  # other batch sizes than a training's would each be compiled
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """(B, D) embeddings or (B, h, w, P) patch tokens in float32, on the CPU."""
        images = batch.images.permute(0, 3, 1, 2).float() / 255
        self._wait()
        start = time.perf_counter()
        tokens = self.encoder(images)
        self._wait()
        self.seconds.append((len(images), time.perf_counter() - start))
        wanted = tokens.patches.unflatten(1, tokens.grid) if self.kind == "tokens" else tokens.cls
        return wanted.float().cpu()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def speed(self) -> dict[str, Any] | None:
        """Median over full batches, those of the warm-up left out, of images per second of the forward pass on the
        device (resizing and normalisation are in it, decoding and copying are not); None where too few were embedded.
        """
        later = self.seconds[WARM_UP:]
        full = max((size for size, _ in later), default=0)
        rates = [size / seconds for size, seconds in later if size == full]
        if not rates:
            return None
        return {
            "images_per_second": float(np.median(rates)),
            "device": device_name(self.device),
            "precision": str(self.trainer.precision),
            "batch_size": full,
            "batches": len(rates),
        }


class Writer(Callback):
    """Takes what the network gives to the store, counts it on a bar, and notes what went wrong and how fast it was."""

    def __init__(self, title: str) -> None:
        """Args: title: of the bar."""
        self.title = title
        self._bar: tqdm[Any] | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The bar counts the images of the first process; with R of them it is about 1/R of all."""
        assert isinstance(pl_module, Network)
        total = sum(part.count for part in pl_module.mine)
        if total and trainer.is_global_zero:
            each = f" (1 of {trainer.world_size} processes)" if trainer.world_size > 1 else ""
            self._bar = tqdm(total=total, desc=f"{self.title}{each}", unit=" images", smoothing=0.1)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write, unless something of the part went wrong before."""
        assert isinstance(pl_module, Network)
        part = pl_module.mine[batch.part]
        if batch.part in pl_module.problems.parts:
            pl_module.store.drop(part)
        else:
            try:
                pl_module.store.add(part, batch.at, outputs.numpy())
            except G2LError as error:
                pl_module.problems.add(batch.part, str(error))
                pl_module.store.drop(part)
        if self._bar is not None:
            self._bar.update(len(batch.at))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave notes in the folder: a process that Lightning started has no other way to say something."""
        assert isinstance(pl_module, Network)
        if self._bar is not None:
            self._bar.close()
        folder = pl_module.store.folder
        if pl_module.problems.texts:
            text = json.dumps(pl_module.problems.texts)
            (folder / f"{PROBLEMS}{trainer.global_rank}.json").write_text(text, encoding="utf-8")
        measured = pl_module.speed() if trainer.is_global_zero else None
        if measured is not None:
            (folder / SPEED).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        trainer.strategy.barrier()


def take_problems(folder: Path) -> list[str]:
    """What the processes noted, which is then gone."""
    texts: list[str] = []
    for file in sorted(folder.glob(f"{PROBLEMS}*.json")):
        texts += json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
    return texts


def device_name(device: torch.device) -> str:
    """What it is called in a report."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    threads = torch.get_num_threads()
    return f"{model or platform.processor() or 'CPU'}, {threads} thread{'s' if threads > 1 else ''}"
