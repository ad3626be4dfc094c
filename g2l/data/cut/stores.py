"""Where patches that were cut already lie: what the three kinds of stores have in common, and image files as one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from g2l.data.cut.text import coded

# What a manifest, or the notes beside a patch in a tar shard, can say of it.
KNOWN = ("slide", "patient", "group", "centre", "label", "mpp")


class Store(Protocol):
    """Encoded images or pixels by row. Picklable; opens nothing before the first `load`; safe for threads."""

    def __len__(self) -> int: ...

    @property
    def names(self) -> pa.StringArray:
        """What messages and manifests call each patch: its path below the folder, with "/"."""
        ...

    def name(self, row: int) -> str:
        """One of `names`."""
        ...

    def place(self, row: int) -> Path:
        """The file that holds the patch; for image files their folder."""
        ...

    def load(self, row: int) -> bytes | NDArray[np.uint8]:
        """An encoded image, or pixels (H, W, 3).

        Raises:
            OSError, ValueError: it cannot be read.
        """
        ...

    def take(self, rows: NDArray[np.int64]) -> Self:
        """A store of these rows alone."""
        ...


class Listing(NamedTuple):
    """What was found: a store, the columns known of its rows without a manifest, and what is wrong, one line each."""

    store: Store
    columns: dict[str, pa.DictionaryArray]
    problems: list[str]


class ImageFiles:
    """JPEG and PNG files below a folder."""

    def __init__(self, root: Path, paths: pa.StringArray) -> None:
        """Args: paths: relative to `root`, with "/"."""
        self._root, self._paths = str(root), paths

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def names(self) -> pa.StringArray:
        """As `Store.names`."""
        return self._paths

    def name(self, row: int) -> str:
        """As `Store.name`."""
        return self._paths[row].as_py()

    def place(self, row: int) -> Path:
        """As `Store.place`."""
        return Path(self._root, self.name(row)).parent

    def load(self, row: int) -> bytes:
        """As `Store.load`."""
        with open(os.path.join(self._root, self.name(row)), "rb", buffering=0) as file:  # noqa: PTH118, PTH123  cheaper than Path
            return file.readall()

    def take(self, rows: NDArray[np.int64]) -> "ImageFiles":
        """As `Store.take`."""
        return ImageFiles(Path(self._root), self._paths.take(pa.array(rows)))


def list_images(root: Path, paths: Sequence[str]) -> Listing:
    """Args: paths: relative to `root`, sorted. The `slide` of an image is the name of the folder that holds it."""
    folders: dict[str, int] = {}
    codes = np.fromiter((folders.setdefault(path.rpartition("/")[0], len(folders)) for path in paths), np.int32)
    slides = coded([folder.rpartition("/")[2] or root.name for folder in folders], codes)
    return Listing(ImageFiles(root, pa.array(paths, pa.string())), {"slide": slides}, [])
