"""Terms of the objective: what each needs, and what it computes from it.

Letters: `B` images of this process, `N` patch tokens of an image, `D` teacher width.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from g2l.encoders.encoder import Encoder, Tokens
from g2l.errors import ConfigError
from g2l.objectives.cosine import CosineLoss
from g2l.objectives.logsum import LogSumLoss

STUDENT = "student"
View = Literal["student", "clean"]


class Need(NamedTuple):
    """One forward pass: which network (STUDENT, or a frozen network's name) sees which view."""

    network: str
    view: View


class Term(nn.Module):
    """One named summand of the loss. Weight 0: it is never built and runs no network."""

    def __init__(self, weight: float = 1.0) -> None:
        """Args: weight: factor in the sum, not negative."""
        super().__init__()
        if weight < 0:
            raise ConfigError(f"a term's weight is {weight}; give 0 (off) or more")
        self.weight = weight

    @property
    def needs(self) -> frozenset[Need]:
        """The forward passes whose tokens `forward` reads."""
        raise NotImplementedError

    @property
    def accumulates(self) -> bool:
        """Whether the mean over micro-batches is the value of the whole batch (gradient accumulation is exact)."""
        return True

    def build(self, student: Encoder, frozen: Mapping[str, Encoder]) -> None:
        """Make the parameters, once the widths of all networks are known."""

    def observe(self, tokens: Mapping[Need, Tokens]) -> None:
        """See one batch of targets before training (moments of the cohort); called only while `observes`."""

    @property
    def observes(self) -> bool:
        """Whether targets must be observed before the first step."""
        return False

    def forward(self, tokens: Mapping[Need, Tokens]) -> Tensor:
        """The unweighted scalar value."""
        raise NotImplementedError


def resize_grid(patches: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Patch tokens (B, N, D) of a `grid` as tokens (B, N', D) of the grid `to`, bicubic as in GPFM."""
    if grid == to:
        return patches
    plane = patches.transpose(1, 2).unflatten(2, grid)  # [B, D, h, w]
    return interpolate(plane.float(), to, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


class Distil(Term):
    """A linear projector on the student, trained to meet a frozen teacher: the part that all such losses share.

    CLS-type embeddings and patch tokens have a projector and a loss each; a part of weight 0 is not built.
    """

    def __init__(
        self, teacher: str, weight: float = 1.0, cls: float = 1.0, patch: float = 0.0, view: View = "student"
    ) -> None:
        """Args:
        teacher: name of the frozen network.
        weight: factor of the term; cls, patch: factors inside it of the two kinds of token.
        view: what the teacher sees. student: the very view the student sees (as published). clean: the same
            geometry without colour changes or blur, so that the student learns to undo them.
        """
        super().__init__(weight)
        if min(cls, patch) < 0 or cls + patch == 0:
            raise ConfigError(
                f"the term on {teacher} has cls {cls} and patch {patch}; give one of them a weight above 0"
            )
        self.teacher = Need(teacher, view)
        self.parts = {name: factor for name, factor in (("cls", cls), ("patch", patch)) if factor}
        self.projectors, self.losses = nn.ModuleDict(), nn.ModuleDict()

    @property
    def needs(self) -> frozenset[Need]:
        """One pass of the student and one of the teacher."""
        return frozenset({Need(STUDENT, "student"), self.teacher})

    def loss(self, width: int) -> nn.Module:
        """The loss on features (R, D), given the teacher's width D; it may have a `target` of CohortMoments."""
        raise NotImplementedError

    def build(self, student: Encoder, frozen: Mapping[str, Encoder]) -> None:
        """A linear projector and a loss for each part."""
        teacher = frozen[self.teacher.network]
        widths = {"cls": (student.embed_dim, teacher.embed_dim), "patch": (student.token_dim, teacher.token_dim)}
        for part in self.parts:
            self.projectors[part] = nn.Linear(*widths[part])
            self.losses[part] = self.loss(widths[part][1])

    def _rows(self, part: str, tokens: Tokens, grid: tuple[int, int]) -> Tensor:
        return tokens.cls if part == "cls" else resize_grid(tokens.patches, tokens.grid, grid).flatten(0, 1)

    @property
    def observes(self) -> bool:
        """Whether a loss has moments of the cohort that are still empty."""
        targets = [getattr(loss, "target", None) for loss in self.losses.values()]
        return any(target is not None and not target.ready for target in targets)

    def observe(self, tokens: Mapping[Need, Tokens]) -> None:
        """Add one batch of the teacher's features to the moments of the cohort."""
        teacher = tokens[self.teacher]
        for part in self.parts:
            target = getattr(self.losses[part], "target", None)
            if target is not None:
                target.update(self._rows(part, teacher, teacher.grid))

    def forward(self, tokens: Mapping[Need, Tokens]) -> Tensor:
        """Sum over the parts of factor x loss(projector(student), teacher), in float32."""
        student, teacher = tokens[Need(STUDENT, "student")], tokens[self.teacher]
        values = []
        for part, factor in self.parts.items():
            rows = self.projectors[part](self._rows(part, student, student.grid))  # [R, D]
            with torch.autocast(rows.device.type, enabled=False):
                values.append(factor * self.losses[part](rows, self._rows(part, teacher, student.grid)))
        return torch.stack(values).sum()


class LogSum(Distil):
    """G2L's Log-Sum distillation (objectives/logsum.py)."""

    def __init__(
        self,
        teacher: str,
        weight: float = 1.0,
        alpha: float = 4.0,
        faithful: bool = False,
        eps: float = 1e-5,
        cls: float = 1.0,
        patch: float = 0.0,
        view: View = "student",
    ) -> None:
        """Args:
        teacher, weight, cls, patch, view: see `Distil`.
        alpha, eps: exponent, and what is added to the sum.
        faithful: both sides normalised over the batch of one process, as published, instead of the teacher by the
            cohort and the student over all processes.
        """
        super().__init__(teacher, weight, cls, patch, view)
        if alpha < 1:
            raise ConfigError(f"alpha is {alpha}; the log-sum loss needs an exponent of at least 1")
        self.alpha, self.faithful, self.eps = alpha, faithful, eps

    @property
    def accumulates(self) -> bool:
        """No: the log of a sum is not the mean of logs."""
        return False

    def loss(self, width: int) -> nn.Module:
        """A LogSumLoss."""
        return LogSumLoss(width, self.alpha, self.eps, self.faithful)


class Cosine(Distil):
    """Cosine distance with a share of smooth L1 (objectives/cosine.py)."""

    def __init__(
        self,
        teacher: str,
        weight: float = 1.0,
        smooth: float = 0.1,
        beta: float = 1.0,
        standardised: bool = True,
        cls: float = 1.0,
        patch: float = 0.0,
        view: View = "student",
    ) -> None:
        """Args:
        teacher, weight, cls, patch, view: see `Distil`.
        smooth, beta: share of smooth L1, and the difference at which it passes from quadratic to linear.
        standardised: targets standardised by the moments of the cohort instead of raw.
        """
        super().__init__(teacher, weight, cls, patch, view)
        if not 0 <= smooth <= 1 or beta <= 0:
            raise ConfigError(f"smooth is {smooth} and beta {beta}; they must lie in [0, 1] and above 0")
        self.smooth, self.beta, self.standardised = smooth, beta, standardised

    def loss(self, width: int) -> nn.Module:
        """A CosineLoss."""
        return CosineLoss(width, self.smooth, self.beta, self.standardised)
