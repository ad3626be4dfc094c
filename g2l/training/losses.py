"""The terms that distil a frozen network, each a loss on `Distil`'s heads. Letters: `D` width of the teacher."""

from typing import Literal

from torch import nn

from g2l.errors import ConfigError
from g2l.objectives.cosine import CosineLoss
from g2l.objectives.logsum import LogSumLoss
from g2l.objectives.mse import MSELoss
from g2l.training.distil import Distil, Head
from g2l.training.terms import View


def _check_smooth(smooth: float, beta: float) -> None:
    if not 0 <= smooth <= 1 or beta <= 0:
        raise ConfigError(f"smooth is {smooth} and beta {beta}; they must lie in [0, 1] and above 0")


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
        masked: bool = False,
        weight_final: float | None = None,
    ) -> None:
        """Args:
        teacher, weight, cls, patch, view, masked, weight_final: see `Distil`.
        alpha, eps: exponent, and what is added to the sum.
        faithful: both sides normalised over the batch of one process, as published, instead of the teacher by the
            cohort and the student over all processes.
        """
        super().__init__(teacher, weight, cls, patch, view, masked=masked, weight_final=weight_final)
        if alpha < 1:
            raise ConfigError(f"alpha is {alpha}; the log-sum loss needs an exponent of at least 1")
        self.alpha, self.faithful, self.eps = alpha, faithful, eps

    @property
    def accumulates(self) -> bool:
        """No: the log of a sum is not the mean of logs."""
        return False

    def loss(self, part: str, width: int) -> nn.Module:
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
        head: Head = "linear",
        masked: bool = False,
        weight_final: float | None = None,
    ) -> None:
        """Args:
        teacher, weight, cls, patch, view, head, masked, weight_final: see `Distil`.
        smooth, beta: share of smooth L1, and the difference at which it passes from quadratic to linear.
        standardised: targets standardised by the moments of the cohort instead of raw.
        """
        super().__init__(teacher, weight, cls, patch, view, head, masked=masked, weight_final=weight_final)
        _check_smooth(smooth, beta)
        self.smooth, self.beta, self.standardised = smooth, beta, standardised

    def loss(self, part: str, width: int) -> nn.Module:
        """A CosineLoss."""
        return CosineLoss(width, self.smooth, self.beta, self.standardised)


class Expert(Distil):
    """GPFM's distillation of an expert: cosine alone on class embeddings, with a tenth of smooth L1 on patch tokens."""

    def __init__(
        self,
        expert: str,
        weight: float = 1.0,
        cls: float = 1.0,
        patch: float = 0.0,
        smooth: float = 0.1,
        beta: float = 1.0,
        standardised: bool = True,
        head: Head = "gpfm",
        shared_head: bool = False,
        masked: bool = True,
        resize: Literal["teacher", "student"] = "teacher",
        view: View = "student",
        weight_final: float | None = None,
    ) -> None:
        """Args:
        expert: name of the frozen network.
        weight, cls, patch, head, shared_head, masked, resize, view, weight_final: see `Distil`.
        smooth, beta: share of smooth L1 on patch tokens, and where it passes from quadratic to linear.
        standardised: targets standardised by the moments of the cohort; False: raw, as published.
        """
        super().__init__(expert, weight, cls, patch, view, head, shared_head, masked, resize, weight_final)
        _check_smooth(smooth, beta)
        self.smooth, self.beta, self.standardised = smooth, beta, standardised

    def loss(self, part: str, width: int) -> nn.Module:
        """A CosineLoss."""
        return CosineLoss(width, self.smooth if part == "patch" else 0.0, self.beta, self.standardised)


class MSE(Distil):
    """Mean squared error against PHI-S targets, rotated to one variance in all dimensions (objectives/mse.py)."""

    def __init__(
        self,
        teacher: str,
        weight: float = 1.0,
        cls: float = 1.0,
        patch: float = 0.0,
        view: View = "student",
        head: Head = "linear",
        masked: bool = False,
        weight_final: float | None = None,
    ) -> None:
        """Args: see `Distil`."""
        super().__init__(teacher, weight, cls, patch, view, head, masked=masked, weight_final=weight_final)

    def loss(self, part: str, width: int) -> nn.Module:
        """An MSELoss."""
        return MSELoss(width)
