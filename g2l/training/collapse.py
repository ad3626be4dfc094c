"""Collapse of an embedding or of its targets, seen early. Letters: `R` rows, `D` width, `K` prototypes."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

AT_ONCE = 1024  # rows whose entropies are computed together: iBOT's targets take gigabytes


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


@torch.no_grad()
def target_use(targets: Tensor) -> dict[str, Tensor]:
    """How prototypes are used by the targets of one batch. targets: (R, K) probabilities; R at least 1.

    entropy: of a single target, mean over rows, in nats; entropy_share: divided by log K. 1: every target is uniform.
    usage: perplexity of the mean target: about how many prototypes are in use. 1: all rows name the same one.
    prototypes: how many have a mean share above a tenth of 1 / K.
    information: log(usage) - entropy, in nats: how much a target says about which row it belongs to, at most log R. It
        is 0 when all rows have the same target, be it uniform (entropy collapse) or one prototype (mode collapse), and
        therefore the one number to watch. It says nothing of a batch of one image.
    """
    rows, prototypes = targets.shape
    entropy = torch.cat([torch.special.entr(some.float()).sum(1) for some in targets.split(AT_ONCE)]).mean()
    mean = targets.sum(0, dtype=torch.float32) / rows  # [K]
    together = torch.special.entr(mean).sum()
    return {
        "entropy": entropy,
        "entropy_share": entropy / math.log(prototypes) if prototypes > 1 else entropy,
        "usage": together.exp(),
        "prototypes": (mean > 0.1 / prototypes).sum().float(),
        "information": (together - entropy).clamp_min(0),
    }
