"""Decoders of frozen patch tokens into classes of pixels, and how they are fitted.

Letters: B images, `h` x `w` tokens of width P, K codes (background and the classes), S px of a mask's side.
"""

import copy
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from g2l.evaluation.tables.annotations import IGNORED

Rows = NDArray[np.int64]
# of the convolutional decoder: after the projection, and after each doubling of the grid
WIDTHS = (128, 64, 32, 32)


class Decoder(nn.Module):
    """Standardised tokens -> logits on a grid -> logits of pixels."""

    mean: Tensor
    scale: Tensor

    def __init__(self, head: nn.Module, mean: Tensor, scale: Tensor) -> None:
        """Args: head: (B, P, h, w) -> (B, K, any, any). mean, scale: (P,) of the training tokens."""
        super().__init__()
        self.head = head
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        """Tokens (B, h, w, P) -> logits (B, K, side, side), bilinear from the head's grid."""
        logits = self.head(((tokens - self.mean) / self.scale).permute(0, 3, 1, 2))
        down, right = (_bilinear(size, side).to(logits) for size in logits.shape[-2:])
        return down.T @ logits @ right


@cache
def _bilinear(size: int, side: int) -> Tensor:
    """(size, side): as a product of matrices, bilinear resizing has a deterministic gradient on a GPU too."""
    return F.interpolate(torch.eye(size)[None], side, mode="linear", align_corners=False)[0]


def linear_head(width: int, codes: int) -> nn.Module:
    """A logistic regression on each token: P -> K."""
    return nn.Conv2d(width, codes, 1)


def convolutional_head(width: int, codes: int) -> nn.Module:
    """Three blocks that double the grid by pixel shuffling (Shi et al. 2016); .5 M parameters at P 1024."""
    blocks: list[nn.Module] = [nn.Conv2d(width, WIDTHS[0], 1), nn.GroupNorm(8, WIDTHS[0]), nn.GELU()]
    for into, out in pairwise(WIDTHS):
        blocks += [nn.Conv2d(into, 4 * out, 3, padding=1), nn.PixelShuffle(2), nn.GroupNorm(8, out), nn.GELU()]
    return nn.Sequential(*blocks, nn.Conv2d(WIDTHS[-1], codes, 1))


HEADS: dict[str, Callable[[int, int], nn.Module]] = {"linear": linear_head, "convolutional": convolutional_head}


def overlap_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy, every judged pixel the same, plus 1 - soft Dice, every class in the batch the same.

    Soft Dice of a class = (2 sum p y + 1) / (sum p + sum y + 1) over the judged pixels of the batch (Milletari et al.
    2016, without squares): it keeps rare classes from being given up, in place of weights in the cross-entropy.

    Args:
        logits: (B, K, S, S).
        truth: (B, S, S) codes; pixels of 255 count in neither.
    Returns:
        Scalar; 0 at best; 0 where no pixel is judged.
    """
    judged = truth != IGNORED
    # a product with one-hot codes: gathering has no deterministic gradient on a GPU
    wanted = F.one_hot(torch.where(judged, truth, 0).long(), logits.shape[1]).movedim(-1, 1) * judged[:, None]
    logp = logits.log_softmax(dim=1)
    entropy = -(wanted * logp).sum() / judged.sum().clamp(min=1)
    p, y = logp.exp() * judged[:, None], wanted.to(logits.dtype)
    dice = (2 * (p * y).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + y.sum((0, 2, 3)) + 1)  # (K,)
    there = y.sum((0, 2, 3)) > 0
    there[0] &= not bool(there[1:].any())  # background has no Dice, unless there is nothing else
    return entropy + ((1 - dice) * there).sum() / there.sum().clamp(min=1)


class Training(NamedTuple):
    """How a decoder is fitted.

    Attributes:
        epochs: at most. patience: epochs without a better Dice on val before it ends.
        batch_size: images. lr, weight_decay: of AdamW.
    """

    epochs: int
    patience: int
    batch_size: int
    lr: float
    weight_decay: float


class Fitted(NamedTuple):
    """A decoder at its best epoch, and the Dice on val after each."""

    decoder: Decoder
    epoch: int
    dice: list[float]


def fit_decoder(
    head: Callable[[int, int], nn.Module],
    codes: int,
    rows: Rows,
    tokens: Callable[[Rows], NDArray[np.float32]],
    targets: Callable[[Rows], NDArray[np.uint8]],
    score: Callable[[Decoder], float],
    training: Training,
    seed: int,
    device: torch.device,
    report: Callable[[str], None],
) -> Fitted:
    """Fit on `rows`, keep the epoch of the best score; the same numbers give the same decoder.

    Args:
        head: (P, K) -> the head. codes: K.
        tokens, targets: of some of `rows`: (B, h, w, P), and (B, S, S) codes. No more than a batch is in memory.
        score: Dice on val.
    """
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        torch.manual_seed(seed)
        mean, scale = _moments(tokens, rows, training.batch_size)
        decoder = Decoder(head(len(mean), codes), mean, scale).to(device)
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=training.lr, weight_decay=training.weight_decay)
        best, dice = copy.deepcopy(decoder.state_dict()), []
        for epoch in range(training.epochs):
            decoder.train()
            order = generator.permutation(rows)
            for first in range(0, len(order), training.batch_size):
                # ascending: a batch is read from its files from front to back
                batch = np.sort(order[first : first + training.batch_size])
                truth = torch.from_numpy(targets(batch)).to(device)
                logits = decoder(torch.from_numpy(tokens(batch)).to(device), truth.shape[-1])
                optimizer.zero_grad(set_to_none=True)
                overlap_loss(logits, truth).backward()
                optimizer.step()
            decoder.eval()
            dice.append(score(decoder))
            report(f"epoch {epoch + 1} of {training.epochs}, Dice on val {dice[-1]:.3f}")
            leader = int(np.argmax(dice))
            if leader == epoch:
                best = copy.deepcopy(decoder.state_dict())
            elif epoch - leader >= training.patience:
                break
    decoder.load_state_dict(best)
    return Fitted(decoder.eval(), int(np.argmax(dice)) + 1, dice)


@torch.inference_mode()
def predict(decoder: Decoder, tokens: NDArray[np.float32], side: int, device: torch.device) -> NDArray[np.uint8]:
    """Codes (B, side, side) of tokens (B, h, w, P)."""
    logits = decoder(torch.from_numpy(tokens).to(device), side)
    return logits.argmax(dim=1).to(torch.uint8).cpu().numpy()


def _moments(tokens: Callable[[Rows], NDArray[np.float32]], rows: Rows, batch_size: int) -> tuple[Tensor, Tensor]:
    """(P,) mean and standard deviation of the training tokens; a constant feature has scale inf and says nothing."""
    count, total, squares, largest = 0, 0.0, 0.0, 0.0
    for first in range(0, len(rows), batch_size):
        flat = tokens(rows[first : first + batch_size])
        flat = flat.reshape(-1, flat.shape[-1]).astype(np.float64)
        count += len(flat)
        total, squares = total + flat.sum(axis=0), squares + (flat**2).sum(axis=0)
        largest = np.maximum(largest, np.abs(flat).max(axis=0))
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    scale = np.where(deviation > 1e-6 * largest, deviation, np.inf)
    return torch.from_numpy(mean).float(), torch.from_numpy(scale).float()
