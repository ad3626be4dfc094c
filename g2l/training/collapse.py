"""Collapse of an embedding, seen early. Letters: `R` rows, `D` width."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def spread(x: Tensor) -> dict[str, float]:
    """How much of its space an embedding uses. x: (R, D).

    embedding_std: mean over dimensions of the standard deviation of L2-normalised rows, times sqrt(D): 1 for rows
        spread evenly over the sphere, 0 when all rows are equal.
    embedding_rank: exponential of the entropy of the normalised singular values of the centred rows (Roy and Vetterli
        2007; RankMe adds nothing but a name): the number of directions in use.
    """
    unit = normalize(x.float(), dim=-1)
    singular = torch.linalg.svdvals((x - x.mean(0)).double())
    share = singular / singular.sum().clamp_min(1e-12)
    rank = torch.exp(-(share * share.clamp_min(1e-12).log()).sum())
    return {
        "embedding_std": float(unit.std(0).mean() * x.shape[1] ** 0.5),
        "embedding_rank": float(rank),
    }
