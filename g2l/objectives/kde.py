"""KDE: low density at every embedding, in place of KoLeo. Letters: `B` rows of this process, `N` of all, `D` width."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from g2l.objectives.collective import all_rows, rank


def kde(x: Tensor, kappa: float = 5.0, across_ranks: bool = True) -> Tensor:
    """Mean over the rows of log mean over the other rows of exp(kappa * cosine): descent spreads the rows.

    It is minus the entropy estimated with a von Mises-Fisher kernel, up to the kernel's constant. Every gradient is
    bounded by kappa, also between duplicates, where KoLeo's has no bound.

    Args:
        x: (B, D) embeddings of one view; two views of an image are meant to be near, so give each view by itself.
        kappa: concentration of the kernel, above 0.
        across_ranks: compare with the rows of all processes, which must have equally many. Each process returns the
            mean over its own rows: value and gradient averaged over processes are those of one with all rows.
    Returns:
        Scalar float32 in [-kappa, kappa]; kappa for identical rows; 0, with a gradient of zeros, for a single row.
    Raises:
        ValueError: kappa is not above 0.
    Source: Zimmermann et al. 2024 (Virchow2), Karasikov et al. 2025 (Midnight), kappa 5. A public replication
        minimises the entropy, which gathers the rows. Replications also count each row as its own neighbour: exp(kappa)
        in every density, which outweighs the other rows of a small batch.
    """
    if not kappa > 0:
        raise ValueError(f"kappa is {kappa}; the kernel's concentration must be above 0")
    with torch.autocast(x.device.type, enabled=False):
        own = normalize(x.float(), dim=-1)
        rows = all_rows(own) if across_ranks else own  # [N, D]
        if len(rows) < 2:
            return own.sum() * 0
        first = rank() * len(own) if across_ranks else 0
        index = torch.arange(len(own), device=x.device)
        itself = torch.zeros(len(own), len(rows), dtype=torch.bool, device=x.device)
        itself[index, first + index] = True
        kernel = (kappa * own @ rows.T).masked_fill(itself, -torch.inf)  # [B, N], logarithms
        return (kernel.logsumexp(1) - math.log(len(rows) - 1)).mean()
