"""Distillation from a frozen network: what all such terms share.

Letters: `N` patch tokens of a crop, `D` width, `R` rows (crops, or crops times tokens).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from g2l.encoders.encoder import Tokens
from g2l.errors import ConfigError
from g2l.objectives.heads import ExpertHead, MLPHead
from g2l.training.terms import STUDENT, Need, Networks, Passes, Term, View

Head = Literal["linear", "gpfm", "mlp"]


def resize_grid(patches: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Patch tokens (B, N, D) of a `grid` as tokens (B, N', D) of the grid `to`, bicubic as in GPFM."""
    if grid == to:
        return patches
    plane = patches.transpose(1, 2).unflatten(2, grid)  # [B, D, h, w]
    return interpolate(plane.float(), to, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def make_head(kind: Head, width: int, target: int) -> nn.Module:
    """A head from the student's width to the target's. mlp: one hidden layer as wide as the wider of the two."""
    if kind == "linear":
        return nn.Linear(width, target)
    return ExpertHead(width, target) if kind == "gpfm" else MLPHead(width, target, max(width, target))


class Distil(Term):
    """A head on the student, trained to meet a frozen teacher.

    CLS-type embeddings and patch tokens have a head and a loss each; a part of weight 0 is not built.
    """

    def __init__(
        self,
        teacher: str,
        weight: float = 1.0,
        cls: float = 1.0,
        patch: float = 0.0,
        view: View = "student",
        head: Head = "linear",
        shared_head: bool = False,
        masked: bool = False,
        resize: Literal["teacher", "student"] = "teacher",
        weight_final: float | None = None,
    ) -> None:
        """Args:
        teacher: name of the frozen network.
        weight, weight_final: factor of the term; cls, patch: factors inside it of the two kinds of token.
        view: what the teacher sees. student: the very view the student sees (as published). clean: the same
            geometry without colour changes or blur, so that the student learns to undo them.
        head: linear; gpfm: through a bottleneck of 256, normalised, so that its output has rank 256 at most; mlp.
        shared_head: one head for both kinds of token, as in GPFM; both must then have one width.
        masked: the student's tokens are those of its masked pass, as in GPFM; the teacher sees whole crops.
        resize: whose patch tokens are resampled where the two grids differ.
        """
        super().__init__(weight, weight_final)
        if min(cls, patch) < 0 or cls + patch == 0:
            raise ConfigError(
                f"the term on {teacher} has cls {cls} and patch {patch}; give one of them a weight above 0"
            )
        self.teacher, self.student = Need(teacher, view), Need(STUDENT, "student", masked)
        self.parts = {name: factor for name, factor in (("cls", cls), ("patch", patch)) if factor}
        self.head: Head = head
        self.shared_head, self.resize = shared_head and len(self.parts) == 2, resize
        self.heads, self.losses = nn.ModuleDict(), nn.ModuleDict()

    @property
    def needs(self) -> frozenset[Need]:
        """One pass of the student and one of the teacher."""
        return frozenset({self.student, self.teacher})

    def loss(self, part: str, width: int) -> nn.Module:
        """The loss of one part on features (R, D), given the teacher's width D. Its `pair` gives what is compared, and
        it may have a `target` of moments of the cohort.
        """
        raise NotImplementedError

    def build(self, networks: Networks) -> None:
        """A head and a loss for each part."""
        student, teacher = networks.student, networks.frozen[self.teacher.network]
        widths = {"cls": (student.embed_dim, teacher.embed_dim), "patch": (student.token_dim, teacher.token_dim)}
        if self.shared_head and widths["cls"] != widths["patch"]:
            raise ConfigError(
                f"the term on {self.teacher.network} shares its head, but class and patch tokens are "
                f"{widths['cls']} and {widths['patch']} wide (student, teacher); set shared_head: false"
            )
        for part in ["cls"] if self.shared_head else self.parts:
            self.heads[part] = make_head(self.head, *widths[part])
        for part in self.parts:
            self.losses[part] = self.loss(part, widths[part][1])

    def _rows(self, part: str, tokens: Tokens, grid: tuple[int, int]) -> Tensor:
        return tokens.cls if part == "cls" else resize_grid(tokens.patches, tokens.grid, grid).flatten(0, 1)

    @property
    def observes(self) -> bool:
        """Whether a loss has moments of the cohort that are still empty."""
        targets = [getattr(loss, "target", None) for loss in self.losses.values()]
        return any(target is not None and not target.ready for target in targets)

    def observe(self, passes: Passes) -> None:
        """Add one batch of the teacher's features to the moments of the cohort."""
        teacher = passes[self.teacher]
        for part in self.parts:
            target = getattr(self.losses[part], "target", None)
            if target is not None:
                target.update(self._rows(part, teacher, teacher.grid))

    def forward(self, passes: Passes) -> Tensor:
        """Sum over the parts of factor x loss(head(student), teacher), in float32."""
        student, teacher = passes[self.student], passes[self.teacher]
        grid = student.grid if self.resize == "teacher" else teacher.grid
        values = []
        for part, factor in self.parts.items():
            head = self.heads["cls" if self.shared_head else part]
            rows, target = head(self._rows(part, student, grid)), self._rows(part, teacher, grid)  # [R, D]
            with torch.autocast(rows.device.type, enabled=False):
                values.append(factor * self.losses[part](rows, target))
                if self.watching:
                    pair = self.losses[part].pair(rows.detach(), target)  # type: ignore[operator]
                    self.seen[f"{part}_agreement"] = cosine_similarity(*pair, dim=-1).mean()
        return torch.stack(values).sum()
