"""KoLeo: the distance to the nearest neighbour in the batch must not vanish. Letters: `B` rows, `D` width."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def koleo(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Minus the mean log of each row's distance to its nearest other row, on the unit sphere.

    Args:
        x: (B, D) embeddings of one view; two views of an image are meant to be near, so give each view by itself.
        eps: added to the distance; identical rows give -log(eps) and a gradient of zero.
    Returns:
        Scalar float32; 0, with a gradient of zeros, for a single row. Its gradient grows as 1 / distance, so
        near-duplicates of tissue shake it; objectives/kde.py is the bounded alternative. The neighbours are those
        given, so the value depends on how a batch is split over processes.
    Source: Sablayrolles et al. 2019; Oquab et al. 2024 (DINOv2). Theirs adds eps to every component of the
        difference too, which for identical rows is a direction without meaning and 1 / eps long.
    """
    # Neighbours are told apart by the last digits of the cosine, which bfloat16 does not have.
    with torch.autocast(x.device.type, enabled=False):
        x = normalize(x.float(), dim=-1)
        if len(x) < 2:
            return x.sum() * 0
        with torch.no_grad():
            cosines = x @ x.T  # [B, B]
            nearest = cosines.fill_diagonal_(-torch.inf).argmax(1)
        return -torch.log((x - x[nearest]).norm(dim=-1) + eps).mean()
