"""What scaled/slides.py asks of `g2l fit` and `g2l evaluate`: networks, budget, and their configs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaled.trainer import trainer

STREAMED, CUT, NONE, TEACHER = "slide path", "patch path", "none", "teacher"
TASK = "like the teacher"
Plain = dict[str, Any]


@dataclass(frozen=True)
class Networks:
    """Names of the catalogue, or YAML files; weights: folder of <name>.safetensors, None where they come with g2l."""

    teacher: str
    student: str
    weights: str | None = None

    def files(self) -> list[Path]:
        """Those that decide what comes out: the YAMLs, and the teacher's weights."""
        found = [Path(name) for name in (self.teacher, self.student) if name.endswith((".yaml", ".yml"))]
        if self.weights is not None:
            found.append(Path(self.weights) / f"{Path(self.teacher).stem}.safetensors")
        return found


@dataclass(frozen=True)
class Budget:
    """How much is trained and judged, the same for both paths and patients.

    Attributes:
        size: px of the views, which the networks take. read: px of the patches, from which views are cropped.
        mpp: um per px.
        steps, batch: of the training, which sees steps x batch patches, none twice.
        observe: patches that give the targets' moments.
        held_out: patches of the one validation, at the last step.
        judged: patches of the held-out patient that judge, side by side. k: neighbours that are compared.
        lr, precision, accelerator: as `g2l fit` has them; the evaluation is in 32 bit.
        seed: of initial weights, patches and augmentations.
    """

    size: int = 112
    read: int = 126
    mpp: float = 1.0
    steps: int = 150
    batch: int = 64
    observe: int = 512
    held_out: int = 128
    judged: int = 600
    k: int = 20
    lr: float = 1e-3
    seed: int = 0
    precision: str = "bf16-mixed"
    accelerator: str = "cpu"


def stream(budget: Budget) -> Plain:
    """The settings of the data that both paths share."""
    return {
        "batch_size": budget.batch,
        "patch_size": budget.read,
        "mpp": budget.mpp,
        "val_patches": budget.held_out,
        "threads": 1,
    }


def distilling(
    data: Mapping[str, Any], networks: Networks, budget: Budget, term: Mapping[str, Any], run: Path
) -> Plain:
    """The config of one training.

    Args:
        data: where the patches come from. run: folder of the training.
        term: class and settings of the objective's one term, without its teacher.
    """
    return {
        "seed_everything": budget.seed,
        "model": {
            "student": networks.student,
            "student_init": "random",
            "weights": networks.weights,
            "terms": {"distil": {**term, "init_args": {**term.get("init_args", {}), "teacher": networks.teacher}}},
            "views": {"class_path": "Views", "init_args": {"size": budget.size}},
            "lr": budget.lr,
            "warmup_steps": budget.steps // 8,
            "observe_patches": budget.observe,
        },
        "data": {**data, **stream(budget)},
        "trainer": trainer(run, budget.steps, budget.accelerator, budget.precision),
    }


def judging(students: Mapping[str, str], listing: Path, networks: Networks, budget: Budget, out: Path) -> Plain:
    """The config of the evaluation: the students, and the one before its first step, against their teacher.

    Args:
        students: name -> exported folder. listing: the patches that judge. out: of the results.
    """
    data = {"listing": str(listing), "label": False, "mpp": budget.mpp}
    given = {"data": {"class_path": "Listing", "init_args": data}, "teacher": TEACHER, "k": budget.k}
    return {
        "encoders": {
            TEACHER: {"model": networks.teacher, "weights": networks.weights},
            # drawn from the same seed as that of the trainings, whose first weights it therefore has
            NONE: {"model": networks.student, "init": "random"},
            **students,
        },
        "tasks": {TASK: {"class_path": "Similarity", "init_args": given}},
        "embedding": {"threads": 1, "accelerator": budget.accelerator, "devices": 1},
        "out": str(out),
        "seed": budget.seed,
    }
