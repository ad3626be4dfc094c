"""Mean squared error, against features as they are or in their PHI-S form."""

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from g2l.objectives.phis import PhiS


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows and dimensions of (student - teacher)^2.

    Args:
        student: (R, D) projected student features.
        teacher: (R, D) teacher features, no gradient.
    Returns:
        Scalar float32; about 1 for a student that always says 0, where targets have variance 1. A mean over images:
        averaging over processes is exact.
    """
    return mse_loss(student.float(), teacher.float())


class MSELoss(nn.Module):
    """`mse` against raw targets, or against targets in their PHI-S form.

    A rotation changes no squared distance: for a linear head PHI-S is a scale for the whole teacher, and what it
    gains is that every teacher and every output starts alike. Source: Ranzinger et al. 2024 (PHI-S).
    """

    def __init__(self, width: int, standardised: bool = True) -> None:
        """Args: width D of the teacher's features; standardised: PHI-S, for which a few odd widths are a ValueError."""
        super().__init__()
        self.target = PhiS(width) if standardised else None

    def pair(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What is compared: student and teacher features (R, D), the latter in their PHI-S form."""
        return student, teacher if self.target is None else self.target(teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar loss of projected student features (R, D) and teacher features (R, D)."""
        return mse(*self.pair(student, teacher))
