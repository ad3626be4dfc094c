"""What is compared: each arm is the settings of `g2l fit` in which it differs from the others.

All students of a seed start from the same weights and see the same patches at the same rates; nothing was tuned to an
arm. Arms that take two crops of a patch see half as many patches, so that the teacher does the same work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scaled.plan import Budget

Plain = dict[str, Any]
NONE, TEACHER, EXPERT = "none", "teacher", "expert"
FAITHFUL, DEFAULT, LABELS, UNIFIED = "log-sum faithful", "log-sum", "labels", "unified"


@dataclass(frozen=True)
class Arm:
    """A training.

    model: what stands under `model` beside what all share. crops: two crops of a patch. manifest: its patches.
    needs: trainings that must come before.
    """

    model: Plain
    crops: bool = False
    manifest: str = "distil.csv"
    needs: Sequence[str] = field(default=(TEACHER,))


def term(kind: str, **settings: Any) -> Plain:
    """A term as it stands in YAML."""
    return {"class_path": kind, "init_args": settings}


def single(budget: Budget, stain: float = 0.5, strength: float = 0.05) -> Plain:
    """One crop of each patch; the colours of `Views`, but for the stain."""
    own = {"size": budget.size, "quarter_turns": True, "stain": stain, "stain_strength": strength}
    return term("Views", **own, jitter=0.5, blur=0.1)


def multiple(budget: Budget) -> Plain:
    """Two global and two local crops, as far as so small patches allow."""
    own = {"size": budget.size, "local_size": budget.local, "locals": 2}
    return term("MultiCrop", **own, scale=[0.5, 1.0], local_scale=[0.1, 0.4], jitter=0.5)


def arms(budget: Budget, networks: Mapping[str, str], classes: Sequence[str]) -> dict[str, Arm]:
    """Every trained student by its name.

    Args:
        networks: the YAML of the teacher and of the expert. classes: of the labels.
    """
    teacher, expert = networks[TEACHER], networks[EXPERT]

    def logsum(**settings: Any) -> Plain:
        return {"logsum": term("LogSum", teacher=teacher, **settings)}

    def one(terms: Plain, **model: Any) -> Arm:
        return Arm({"terms": terms, "views": single(budget), **model})

    selfs, strong = self_distillation(budget), single(budget, 0.8, 0.1)
    both = {**logsum(weight=0.5), "expert": term("LogSum", teacher=expert, weight=0.5)}
    united = {
        **logsum(patch=0.5, view="clean", masked=True),
        "expert": term("Expert", expert=expert, cls=0.5, patch=0.125, head="mlp", view="clean", masked=True),
        **selfs,
    }
    average = {"ema_momentum": 0.97}
    pair = (TEACHER, EXPERT)
    return {
        LABELS: Arm(
            {"terms": {"labels": term("Labels", classes=list(classes))}, "views": single(budget)},
            manifest="labelled.csv",
            needs=(),
        ),
        FAITHFUL: one(logsum(faithful=True)),
        DEFAULT: one(logsum()),
        "alpha 2": one(logsum(alpha=2)),
        "alpha 6": one(logsum(alpha=6)),
        "cosine": one({"cosine": term("Cosine", teacher=teacher)}),
        "mse": one({"mse": term("MSE", teacher=teacher)}),
        "patch tokens": one(logsum(patch=1.0)),
        "strong stain": Arm({"terms": logsum(), "views": strong}),
        "clean teacher": Arm({"terms": logsum(view="clean"), "views": strong}),
        "clean, patch tokens": Arm({"terms": logsum(view="clean", patch=0.5), "views": strong}),
        "ema": one(logsum(), result="ema", **average),
        "two experts": Arm({"terms": both, "views": single(budget)}, needs=pair),
        "gpfm terms": Arm({"terms": logsum() | selfs, "views": multiple(budget), **average}, crops=True),
        UNIFIED: Arm({"terms": united, "views": multiple(budget), **average}, crops=True, needs=pair),
    }


def self_distillation(budget: Budget) -> Plain:
    """GPFM's terms beside its experts; KDE in the place of KoLeo, as in configs/gpfm.yaml."""
    own = {"weight": 0.1, "teacher_temperature": 0.04, "teacher_warmup_steps": 0}
    sizes = {"hidden": 256, "bottleneck": 64, "prototypes": budget.prototypes}
    return {
        "dino": term("Dino", **own, **sizes),
        "ibot": term("Ibot", **own, **sizes),
        "kde": term("KDE", weight=0.01, masked=False),
    }


def frozen(budget: Budget, classes: Sequence[str]) -> dict[str, Arm]:
    """The trainings of the frozen networks, on patches that no student sees.

    The teacher learns the classes, and to spread its embeddings, without which they shrink to one point for each class
    and there is little to be taught. The expert is of another kind: the mean of its patch tokens, trained under far
    stronger changes of stain and without being spread. (An expert that is self-distilled, as GPFM's are, needs more
    steps than the small budget has: after 160 of 16 patches it was worse than random weights.)
    """
    labels = term("Labels", classes=list(classes))
    spread = {"labels": labels, "kde": term("KDE", weight=0.2, masked=False)}
    teacher = {"terms": spread, "views": single(budget, 0.5, 0.1), "drop_path": 0.1, "lr": budget.teacher_rate}
    expert = {"terms": {"labels": labels}, "views": single(budget, 0.9, 0.3), "lr": budget.expert_rate}
    return {
        TEACHER: Arm(teacher, manifest="teacher.csv", needs=()),
        EXPERT: Arm(expert, manifest="teacher.csv", needs=()),
    }
