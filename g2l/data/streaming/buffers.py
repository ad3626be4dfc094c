"""Memory for batches of one process. Fresh memory of 20 MB costs thousands of page faults, so it is used again."""

import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Pool:
    """Memory that comes back when the last tensor over it is gone, however long a user keeps a batch."""

    def __init__(self, shape: tuple[int, ...], keep: int, pin: bool = False) -> None:
        """Args:
        shape: of the tensors, uint8.
        keep: how many may lie unused.
        pin: for copies to a GPU. PyTorch then does the recycling: it alone knows when a copy has ended.
        """
        self._shape, self._pin = shape, pin
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=keep)

    def take(self) -> Tensor:
        """Memory that nobody uses; its content is arbitrary."""
        if self._pin:
            return torch.empty(self._shape, dtype=torch.uint8, pin_memory=True)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._shape, np.uint8)
        # The tensor keeps this view alive, and every slice of the tensor keeps the tensor's storage.
        view = memory[...]
        weakref.finalize(view, self._free.append, memory).atexit = False
        return torch.from_numpy(view)

    def deliver(self, images: Tensor, columns: dict[str, Any]) -> dict[str, Any]:
        """A batch as it is used: arrays as tensors."""
        return {"images": images} | as_tensors(columns)


def as_tensors(columns: dict[str, Any]) -> dict[str, Any]:
    """The columns with tensors for arrays."""
    return {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in columns.items()}
