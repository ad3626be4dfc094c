"""Teacher, student before and student after training on labelled patches of patients never trained on.

Letters: `M` patches, `D` width.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from g2l.data.labelled import LabelledPatches
from g2l.data.module import SlideDataModule
from g2l.encoders.encoder import Encoder
from g2l.errors import ConfigError
from g2l.evaluation.measures.knn import knn_accuracy
from g2l.evaluation.measures.probe import linear_probe
from g2l.evaluation.measures.robustness import robustness
from g2l.evaluation.measures.similarity import linear_cka
from g2l.training.distiller import Distiller
from g2l.training.sharding import copy_whole

COLUMNS = ("knn", "linear", "cka", "robustness_index", "support", "parameters")


@torch.inference_mode()
@torch.compiler.set_stance("force_eager")  # other batch sizes than a training's would each be compiled
def embed(encoder: Encoder, images: NDArray[np.uint8], device: torch.device, batch_size: int = 64) -> NDArray:
    """CLS-type embeddings (M, D), float32, of patches (M, S, S, 3), centre-cropped to the encoder's size."""
    was_training = encoder.training
    encoder = encoder.to(device).eval()
    margin = (images.shape[1] - encoder.size) // 2
    if margin < 0:
        raise ConfigError(f"patches are {images.shape[1]} px but {encoder.spec.name} takes {encoder.size} px")
    cropped = images[:, margin : margin + encoder.size, margin : margin + encoder.size]
    rows = []
    for first in range(0, len(cropped), batch_size):
        batch = torch.from_numpy(np.ascontiguousarray(cropped[first : first + batch_size])).to(device)
        rows.append(encoder(batch.permute(0, 3, 1, 2).float() / 255).cls.float().cpu())
    encoder.train(was_training)
    return torch.cat(rows).numpy()


def score(
    train_x: NDArray, test_x: NDArray, teacher_x: NDArray, train: LabelledPatches, test: LabelledPatches, k: int = 20
) -> dict[str, float | None]:
    """Probes fitted on `train` and judged on `test`, which share no patient.

    Args:
        train_x, test_x: (M, D) embeddings; teacher_x: the teacher's embeddings of `test`.
        k: neighbours of the kNN vote and of the robustness counts.
    Returns:
        knn and linear: accuracy; cka: with the teacher; robustness_index and its support. None where undefined (CKA of
        a constant embedding, a robustness index without support).
    """
    shared = set(train.patients) & set(test.patients)
    if shared:
        raise ConfigError(f"patients {', '.join(sorted(shared))} are in the training and the test half of the score")
    robust = robustness(test_x, test.labels, test.centres, test.slides, k)
    values = {
        "knn": knn_accuracy(train_x, train.labels, test_x, test.labels, k).accuracy,
        "linear": linear_probe(train_x, train.labels, train.patients, test_x, test.labels).accuracy,
        "cka": linear_cka(test_x, teacher_x),
        "robustness_index": robust.index,
        "support": robust.support,
    }
    return {name: None if math.isnan(value) else value for name, value in values.items()}


class Score(Callback):
    """Scores teacher and student before training and the best student after it; writes summary.json.

    The probes are fitted on training patients and judged on those of the manifest's `test` part, which neither the
    training nor the choice of the checkpoint has seen.
    """

    def __init__(self, patches: int = 1200, k: int = 20) -> None:
        """Args: patches: labelled patches of each half; k: neighbours."""
        self.patches, self.k = patches, k
        self.summary: dict[str, dict[str, Any]] = {}
        self.report = ""

    @staticmethod
    def _parts(trainer: Trainer, module: LightningModule) -> tuple[SlideDataModule, Distiller]:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, SlideDataModule) or not isinstance(module, Distiller):
            raise ConfigError("the Score callback needs a SlideDataModule and a Distiller")
        return data, module

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Teacher, and student before; a resumed run has both in its checkpoint."""
        data, module = self._parts(trainer, pl_module)
        student = copy_whole(module.student)  # on all processes, which may hold a part of it each
        if not module.frozen:
            raise ConfigError("the Score callback compares with a frozen network, but no term has one; leave it out")
        if not trainer.is_global_zero or self.summary:
            return
        train, test = (data.labelled(part, self.patches) for part in ("train", "test"))
        teacher = next(iter(module.frozen.values()))
        target = embed(teacher, test.images, module.device)
        self.summary["teacher"] = self._row(teacher, module.device, target, train, test)
        self.summary["student_before"] = self._row(student, module.device, target, train, test)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The best student by held-out patients; then the table and summary.json."""
        data, module = self._parts(trainer, pl_module)
        student = module.best_student()
        if not trainer.is_global_zero:
            return
        train, test = (data.labelled(part, self.patches) for part in ("train", "test"))
        target = embed(next(iter(module.frozen.values())), test.images, module.device)
        self.summary["student_after"] = self._row(student, module.device, target, train, test)
        self.report = table(self.summary)
        path = Path(trainer.default_root_dir) / "summary.json"
        partial = path.with_suffix(".json.partial")
        partial.write_text(json.dumps(self.summary, indent=2) + "\n")
        partial.replace(path)

    def _row(
        self,
        encoder: Encoder,
        device: torch.device,
        target: NDArray,
        train: LabelledPatches,
        test: LabelledPatches,
    ) -> dict[str, Any]:
        train_x, test_x = embed(encoder, train.images, device), embed(encoder, test.images, device)
        parameters = sum(parameter.numel() for parameter in encoder.parameters())
        return score(train_x, test_x, target, train, test, self.k) | {"parameters": parameters}

    def state_dict(self) -> dict[str, Any]:
        """What was measured before training cannot be measured again after a restart."""
        return {name: row for name, row in self.summary.items() if name != "student_after"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the rows of the interrupted run."""
        self.summary = dict(state_dict)


def table(summary: dict[str, dict[str, Any]]) -> str:
    """The summary as text, one row for each network."""

    def cell(column: str, value: float | None) -> str:
        if value is None:
            return "undefined"
        return f"{value / 1e6:.2f} M" if column == "parameters" else f"{value:.3f}"

    lines = [f"{'':<16}" + "".join(f"{column:>18}" for column in COLUMNS)]
    for name, row in summary.items():
        lines.append(f"{name:<16}" + "".join(f"{cell(column, row[column]):>18}" for column in COLUMNS))
    return "\n".join(lines)
