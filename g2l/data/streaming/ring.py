"""Batches from worker processes without a copy: slots of shared memory, made once, filled and read where they are."""

import math
import weakref
from ctypes import c_uint8
from itertools import count
from multiprocessing import RawArray
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g2l.data.streaming.buffers import as_tensors
from g2l.errors import G2LError

LENT = 3  # batches that a training holds at once: the one in work, the next, and the last for pictures

_KEYS = count()
_RINGS: weakref.WeakValueDictionary[int, "Ring"] = weakref.WeakValueDictionary()


class Ring:
    """Made by the main process, which hands it to the workers it starts; each worker has slots of its own.

    A slot goes back to its worker when the last tensor over it is gone. When a user keeps so many that a worker would
    run short, batches are copied out instead, so that nobody ever waits for a user.
    """

    def __init__(self, workers: int, ahead: int, shape: tuple[int, ...]) -> None:
        """Args:
        workers: how many. ahead: batches that a worker has in work at once.
        shape: of a batch, uint8.
        """
        self._lent, self.shape = -(-LENT // workers), shape
        # besides: one on its way to the main process, and one that is just being handed over there
        self._slots = ahead + self._lent + 2
        # Files without a name in /dev/shm, or in the temporary folder where that is too small; zeroed, hence in memory.
        self._memory = RawArray(c_uint8, workers * self._slots * math.prod(shape))
        self._taken = RawArray(c_uint8, workers * self._slots)
        self._held = [set[int]() for _ in range(workers)]
        self.key = next(_KEYS)
        _RINGS[self.key] = self

    def images(self, slot: int) -> NDArray[np.uint8]:
        """The memory of a slot."""
        size = math.prod(self.shape)
        return np.frombuffer(memoryview(self._memory), np.uint8, size, slot * size).reshape(self.shape)

    def take(self, worker: int) -> int | None:
        """In a worker: the number of a slot that nobody uses, if there is one."""
        for slot in range(worker * self._slots, (worker + 1) * self._slots):
            if not self._taken[slot]:
                self._taken[slot] = 1
                return slot
        return None

    def lend(self, slot: int) -> Tensor:
        """In the main process: the images of a slot, to keep as long as one likes."""
        held = self._held[slot // self._slots]
        if len(held) >= self._lent:
            copied = np.empty(self.shape, np.uint8)
            self.copy(slot, copied)
            return torch.from_numpy(copied)
        view = self.images(slot)[...]
        held.add(slot)
        weakref.finalize(view, self._back, slot).atexit = False
        return torch.from_numpy(view)

    def copy(self, slot: int, to: NDArray[np.uint8]) -> None:
        """In the main process: copy the images of a slot, which goes back at once."""
        np.copyto(to, self.images(slot))
        self._taken[slot] = 0

    def _back(self, slot: int) -> None:
        # Called wherever the last name is dropped, also amid a garbage collection: it must take no lock.
        self._held[slot // self._slots].discard(slot)
        self._taken[slot] = 0


class Parcel:
    """What a worker sends: the number of a slot and the columns, or the error that ends its stream."""

    def __init__(
        self, ring: int = 0, slot: int = 0, columns: dict[str, Any] | None = None, error: G2LError | None = None
    ) -> None:
        self._ring, self._slot, self._columns, self._error = ring, slot, columns or {}, error

    def open(self) -> dict[str, Any]:
        """The batch. Raises the worker's error."""
        if self._error is not None:
            raise self._error
        return {"images": _RINGS[self._ring].lend(self._slot)} | as_tensors(self._columns)

    def pin_memory(self) -> "Parcel | dict[str, Any]":
        """The batch in memory that is pinned for copies to a GPU; DataLoader calls this in a thread of its own."""
        if self._error is not None:
            return self
        ring = _RINGS[self._ring]
        images = torch.empty(ring.shape, dtype=torch.uint8, pin_memory=True)
        ring.copy(self._slot, images.numpy())
        return {"images": images} | as_tensors(self._columns)


class Slots:
    """A worker's side of the ring: memory for its batches, as `buffers.Pool` gives it."""

    def __init__(self, ring: Ring, worker: int) -> None:
        self._ring, self._worker = ring, worker
        self._slots: dict[int, int] = {}  # by the address of their memory

    def take(self) -> Tensor | None:
        """Memory that nobody uses, if there is some."""
        slot = self._ring.take(self._worker)
        if slot is None:
            return None
        images = torch.from_numpy(self._ring.images(slot))
        self._slots[images.data_ptr()] = slot
        return images

    def deliver(self, images: Tensor, columns: dict[str, Any]) -> Parcel:
        """What goes to the main process for a batch."""
        return Parcel(self._ring.key, self._slots[images.data_ptr()], columns)
