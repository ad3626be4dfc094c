"""How images and slides are embedded, as a user may set it."""

from dataclasses import dataclass
from typing import Literal

from g2l.errors import ConfigError


@dataclass(frozen=True)
class Embedding:
    """Settings that every encoder of an evaluation shares.

    Attributes:
        batch_size: images in one forward pass.
        threads: that decode images, in each process.
        devices: how many of the accelerator; "auto": all GPUs, or one process on the CPU.
        accelerator: as Lightning's Trainer names it ("auto", "cpu", "gpu").
        precision: as Lightning's Trainer names it; "bf16-mixed" is the faster on a GPU.
        mpp: um per px at which slides are read; images are taken as they are.
        min_tissue: share of a slide's patch that must be tissue.
        max_patches: of a slide; more are drawn down to so many, always the same ones. None: all.
        dtype: on disk; "auto": float16 for patch tokens, float32 for embeddings.
        shard_rows: images in one file; what an interruption costs at most.
    """

    batch_size: int = 64
    threads: int = 2
    devices: int | Literal["auto"] = "auto"
    accelerator: str = "auto"
    precision: str = "32-true"
    mpp: float = 0.5
    min_tissue: float = 0.5
    max_patches: int | None = None
    dtype: Literal["auto", "float16", "float32"] = "auto"
    shard_rows: int = 1024

    def __post_init__(self) -> None:
        least = {"batch_size": self.batch_size, "threads": self.threads, "shard_rows": self.shard_rows}
        least |= {
            name: n for name, n in (("devices", self.devices), ("max_patches", self.max_patches)) if isinstance(n, int)
        }
        problems = [f"{name} is {value}, give 1 or more" for name, value in least.items() if value < 1]
        if not self.mpp > 0:
            problems.append(f"mpp is {self.mpp}, give um per px above 0")
        if not 0 <= self.min_tissue <= 1:
            problems.append(f"min_tissue is {self.min_tissue}, give a share within 0-1")
        if problems:
            raise ConfigError(f"embedding: {'; '.join(problems)}")
