"""DINO: every crop of the student predicts what the teacher sees in the other global crops.

Letters: `V` crops of the student, `T` global crops of the teacher, `B` images, `K` prototypes.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy


def dino(student: Tensor, targets: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean cross-entropy of softmax(student / temperature) with the teacher's probabilities, over pairs and images.

    Args:
        student: (V, B, K) logits of the student's crops, the T global ones first.
        targets: (T, B, K) the teacher's probabilities of the global crops, no gradient (objectives/centring.py).
        temperature: of the student.
    Returns:
        Scalar float32, the mean over V * T - T pairs (18 with two global and eight local crops): a student's crop is
        never compared with the teacher's view of the same crop. A mean over images: averaging over processes is exact.
    Raises:
        ValueError: fewer crops of the student than of the teacher, or no pair at all.
    Source: Caron et al. 2021 (DINO), eq. 3; the normaliser of the two parts together as in Ma et al. 2024 (GPFM).
    """
    crops, teachers, images = len(student), len(targets), student.shape[1]
    pairs = crops * teachers - teachers
    if crops < teachers or pairs == 0:
        raise ValueError(f"dino needs a pair of different crops; the student has {crops}, the teacher {teachers}")
    # Cross-entropy is linear in the target: one pass for all teachers of a crop. One crop after the other, because the
    # float32 intermediates of all crops at once would be the largest tensors of the step.
    every = targets.sum(0)  # [B, K]
    total = student.new_zeros((), dtype=every.dtype)
    for v, logits in enumerate(student):
        others = every if v >= teachers else every - targets[v]
        total = total + cross_entropy(logits.float() / temperature, others, reduction="sum")
    return total / (pairs * images)
