"""Terms of the objective: what each needs, and what it computes from it.

Letters: `B` images of this process, `C` global crops of an image, `N` patch tokens of a crop, `M` masked tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from g2l.encoders.encoder import Encoder, Tokens
from g2l.errors import ConfigError
from g2l.training.schedules import cosine

STUDENT = "student"
EMA = "ema"
View = Literal["student", "clean"]


class Need(NamedTuple):
    """One forward pass: which network (STUDENT, EMA, or a frozen network's name) sees which view, masked or whole."""

    network: str
    view: Literal["student", "clean", "local"]
    masked: bool = False


class Masked(NamedTuple):
    """The masked tokens of a step.

    tokens: (C B, N) bool. rows: (M,) their places in the C B N tokens. weights: (M,) 1 / masked tokens of the crop.
    """

    tokens: Tensor
    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, tokens: Tensor, device: torch.device) -> "Masked":
        """From (C B, N) bool on the CPU; what has to be counted is counted there, so that no GPU is waited for."""
        counts = tokens.sum(1)
        rows = tokens.flatten().nonzero().squeeze(1)
        parts = (tokens, rows, (1 / counts.clamp_min(1)).repeat_interleave(counts))
        if device.type == "cuda":  # from pageable memory the copy would wait for the queue
            parts = tuple(part.pin_memory() for part in parts)
        return cls(*(part.to(device, non_blocking=True) for part in parts))


class Passes(dict[Need, Tokens]):
    """The tokens of every forward pass of a step; `masked` of its global crops, the number `crops` of these, and the
    `labels` of its images ("": not known).

    `memo` holds what several terms of the step share, such as the logits of one head.
    """

    def __init__(
        self,
        tokens: Mapping[Need, Tokens] | None = None,
        masked: Masked | None = None,
        crops: int = 1,
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__(tokens or {})
        self.masked, self.crops, self.labels = masked, crops, labels
        self.memo: dict[Any, Any] = {}


class Networks(NamedTuple):
    """What a term is built for. `shared`: modules that several terms use, by name; a term may add to it."""

    student: Encoder
    frozen: Mapping[str, Encoder]
    shared: nn.ModuleDict


class Term(nn.Module):
    """One named summand of the loss. Weight 0: it is never built and runs no network."""

    def __init__(self, weight: float = 1.0, weight_final: float | None = None) -> None:
        """Args: weight: factor in the sum, not negative; weight_final: its value at the last step, half a cosine
        between them; None: constant.
        """
        super().__init__()
        final = weight if weight_final is None else weight_final
        if min(weight, final) < 0:
            raise ConfigError(f"a term's weight is {min(weight, final)}; give 0 (off) or more")
        self.weight, self._weights = weight, (weight, final)
        self.watching = False
        self.seen: dict[str, Tensor] = {}  # what the last forward pass showed while `watching`

    @property
    def active(self) -> bool:
        """Whether it ever weighs anything."""
        return max(self._weights) > 0

    @property
    def scheduled(self) -> bool:
        """Whether its weight changes during the run."""
        return self._weights[0] != self._weights[1]

    @property
    def needs(self) -> frozenset[Need]:
        """The forward passes whose tokens `forward` reads."""
        raise NotImplementedError

    @property
    def accumulates(self) -> bool:
        """Whether the mean over micro-batches is the value of the whole batch (gradient accumulation is exact)."""
        return True

    @property
    def validates(self) -> bool:
        """Whether it has a value on held-out patches, of which there is one view."""
        return True

    def build(self, networks: Networks) -> None:
        """Make the parameters, once the widths of all networks are known."""

    def observe(self, passes: Passes) -> None:
        """See one batch of targets before training (moments of the cohort); called only while `observes`."""

    @property
    def observes(self) -> bool:
        """Whether targets must be observed before the first step."""
        return False

    def start_step(self, step: int, total: int) -> None:
        """Set what depends on the step: the weight, and in some terms a temperature."""
        if self.scheduled:
            self.weight = cosine(step, total, *self._weights)

    def end_step(self) -> None:
        """After the optimiser's step: once, however many batches were accumulated."""

    def forward(self, passes: Passes) -> Tensor:
        """The unweighted scalar value."""
        raise NotImplementedError
