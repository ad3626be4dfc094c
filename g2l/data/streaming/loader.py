"""The DataLoader of a stream of patches."""

import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from g2l.data.stream import PatchStream
from g2l.data.streaming.ring import Parcel, Ring


class PatchLoader(DataLoader[dict[str, Any]]):
    """A DataLoader whose workers fill shared memory that is used again, instead of sending each batch through a pipe.

    An error in a worker is raised here as it was raised there.
    """

    def __init__(self, dataset: PatchStream, num_workers: int = 0, pin_memory: bool = False) -> None:
        """Args: num_workers: processes that read; 0 reads in this one. pin_memory: for copies to a GPU."""
        dataset.pin = pin_memory
        super().__init__(
            dataset,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin_memory and num_workers > 0,
            collate_fn=_as_it_is,
            worker_init_fn=_apart,
            # the stream itself works ahead
            prefetch_factor=1 if num_workers else None,
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield the batches of `PatchStream`, in its order."""
        stream = self.dataset
        assert isinstance(stream, PatchStream)
        # Each iteration has a ring of its own, which lives as long as it: two may be under way at once.
        ring = stream.ring = Ring(self.num_workers, stream.prefetch + 1, stream.shape) if self.num_workers else None
        try:
            batches = super().__iter__()  # the workers start here
        finally:
            stream.ring = None
        try:
            # `map` holds no batch while it is in use.
            yield from map(_opened, batches)
        finally:
            del ring


def _apart(worker: int) -> None:
    # Ctrl-C, and a scheduler's SIGTERM to a whole job, then reach the training process alone, which stops its workers
    # once it has saved; torch would raise for a worker's death wherever it is.
    os.setpgid(0, 0)


def _as_it_is(batch: Any) -> Any:
    return batch


def _opened(batch: Parcel | dict[str, Any]) -> dict[str, Any]:
    return batch.open() if isinstance(batch, Parcel) else batch
