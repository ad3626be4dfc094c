"""Self-distillation: the student learns from the moving average of itself (DINO, iBOT), and spreads its embeddings.

Letters: `B` images, `C` global crops and `V` crops of an image, `M` masked tokens, `K` prototypes, `D` width.
"""

import torch
from torch import Tensor

from g2l.errors import ConfigError
from g2l.objectives.centring import Centring
from g2l.objectives.dino import dino
from g2l.objectives.ibot import ibot
from g2l.objectives.kde import kde
from g2l.objectives.koleo import koleo
from g2l.training.collapse import target_use
from g2l.training.prototypes import GLOBAL, LOCAL, TEACHER, Prototypes, PrototypeSizes, shared_prototypes
from g2l.training.schedules import linear
from g2l.training.terms import STUDENT, Need, Networks, Passes, Term


class SelfDistil(Term):
    """What DINO and iBOT share: a prototype head, a centre, and the teacher's temperature."""

    part = ""

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        teacher_temperature_start: float = 0.04,
        teacher_warmup_steps: int = 37_500,
        centre_momentum: float = 0.9,
        head: str = "prototypes",
        hidden: int = 2048,
        bottleneck: int = 256,
        prototypes: int = 65_536,
        trained_lengths: bool = False,
        weight_final: float | None = None,
    ) -> None:
        """Args:
        weight, weight_final: factor of the term.
        temperature: of the student. teacher_temperature: of the teacher, risen to linearly from
            teacher_temperature_start over teacher_warmup_steps.
        centre_momentum: of the moving mean of the teacher's logits.
        head: terms that name the same head share it (GPFM: dino and ibot do).
        hidden, bottleneck, prototypes, trained_lengths: see `PrototypeHead`.
        """
        super().__init__(weight, weight_final)
        if min(temperature, teacher_temperature, teacher_temperature_start) <= 0 or not 0 <= centre_momentum < 1:
            raise ConfigError(
                f"{type(self).__name__} has temperatures {temperature}, {teacher_temperature_start} to "
                f"{teacher_temperature} and centre_momentum {centre_momentum}; give temperatures above 0 and a "
                "momentum from 0 to below 1"
            )
        if min(hidden, bottleneck) < 1 or prototypes < 2 or teacher_warmup_steps < 0 or not head.isidentifier():
            raise ConfigError(
                f"{type(self).__name__} has hidden {hidden}, bottleneck {bottleneck}, prototypes {prototypes}, "
                f"teacher_warmup_steps {teacher_warmup_steps} and head {head!r}; give widths above 0, two prototypes "
                "or more, steps from 0 on, and a name of letters, digits and _"
            )
        self.temperature, self.centre = temperature, Centring(prototypes, centre_momentum)
        self._teacher = (teacher_temperature_start, teacher_temperature, teacher_warmup_steps)
        self.teacher_temperature = teacher_temperature
        self._head = (head, PrototypeSizes(hidden, bottleneck, prototypes, trained_lengths))
        self._shared: tuple[Prototypes, ...] = ()  # in a tuple: it belongs to the Distiller, which several terms share

    @property
    def validates(self) -> bool:
        """No: held-out patches are seen in one view, and whole."""
        return False

    def build(self, networks: Networks) -> None:
        """Find or make the head."""
        name, sizes = self._head
        self._shared = (shared_prototypes(networks, name, self.part, sizes),)

    @property
    def prototypes(self) -> Prototypes:
        """The head."""
        return self._shared[0]

    def start_step(self, step: int, total: int) -> None:
        """Weight and teacher's temperature."""
        super().start_step(step, total)
        start, end, steps = self._teacher
        self.teacher_temperature = linear(step, start, end, steps)

    def end_step(self) -> None:
        """Move the centre."""
        self.centre.step()

    def targets(self, logits: Tensor) -> Tensor:
        """The teacher's logits (R, K) as probabilities."""
        targets = self.centre.targets(logits, self.teacher_temperature)
        if self.watching and len(targets):
            self.seen |= target_use(targets)
        return targets


class Dino(SelfDistil):
    """Every crop of an image is to be assigned to prototypes like its global crops (objectives/dino.py)."""

    part = "cls"

    @property
    def needs(self) -> frozenset[Need]:
        """Masked global and local crops of the student, whole global crops of the teacher."""
        return frozenset({GLOBAL, LOCAL, TEACHER})

    def forward(self, passes: Passes) -> Tensor:
        """Cross-entropy over all pairs of a student's and another teacher's crop."""
        student, teacher = self.prototypes.student(passes)["cls"], self.prototypes.teacher(passes)["cls"]
        targets = self.targets(teacher).unflatten(0, (passes.crops, -1))  # [C, B, K]
        return dino(student.unflatten(0, (-1, targets.shape[1])), targets, self.temperature)


class Ibot(SelfDistil):
    """Masked tokens are to be assigned to prototypes like the teacher's, which sees them (objectives/ibot.py)."""

    part = "patch"

    @property
    def needs(self) -> frozenset[Need]:
        """Masked global crops of the student, whole ones of the teacher."""
        return frozenset({GLOBAL, TEACHER})

    def forward(self, passes: Passes) -> Tensor:
        """Cross-entropy over the masked tokens; every masked crop counts the same."""
        assert passes.masked is not None
        student, teacher = self.prototypes.student(passes)["patch"], self.prototypes.teacher(passes)["patch"]
        crops = len(passes.masked.tokens)
        return ibot(student, self.targets(teacher), passes.masked.weights, crops, self.temperature)


class Spreading(Term):
    """What KoLeo and KDE share: they act on the student's class embeddings of each global crop by itself."""

    def __init__(self, weight: float = 0.1, masked: bool = True, weight_final: float | None = None) -> None:
        """Args: weight, weight_final: factor; masked: of the masked pass, as in DINOv2, or of the whole crops."""
        super().__init__(weight, weight_final)
        self.student = Need(STUDENT, "student", masked)

    @property
    def needs(self) -> frozenset[Need]:
        """One pass of the student."""
        return frozenset({self.student})

    @property
    def accumulates(self) -> bool:
        """No: the images of a batch are compared with each other."""
        return False

    @property
    def validates(self) -> bool:
        """No: it says something about a batch, not about patients."""
        return False

    def spreading(self, x: Tensor) -> Tensor:
        """The value for the embeddings (B, D) of one crop of each image."""
        raise NotImplementedError

    def forward(self, passes: Passes) -> Tensor:
        """Sum over the global crops: two crops of one image shall not repel each other."""
        with torch.autocast(passes[self.student].cls.device.type, enabled=False):
            return torch.stack([self.spreading(x) for x in passes[self.student].cls.chunk(passes.crops)]).sum()


class KoLeo(Spreading):
    """DINOv2's regulariser: away from the nearest neighbour in the batch of this process (objectives/koleo.py)."""

    def spreading(self, x: Tensor) -> Tensor:
        """KoLeo of one crop."""
        return koleo(x)


class KDE(Spreading):
    """Midnight's regulariser: away from all others, over the batch of all processes (objectives/kde.py)."""

    def __init__(
        self, weight: float = 0.05, kappa: float = 5.0, masked: bool = True, weight_final: float | None = None
    ) -> None:
        """Args: kappa: concentration of the kernel; the others: see `Spreading`."""
        super().__init__(weight, masked, weight_final)
        if kappa <= 0:
            raise ConfigError(f"kappa is {kappa}; give a concentration above 0")
        self.kappa = kappa

    def spreading(self, x: Tensor) -> Tensor:
        """KDE of one crop."""
        return kde(x, self.kappa, across_ranks=True)
