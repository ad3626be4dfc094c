"""A real run on real tissue: four breast sections of two patients."""

from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from g2l.data.module import SlideDataModule
from g2l.data.views import Views
from g2l.slides.index import index
from g2l.training.distiller import Distiller
from g2l.training.losses import LogSum

pytestmark = [pytest.mark.slow, pytest.mark.real_data]

STEPS = 60


class Losses(Callback):
    """Keeps every step's loss."""

    def __init__(self) -> None:
        """Empty."""
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Keep one."""
        self.values.append(float(trainer.callback_metrics["train/loss"]))


def test_loss_falls_and_held_out_cka_rises(real_data: Path, tmp_path: Path) -> None:
    rows = ["slide,patient,split"]
    for name, split in (("B4", "val"), ("C2", "train"), ("C3", "train"), ("C4", "train")):
        rows.append(f"{real_data / 'slides' / f'her2st_{name}.tif'},{name[0]},{split}")
    manifest = tmp_path / "slides.csv"
    manifest.write_text("\n".join(rows) + "\n")
    result = index(str(manifest), str(tmp_path / "cohort"), workers=0)
    assert result.indexed == 4 and not result.rejected

    torch.manual_seed(0)
    model = Distiller(
        "demo-student",
        {"logsum": LogSum("demo-giga")},
        student_init="random",
        views=Views(size=128),
        lr=1e-3,
        warmup_steps=10,
        observe_patches=256,
    )
    data = SlideDataModule(
        str(tmp_path / "cohort"), batch_size=32, patch_size=144, mpp=1.0, val_patches=192, num_workers=0
    )
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        val_check_interval=STEPS,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        logger=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[losses],
        default_root_dir=tmp_path,
    )
    # Held-out CKA of the untrained student; its targets' moments do not exist yet, so no loss is asked for.
    before = held_out_cka(model, data, trainer)
    trainer.fit(model, data)
    after = float(trainer.callback_metrics["val/cka"])
    first, last = sum(losses.values[:10]) / 10, sum(losses.values[-10:]) / 10
    assert last < first - 0.3, (first, last)
    assert after > before + 0.05, (before, after)


def held_out_cka(model: Distiller, data: SlideDataModule, trainer: Trainer) -> float:
    """Linear CKA of student and teacher on the held-out patient, outside of any trainer loop."""
    from g2l.evaluation.measures.similarity import linear_cka

    data.trainer = trainer
    data.setup()
    student, teacher = [], []
    model.eval()
    with torch.no_grad():
        for batch in data.val_dataloader():
            view = model.make_views(batch)["student"]  # type: ignore[arg-type]
            student.append(model.student(view).cls)
            teacher.append(next(iter(model.frozen.values()))(view).cls)
    model.train()
    return linear_cka(torch.cat(student).numpy(), torch.cat(teacher).numpy())
