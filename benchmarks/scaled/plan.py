"""How large the study is: networks, steps and patches of each budget, and the files that state the networks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaled.files import write_yaml

TEACHER, EXPERT, STUDENT = "teacher", "expert", "student"
PATCH = 16  # px of a token, in every network
NORMALISATION = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@dataclass(frozen=True)
class Shape:
    """Of a vision transformer."""

    embed_dim: int
    depth: int
    num_heads: int
    pooling: str = "cls"


@dataclass(frozen=True)
class Budget:
    """One size of the study; all students of it get the same patches, steps and rates.

    Attributes:
        size: px to which every patch is brought, and which the networks take. local: px of local crops.
        teacher, expert, student: the student has about a quarter of the teacher's parameters.
        steps: of every student; teacher_steps, expert_steps: of those.
        batch: patches of a step. Where two crops of each are taken it is half, so that a teacher sees as many.
        rate, teacher_rate, expert_rate: highest learning rate.
        observe: patches that give the targets' moments.
        prototypes: of self-distillation.
        accelerator, precision, threads: of the trainings; threads 0: all there are.
        slide_steps, slide_judged: steps and judged patches of the part on slides.
        resamples: of groups.
    """

    size: int
    local: int
    teacher: Shape
    expert: Shape
    student: Shape
    steps: int
    teacher_steps: int
    expert_steps: int
    batch: int
    rate: float = 2e-3
    teacher_rate: float = 1e-3
    expert_rate: float = 1e-3
    observe: int = 512
    prototypes: int = 1024
    accelerator: str = "cpu"
    precision: str = "bf16-mixed"
    threads: int = 1
    slide_steps: int = 150
    slide_judged: int = 600
    resamples: int = 1000


BUDGETS = {
    # for tests: minutes become seconds, and the scores say nothing
    "tiny": Budget(
        48, 32, Shape(32, 2, 2), Shape(24, 2, 2, "mean"), Shape(16, 2, 2), 8, 8, 4, 16, observe=32, prototypes=32,
        precision="32-true", slide_steps=4, slide_judged=64, resamples=50,
    ),
    # two CPU cores, 45 minutes
    "small": Budget(112, 48, Shape(192, 9, 3), Shape(160, 6, 5, "mean"), Shape(128, 5, 2), 110, 180, 150, 32),
    # one GPU
    "large": Budget(
        224, 96, Shape(768, 12, 12), Shape(384, 12, 6, "mean"), Shape(384, 12, 6), 5000, 4000, 4000, 128, rate=1e-3,
        teacher_rate=5e-4, expert_rate=5e-4, observe=2048, prototypes=8192, accelerator="auto", threads=0,
        slide_steps=300, slide_judged=1200,
    ),
}  # fmt: skip


def write_networks(budget: Budget, folder: Path) -> dict[str, Path]:
    """Each network as a YAML that `g2l` takes as an encoder, by its name."""
    found = {}
    for name, shape in ((TEACHER, budget.teacher), (EXPERT, budget.expert), (STUDENT, budget.student)):
        found[name] = folder / f"{name}.yaml"
        write_yaml(found[name], _entry(name, shape, budget.size))
    return found


def _entry(name: str, shape: Shape, size: int) -> dict[str, Any]:
    arguments = {"img_size": size, "patch_size": PATCH, "embed_dim": shape.embed_dim, "depth": shape.depth}
    return {
        "name": name,
        "architecture": "vit_tiny_patch16_224",
        "args": arguments | {"num_heads": shape.num_heads, "global_pool": "token"},
        **NORMALISATION,
        "size": size,
        "pooling": shape.pooling,
        "licence": "that of the patches it was trained on",
        "redistribute": False,
        "redistribute_reason": "made by the study from the user's patches",
    }
