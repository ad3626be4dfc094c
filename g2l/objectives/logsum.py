"""The Log-Sum distillation loss of G2L. Letters: `R` rows, `D` width."""

import math

import torch
from torch import Tensor, nn

from g2l.objectives.collective import all_sum
from g2l.objectives.normalise import CohortMoments, batch_moments, standardise


def log_sum(
    student: Tensor, teacher: Tensor, alpha: float = 4.0, eps: float = 1e-5, across_ranks: bool = False
) -> Tensor:
    """Log of the summed |student - teacher|^alpha, minus log of the element count.

    Args:
        student: (R, D) normalised, projected student embeddings.
        teacher: (R, D) normalised teacher embeddings, no gradient.
        alpha: exponent, at least 1; larger ones let the worst elements carry the gradient.
        eps: added to the sum; without it identical features give -inf and a NaN gradient.
        across_ranks: sum over all processes. The log of a sum is not the mean of logs: without it, two processes
            with half the batch each optimise something else than one process with all of it.
    Returns:
        Scalar float32; 0 when the mean of |difference|^alpha is 1. In float16 the sum would overflow.
    Source: Miles and Mikolajczyk 2024 (Log-Sum); Cho et al. 2025, eq. 1. Theirs is not divided by the count: a
        constant that changes no gradient and makes values comparable between widths and batches.
    """
    total = (student.float() - teacher.float()).abs().pow(alpha).sum()
    count = total.new_full((), student.numel())  # filled on the device: copied there, a GPU would be waited for
    if across_ranks:
        total, count = all_sum(total), all_sum(count)
    return torch.log(total + eps) - torch.log(count)


class LogSumLoss(nn.Module):
    """Both sides standardised without affine parameters, then `log_sum`.

    default: the teacher by moments of the cohort, the student by those of the batch of all processes, the sum over
        all processes; 1 process with 2B images and 2 with B agree in value and gradient.
    faithful: as published. Both sides by the batch of this process, the sum over this process.
    """

    def __init__(self, width: int, alpha: float = 4.0, eps: float = 1e-5, faithful: bool = False) -> None:
        """Args: width D of the teacher's features; alpha, eps: see `log_sum`; ValueError when alpha < 1."""
        super().__init__()
        if not (math.isfinite(alpha) and alpha >= 1):
            raise ValueError(f"alpha is {alpha}; the log-sum loss needs an exponent of at least 1")
        self.alpha, self.eps, self.faithful = alpha, eps, faithful
        self.target = None if faithful else CohortMoments(width)

    def pair(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What is compared: both sides (R, D) standardised."""
        moments = batch_moments(teacher) if self.target is None else self.target.moments()
        return standardise(student, batch_moments(student, not self.faithful)), standardise(teacher, moments)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar loss of projected student features (R, D) and teacher features (R, D)."""
        return log_sum(*self.pair(student, teacher), self.alpha, self.eps, across_ranks=not self.faithful)
