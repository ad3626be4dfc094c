"""Cosine distance with a share of smooth L1: the regression loss of RADIO, UNIC, Theia and GPFM's patch tokens."""

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from g2l.objectives.normalise import CohortMoments, standardise


def cosine_smooth_l1(student: Tensor, teacher: Tensor, smooth: float = 0.1, beta: float = 1.0) -> Tensor:
    """(1 - smooth) * (1 - mean cosine of rows) + smooth * SmoothL1(mean over elements).

    Args:
        student: (R, D) projected student features.
        teacher: (R, D) teacher features, no gradient.
        smooth: share of the smooth L1 part, in [0, 1].
        beta: difference at which smooth L1 passes from quadratic to linear.
    Returns:
        Scalar float32; 0 for identical features. A mean over images: averaging over processes is exact.
    Source: Ranzinger et al. 2024 (AM-RADIO), eq. 2-3; Ma et al. 2024 (GPFM).
    """
    student, teacher = student.float(), teacher.float()
    angle = 1 - cosine_similarity(student, teacher, dim=-1).mean()
    return (1 - smooth) * angle + smooth * smooth_l1_loss(student, teacher, beta=beta)


class CosineLoss(nn.Module):
    """`cosine_smooth_l1` against raw targets, or against targets standardised by the cohort's moments."""

    def __init__(self, width: int, smooth: float = 0.1, beta: float = 1.0, standardised: bool = True) -> None:
        """Args: width D of the teacher's features; smooth, beta: see `cosine_smooth_l1`; ValueError out of range."""
        super().__init__()
        if not 0 <= smooth <= 1 or beta <= 0:
            raise ValueError(f"smooth is {smooth} and beta {beta}; they must lie in [0, 1] and above 0")
        self.smooth, self.beta = smooth, beta
        self.target = CohortMoments(width) if standardised else None

    def pair(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What is compared: student and (standardised) teacher features (R, D)."""
        return student, teacher if self.target is None else standardise(teacher, self.target.moments())

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar loss of projected student features (R, D) and teacher features (R, D)."""
        return cosine_smooth_l1(*self.pair(student, teacher), self.smooth, self.beta)
