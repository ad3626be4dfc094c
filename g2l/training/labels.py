"""Supervision: the classes of patches beside, or in the place of, a teacher. Letters: `B` images, `C` global crops."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from g2l.encoders.encoder import Encoder
from g2l.errors import ConfigError, TrainingError
from g2l.objectives.collective import all_sum, world_size
from g2l.training.terms import STUDENT, Need, Networks, Passes, Term

UNKNOWN = -1


class Labels(Term):
    """Cross-entropy of a linear head on the student's class embedding against the class of each patch.

    Alone it trains an encoder as ever: for a teacher of one's own, or to see what a student of this size can learn
    from the labels. Classes are the `label` column of patches already cut, or of a cohort (then each patch has that of
    its slide). Patches without one do not count; the mean is over those of all processes.
    """

    def __init__(
        self,
        classes: list[str],
        weight: float = 1.0,
        smoothing: float = 0.0,
        masked: bool = False,
        weight_final: float | None = None,
    ) -> None:
        """Args:
        classes: every value that the column holds.
        weight, weight_final: factor of the term, at the first and the last step.
        smoothing: share of the target that is spread over all classes.
        masked: the head reads the student's masked crops.
        """
        super().__init__(weight, weight_final)
        twice = [name for name, count in Counter(classes).items() if count > 1]
        if len(classes) < 2 or twice or "" in classes or not 0 <= smoothing < 1:
            raise ConfigError(
                f"Labels has classes {', '.join(classes) or 'none'} and smoothing {smoothing}; give two classes or "
                "more, each once, and a smoothing from 0 to below 1"
            )
        self.codes = {name: code for code, name in enumerate(classes)} | {"": UNKNOWN}
        self.smoothing = smoothing
        self.student = Need(STUDENT, "student", masked)
        self.head: nn.Module = nn.Identity()

    @property
    def needs(self) -> frozenset[Need]:
        """One pass of the student."""
        return frozenset({self.student})

    @property
    def accumulates(self) -> bool:
        """No: micro-batches with fewer labels would count as much as others."""
        return False

    def build(self, networks: Networks) -> None:
        """The head."""
        assert isinstance(networks.student, Encoder)
        self.head = nn.Linear(networks.student.embed_dim, len(self.codes) - 1)

    def forward(self, passes: Passes) -> Tensor:
        """The mean over the crops that have a class; 0 where there are none.

        Raises:
            TrainingError: a class that the term does not name, or batches that say nothing of classes.
        """
        rows = passes[self.student].cls  # [C B, D]
        logits = self.head(rows).float()
        targets = self._targets(passes, len(rows)).to(logits.device)
        known = (targets != UNKNOWN).sum()
        total = all_sum(known.float()) / world_size()  # DDP averages what the processes give
        value = cross_entropy(
            logits, targets, ignore_index=UNKNOWN, reduction="sum", label_smoothing=self.smoothing
        ) / total.clamp_min(1 / world_size())
        if self.watching:
            right = (logits.detach().argmax(1) == targets).sum()
            self.seen["accuracy"] = right / known.clamp_min(1)
        return value

    def _targets(self, passes: Passes, rows: int) -> Tensor:
        """(C B,) codes; crop c of image b is row c B + b."""
        if not passes.labels:
            raise TrainingError("the batches say nothing of classes, which the term Labels needs")
        self.require(passes.labels)
        codes = torch.tensor([self.codes[name] for name in passes.labels])
        return codes.repeat(rows // len(codes))

    def require(self, stated: Iterable[str]) -> None:
        """TrainingError where one of the classes that data state is not among those of the term."""
        strange = sorted(set(stated) - set(self.codes))
        if strange:
            raise TrainingError(
                f"the data hold the classes {', '.join(strange[:5])}, but the term Labels names "
                f"{', '.join(list(self.codes)[:-1])}; correct its classes, or the label column"
            )
