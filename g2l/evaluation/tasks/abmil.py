"""Attention-based multiple-instance learning, and the loop that trains it for classes and for hazards.

Letters: m patches of a bag, D width of their embeddings, C outputs, U units (bags).
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from g2l.errors import TrainingError
from g2l.evaluation.tasks.bags import Bags

HIDDEN, ATTENTION, DROPOUT = 512, 128, 0.25
RATE, DECAY = 2e-4, 1e-4


class ABMIL(nn.Module):
    """Linear D-512, ReLU, dropout; attention 512-128, tanh, 1, softmax over the bag; Linear 512-C of the weighted mean.

    Source: Ilse et al. 2018, without the gate; widths, dropout and optimiser as in GPFM's benchmark.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT))
        self.attend = nn.Sequential(nn.Linear(HIDDEN, ATTENTION), nn.Tanh(), nn.Linear(ATTENTION, 1))
        self.read = nn.Linear(HIDDEN, outputs)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """bag: (m, D). Returns logits (C,) and the attention over the patches (m,), which sums to 1."""
        hidden = self.project(bag)  # [m, 512]
        attention = self.attend(hidden)[:, 0].softmax(dim=0)  # [m]
        return self.read(attention @ hidden), attention


class Fitted(NamedTuple):
    """A trained model, and what an outcome says of the training (plain JSON)."""

    model: ABMIL
    chosen: dict[str, Any]
    notes: list[str]


def fit(
    bags: Bags,
    outputs: int,
    loss: Callable[[Tensor, int], Tensor],
    train: Sequence[int],
    val: Sequence[int],
    *,
    draw: NDArray[np.float64] | None = None,
    epochs: int = 100,
    patience: int = 10,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """Adam (2e-4, weight decay 1e-4), one bag per step; the weights of the epoch with the least validation loss stay.

    With one seed, one device and one number of threads the result is the same to the last bit.

    Args:
        loss: logits (C,) and the number of a unit -> scalar.
        train, val: numbers of units.
        draw: (len(train),) weights with which units are drawn with replacement, as many as there are; None: every unit
            once an epoch.
        epochs: at most. patience: epochs without a smaller validation loss after which it ends.
    Raises:
        TrainingError: the loss is not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    numbers = np.asarray(train)
    weights = None if draw is None else torch.from_numpy(np.asarray(draw, np.float64))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model = ABMIL(bags[int(numbers[0])].shape[1], outputs).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=DECAY)
        best, best_epoch, kept, epoch = math.inf, 0, copy.deepcopy(model.state_dict()), 0
        while epoch < epochs and epoch - best_epoch < patience:
            epoch += 1
            count = len(numbers)
            order = torch.randperm(count) if weights is None else torch.multinomial(weights, count, replacement=True)
            model.train()
            for unit in numbers[order.numpy()].tolist():
                optimizer.zero_grad()
                value = loss(model(_tensor(bags[unit], device))[0], unit)
                value.backward()
                optimizer.step()
            model.eval()
            with torch.inference_mode():
                losses = [float(loss(model(_tensor(bags[unit], device))[0], unit)) for unit in val]
            current = sum(losses) / len(losses)
            if not math.isfinite(current):
                raise TrainingError(
                    f"ABMIL: the validation loss is {current} in epoch {epoch}; look at the size of the embeddings"
                )
            if current < best:
                best, best_epoch, kept = current, epoch, copy.deepcopy(model.state_dict())
            say(f"ABMIL: epoch {epoch} of at most {epochs}, validation loss {current:.4f} (least {best:.4f})")
    model.load_state_dict(kept)
    chosen = {"epoch": best_epoch, "epochs run": epoch, "least validation loss": best, "on": "validation loss"}
    late = epoch == epochs and epoch - best_epoch < patience
    notes = [f"ABMIL: stopped after {epochs} epochs, before the validation loss had settled"] if late else []
    return Fitted(model.eval(), chosen, notes)


def predict(model: ABMIL, bags: Bags, units: Sequence[int]) -> tuple[Tensor, list[NDArray[np.float64]]]:
    """Logits (len(units), C) on the CPU, and of each unit the attention (m,) over its patches."""
    device = next(model.parameters()).device
    logits, attention = [], []
    with torch.inference_mode():
        for unit in units:
            one, weights = model(_tensor(bags[unit], device))
            logits.append(one.cpu())
            attention.append(weights.cpu().double().numpy())
    return torch.stack(logits), attention


def balanced(labels: NDArray) -> NDArray[np.float64]:
    """(U,) weights with which every class is drawn as often as any other."""
    _, code, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1.0 / counts[code]


def _tensor(bag: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(bag, np.float32)).to(device)
