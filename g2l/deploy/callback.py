"""Export at the end of training."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info

from g2l.deploy.bundle import refuse_foreign, write_bundle
from g2l.deploy.timm_folder import check_exportable
from g2l.errors import ConfigError
from g2l.training.distiller import Distiller


class Export(Callback):
    """Writes the best student by held-out patients as a folder that timm loads, with its licences and hashes.

    The whole bundle, with ONNX, OpenVINO, card and embed.pyz, takes minutes and patches to compare on: it is made of
    this folder or of the checkpoint by `g2l export`.
    """

    def __init__(self, folder: str = "student") -> None:
        """Args: folder: inside the run's folder, or absolute."""
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A student that cannot be exported is refused before the training, not after it."""
        if not isinstance(pl_module, Distiller):
            raise ConfigError("the Export callback needs a Distiller")
        check_exportable(pl_module.student.spec)
        refuse_foreign(Path(trainer.default_root_dir) / self.folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export on the first process."""
        if not isinstance(pl_module, Distiller):
            return
        student = pl_module.best_student()  # on all processes, which may hold a part of it each
        if trainer.is_global_zero:
            out = Path(trainer.default_root_dir) / self.folder
            write_bundle(student, pl_module.sources(), out, pl_module.distilled_on)
            rank_zero_info(f"exported the student to {out}; the whole bundle: g2l export CHECKPOINT --out BUNDLE")
