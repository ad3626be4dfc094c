"""The teacher's logits -> probabilities: centred, lest one prototype win everywhere, and sharpened. `K` prototypes."""

import torch
from torch import Tensor, nn

from g2l.objectives.collective import all_sum


class Centring(nn.Module):
    """Softmax of (logits - centre) / temperature; the centre is a moving average of the mean logits of all processes.

    The centre moves in `step`, once per optimiser step, to the mean over all rows noted since the last: neither
    gradient accumulation nor unequal numbers of masked tokens on the processes changes it. Every process must call
    `step`, also one that noted nothing. What is noted between steps is in no checkpoint; at a step's end it is empty.

    Source: Caron et al. 2021 (DINO), eq. 4. Public code takes the mean of the processes' means, or of their counts.
    """

    centre: Tensor

    def __init__(self, width: int, momentum: float = 0.9) -> None:
        """Args: width: number of prototypes K; momentum: share of the old centre, in [0, 1), else ValueError."""
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"the momentum of the centre is {momentum}; it must be at least 0 and below 1")
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(width))
        self._sum: Tensor | None = None  # [K], of the rows noted since the last step
        self._rows = 0

    @torch.no_grad()
    def targets(self, logits: Tensor, temperature: float) -> Tensor:
        """Probabilities (..., K), float32 without gradient, of the teacher's logits (..., K); notes the logits."""
        logits = logits.float()
        rows = logits.flatten(0, -2)  # [R, K]
        # Not in place: logits made under inference mode could not be written to later.
        self._sum = rows.sum(0) if self._sum is None else self._sum + rows.sum(0)
        self._rows += len(rows)
        return ((logits - self.centre) / temperature).softmax(-1)

    @torch.no_grad()
    def step(self) -> None:
        """Move the centre by what all processes noted since the last call; without any row it stays where it is."""
        noted = torch.zeros_like(self.centre) if self._sum is None else self._sum
        # The count travels with the sum: one collective. It is filled in on the device, which a copy would wait for.
        total = all_sum(torch.cat([noted, noted.new_full((1,), self._rows)]))
        mean, rows = total[:-1] / total[-1].clamp(min=1), total[-1]
        self.centre += (1 - self.momentum) * (rows > 0) * (mean - self.centre)
        self._sum, self._rows = None, 0
