"""What a training step is given. Letters: `B` images of this process, `S` pixels of a read patch."""

from typing import NotRequired, TypedDict

from torch import Tensor


class Batch(TypedDict):
    """What the loader delivers (the stream also says whence each patch is: data/stream.py)."""

    images: Tensor  # uint8 (B, S, S, 3)
    index: Tensor  # int64 (B,): the patches' numbers in the run
    slides: list[str]  # B names
    labels: NotRequired[list[str]]  # B classes, "" where none is known
    attempt: NotRequired[Tensor]  # int64 (B,): above 0 where a patch replaces another
