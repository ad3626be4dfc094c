"""What is computed in a step: views -> tokens of every network -> terms -> one loss.

Letters: `B` images of this process, `C` global crops of each, `H` pixels of a view, `D` width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from lightning import LightningModule
from torch import Tensor, nn

from g2l.data.masks import draw_masks
from g2l.data.views import Views
from g2l.encoders.catalog import get_spec
from g2l.encoders.encoder import Encoder, Tokens
from g2l.encoders.locate import require_weights
from g2l.errors import ConfigError
from g2l.training.batch import Batch
from g2l.training.cache.reading import TeacherCache
from g2l.training.checks import check_names
from g2l.training.ema import EMA
from g2l.training.networks import (
    Init,
    frozen_names,
    frozen_tokens,
    gather_needs,
    held_out_needs,
    load_frozen,
    load_student,
)
from g2l.training.prototypes import Prototypes
from g2l.training.sharding import Masking
from g2l.training.terms import EMA as TEACHER
from g2l.training.terms import STUDENT, Masked, Need, Networks, Passes, Term


class Objective(LightningModule):
    """Student, frozen networks, the student's moving average, and the terms that compare them.

    The frozen networks live outside the module tree (in a tuple): they are in no checkpoint, are not broadcast by
    DDP, and no `train()` reaches them.
    """

    def __init__(
        self,
        student: str,
        terms: Mapping[str, Term],
        weights: str | None,
        student_init: Init,
        views: Views | None,
        drop_path: float,
        result: Literal["student", "ema"],
        seed: int,
    ) -> None:
        """Args: see `Distiller`."""
        super().__init__()
        active = {name: term for name, term in terms.items() if term.active}
        if not active:
            raise ConfigError("model.terms has no term of weight above 0: nothing would be trained")
        check_names(active)
        self.views = views or Views(size=get_spec(student).size)
        self.needs = gather_needs(active.values(), self.views)
        self.held_out_needs = held_out_needs(self.needs, active)
        names = frozen_names(self.needs)
        require_weights([*names, *([student] if student_init == "weights" else [])], weights)
        self.student = load_student(student, weights, student_init, drop_path, self.needs, self.views)
        self.masking = Masking()
        if any(need.masked for need in self.needs):
            self.masking["mask_token"] = nn.Parameter(torch.zeros(1, self.student.token_dim))
        self._frozen = (load_frozen(names, weights),)
        self.heads = nn.ModuleDict()  # those that several terms share
        for term in active.values():
            term.build(Networks(self.student, self.frozen, self.heads))
        self.terms = nn.ModuleDict(active)
        averages = result == "ema" or any(need.network == TEACHER for need in self.needs)
        self.ema = EMA(self.averaged()) if averages else None
        for name, head in self.heads.items():
            if self.ema is not None and isinstance(head, Prototypes):
                head.attach(self.ema[f"head_{name}"])
        self.result: Literal["student", "ema"] = result
        self.seed = seed
        self.cache: TeacherCache | None = None

    @property
    def frozen(self) -> dict[str, Encoder]:
        """The frozen networks by name."""
        return self._frozen[0]

    @property
    def result_encoder(self) -> Encoder:
        """The student, or its moving average where that is the result."""
        return self.student if self.result == "student" else self._average

    @property
    def _average(self) -> Encoder:
        assert self.ema is not None
        encoder = self.ema[STUDENT]
        assert isinstance(encoder, Encoder)
        return encoder

    def averaged(self) -> dict[str, nn.Module]:
        """What the moving average follows."""
        heads = {f"head_{name}": head.head for name, head in self.heads.items() if isinstance(head, Prototypes)}
        return {STUDENT: self.student, **heads}

    def make_views(self, batch: Batch, needs: list[Need] | None = None) -> dict[str, Tensor]:
        """The views that are needed, (crops B, 3, H, H) in [0, 1]; a pure function of the patches' numbers."""
        if needs is None:
            needs = self.needs if self.training else self.held_out_needs
        names = sorted({need.view for need in needs})
        return self.views(batch["images"], batch["index"], seed=self.seed, training=self.training, names=names)

    def tokens(self, need: Need, view: Tensor, masked: Masked | None = None) -> Tokens:
        """One network's tokens of one view; an encoder that takes another size resizes the view itself."""
        if need.network in self.frozen:
            return frozen_tokens(self.frozen[need.network], view)
        if need.network == TEACHER:
            with torch.no_grad():
                return self._average(view)
        if not self.training:
            return self.result_encoder(view)
        if not need.masked:
            return self.student(view, resize=need.view != "local")
        assert masked is not None
        return self.student(view, mask=masked.tokens, mask_token=self.masking(masked.tokens))

    def run(self, batch: Batch, needs: list[Need]) -> Passes:
        """Every network once per view, or its tokens from the cache."""
        cached = self.cache.tokens(batch, self.device) if self.cache and self.training else {}
        views = self.make_views(batch, [need for need in needs if need.network not in cached])  # {view: [C B, 3, H, H]}
        passes = Passes(crops=self.views.crops if self.training else 1, labels=batch.get("labels", ()))
        if any(need.masked for need in needs):
            drawn = draw_masks(batch["index"], self.seed, self.student.grid, passes.crops)
            passes.masked = Masked.of(drawn, batch["images"].device)
        for need in needs:
            # cls [C B, D], patches [C B, N, D]
            passes[need] = cached.get(need.network) or self.tokens(need, views[need.view], passes.masked)
        return passes

    def forward_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Passes]:
        """Every term's unweighted value, and the tokens they were computed from. On held-out patches: of the terms
        that have one there; the student then sees them whole, whatever it sees in training.
        """
        if self.training:
            passes = self.run(batch, self.needs)
            return {name: self.term(name)(passes) for name in self.terms}, passes
        passes = self.run(batch, self.held_out_needs)
        whole = Need(STUDENT, "student")
        passes[whole._replace(masked=True)] = passes[whole]
        return {name: self.term(name)(passes) for name in self.terms if self.term(name).validates}, passes

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """The loss: the sum of weight x value, exactly what is optimised and logged."""
        return torch.stack([self.term(name).weight * value for name, value in values.items()]).sum()

    def term(self, name: str) -> Term:
        """A term by its name."""
        term = self.terms[name]
        assert isinstance(term, Term)
        return term
