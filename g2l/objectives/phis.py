"""PHI-S: features rotated so that one scale standardises every dimension. Letters: `R` rows, `D` width."""

from typing import Any

import torch
from torch import Tensor

from g2l.objectives.collective import from_first
from g2l.objectives.hadamard import hadamard
from g2l.objectives.normalise import CohortMoments, Moments


class PhiS(CohortMoments):
    """Mean and covariance of a teacher's features over the cohort, and the PHI-S transform that follows from them.

    y = H U^T (x - mean) / phi, with the covariance U diag(l) U^T, phi^2 the mean of l, and H orthogonal with entries
    of equal size: each output mixes all principal directions alike, so each has variance 1, while distances keep
    their ratios. Standardising dimension by dimension distorts them, and whitening divides by directions of noise.

    The transform is fixed at first use and kept in the checkpoint: eigenvectors found again elsewhere may point the
    other way, and the student's head has learnt these.

    Source: Ranzinger et al. 2024 (PHI-S).
    """

    transform: Tensor

    def __init__(self, width: int) -> None:
        """Empty moments of features with `width` dimensions; ValueError for a width without Hadamard matrix."""
        super().__init__(width)
        hadamard(width)
        self.m2 = torch.zeros(width, width, dtype=torch.float64)
        self.register_buffer("transform", torch.zeros(width, width))
        self._found = False

    def _squares(self, x: Tensor) -> Tensor:
        return x.T @ x

    def update(self, x: Tensor) -> None:
        """Add the rows of `x` (R, D) of all processes; the transform is to be found anew."""
        super().update(x)
        self.transform.zero_()
        self._found = False

    def moments(self) -> Moments:
        """Mean and variance of each dimension; RuntimeError before the first update."""
        self._require_ready()
        return Moments(self.mean.float(), (self.m2.diagonal() / self.rows).float())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """PHI-S features (R, D), float32, of raw ones (R, D); RuntimeError before the first update."""
        self._require_ready()
        if not self._found:
            if not self.transform.any():  # else it came with a checkpoint
                self.transform.copy_(from_first(self._find()))
            self._found = True
        with torch.autocast(x.device.type, enabled=False):
            return (x.float() - self.mean.float()) @ self.transform.T

    def _find(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.m2 / self.rows)
        rotation = hadamard(len(values)).to(vectors.device) / len(values) ** 0.5 @ vectors.T
        # Features without any spread are mapped to zero.
        return (rotation * values.mean().clamp(min=1e-12).rsqrt()).to(self.transform.dtype)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._found = False
