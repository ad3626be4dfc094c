"""iBOT: the student predicts what the teacher sees in the patches that are hidden from the student.

Letters: `M` masked tokens of all crops, `K` prototypes.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy


def ibot(student: Tensor, targets: Tensor, weights: Tensor, crops: int, temperature: float = 0.1) -> Tensor:
    """Cross-entropy over masked tokens, averaged within each masked crop, then over all global crops.

    Args:
        student: (M, K) logits of the student's tokens at the masked places.
        targets: (M, K) the teacher's probabilities at the same places, no gradient (objectives/centring.py).
        weights: (M,) for each token one over the number of masked tokens of its crop.
        crops: number of global crops of this process, masked or not.
        temperature: of the student.
    Returns:
        Scalar float32; 0, with a gradient of zeros, where no token is masked. A mean over crops: averaging over
        processes with equally many crops is exact, however many tokens each has masked.
    Source: Zhou et al. 2022 (iBOT); Ma et al. 2024 (GPFM). Crops without a mask count in the mean as in DINOv2's code,
        so that with half of the crops masked the value is half of the mean over masked crops.
    """
    losses = cross_entropy(student.float() / temperature, targets, reduction="none")  # [M]
    return (losses * weights).sum() / crops
