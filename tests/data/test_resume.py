"""A run that goes on with other sizes takes the next patches, none twice and none left out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from g2l.data.module import SlideDataModule
from g2l.errors import ConfigError


class Notes(LightningModule):
    """Learns nothing, and notes the numbers of the patches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.numbers: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.numbers += batch["index"].tolist()
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def run(
    folder: Path, cohort: Path, batch_size: int, steps: int, accumulate: int = 1, ckpt: Path | None = None
) -> list[int]:
    """The patch numbers of a run, which leaves last.ckpt."""
    data = SlideDataModule(str(cohort), batch_size=batch_size, patch_size=32, mpp=2.0)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    fit = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        enable_checkpointing=False,
        default_root_dir=folder,
        **quiet,
    )
    model = Notes()
    fit.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=True if ckpt else None)
    fit.save_checkpoint(folder / "last.ckpt")
    return model.numbers


def test_the_stream_goes_on_with_other_batches(demo_cohort: Path, tmp_path: Path) -> None:
    """What counts is how many patches a step takes; two processes of four are one of eight to it."""
    last = tmp_path / "last.ckpt"
    taken = run(tmp_path, demo_cohort, 8, 3)
    taken += run(tmp_path, demo_cohort, 4, 5, ckpt=last)
    taken += run(tmp_path, demo_cohort, 6, 7, ckpt=last)
    assert taken == list(range(3 * 8 + 2 * 4 + 2 * 6))
    with pytest.raises(ConfigError, match="accumulate_grad_batches is 2, but the checkpoint's run had 1"):
        run(tmp_path, demo_cohort, 4, 9, accumulate=2, ckpt=last)
    again = run(tmp_path, demo_cohort, 4, 2, accumulate=2)
    assert again + run(tmp_path, demo_cohort, 2, 4, accumulate=2, ckpt=last) == list(range(16 + 8))
