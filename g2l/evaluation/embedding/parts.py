"""A part: what one file of embeddings is to hold, and how its pixels are read. Letters: n images of a part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.embedding.digests import digest_of, plain


@dataclass(frozen=True, eq=False)
class Part:
    """n images, or the patches of one slide.

    Attributes:
        file: name of its file.
        key: SHA-256 of encoder, transform and content; a file with another key is not this part.
        ids: of the images (n), for messages; of a slide's patches its name alone (1).
        read: number within the part -> (H, W, 3) uint8; called from threads.
        count: n.
        columns: further datasets of n rows (`coords`, `um`).
        about: attributes of the file, and of `coords`.
        contents: digests of the images (n), by which they are found again whatever else is asked for; none of a
            slide's patches, which stay together.
    """

    file: str
    key: str
    ids: Sequence[str]
    read: Callable[[int], NDArray[np.uint8]]
    count: int
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    contents: Sequence[str] = ()

    def name(self, k: int) -> str:
        """What image k is called in a message."""
        return self.ids[k] if len(self.ids) == self.count else f"{self.ids[0]} (patch {k})"


def part_key(encoder: str, transform: Mapping[str, Any], *content: str) -> str:
    """The key of a part.

    Args:
        encoder: its digest. transform: how images reach it, plain values. content: digests of the data.
    """
    return digest_of(encoder, plain(transform), *content)


def share(parts: Sequence[Part], rank: int, world: int) -> list[Part]:
    """The parts of one process of `world`: the largest first, each to whoever has the least."""
    loads = [0] * world
    mine: list[Part] = []
    for part in sorted(parts, key=lambda one: (-one.count, one.file)):
        taker = loads.index(min(loads))
        loads[taker] += part.count
        if taker == rank:
            mine.append(part)
    return mine
