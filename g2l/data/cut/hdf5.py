"""HDF5 files of patches, one per slide, as CLAM, TRIDENT or HEST write them: pixels, or encoded images.

h5py takes one lock for all files of a process, so that threads read in turn. Reading 150 kB of plain pixels takes
12-20 us of it, which does not matter; unpacking gzip takes 560 us and chunks that h5py shaped itself (across patches)
1.2 ms, and such files profit from worker processes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from g2l.data.cut.stores import Listing
from g2l.data.cut.text import coded, joined
from g2l.data.kept import Kept

SUFFIXES = frozenset({".h5", ".hdf5"})
DATASETS = ("imgs", "images", "patches", "img")
OPEN_FILES = 64


class _Handle(NamedTuple):
    file: h5py.File  # closes with its last name
    images: h5py.Dataset


class Hdf5Files:
    """Patches within HDF5 files."""

    def __init__(self, root: Path, files: Sequence[str], file: NDArray[np.int32], item: NDArray[np.int32]) -> None:
        """Args:
        files: paths relative to `root`.
        file, item: of each patch its file's number and its place in the dataset.
        """
        self._root, self._files, self._file, self._item = root, list(files), file, item
        self._open: Kept[str, _Handle] = Kept(_open, OPEN_FILES)

    def __len__(self) -> int:
        return len(self._file)

    @property
    def names(self) -> pa.StringArray:
        """As `Store.names`: file/number."""
        return joined(self._files, self._file, pa.array(self._item).cast(pa.string()))

    def name(self, row: int) -> str:
        """As `Store.name`."""
        return f"{self._files[self._file[row]]}/{self._item[row]}"

    def place(self, row: int) -> Path:
        """As `Store.place`."""
        return self._root / self._files[self._file[row]]

    def load(self, row: int) -> bytes | NDArray[np.uint8]:
        """As `Store.load`."""
        path = str(self.place(row))
        try:
            handle = self._open.get(path)  # a name, or another thread could have it closed meanwhile
            item = handle.images[int(self._item[row])]
        except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:  # as h5py has it
            self._open.forget(path)  # the handle itself may be what failed
            raise ValueError(str(error)) from error
        # pixels; or encoded images as an array of bytes, an opaque value, or a string of fixed length
        return item if item.ndim == 3 else item.tobytes()

    def take(self, rows: NDArray[np.int64]) -> "Hdf5Files":
        """As `Store.take`."""
        return Hdf5Files(self._root, self._files, self._file[rows], self._item[rows])


def list_hdf5(root: Path, paths: Sequence[str]) -> Listing:
    """Args: paths: relative to `root`, sorted. The `slide` of a patch is its file's name without the suffix."""
    lengths: list[int] = []
    problems: list[str] = []
    for path in paths:
        try:
            lengths.append(len(_open(str(root / path)).images))
        except (OSError, ValueError) as error:
            lengths.append(0)
            problems.append(f"{path}: {error}")
    file = np.repeat(np.arange(len(paths), dtype=np.int32), lengths)
    item = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    return Listing(Hdf5Files(root, paths, file, item), {"slide": coded([Path(p).stem for p in paths], file)}, problems)


def _open(path: str) -> _Handle:
    # locking=False: nothing is written, and many network mounts know no locks
    file = h5py.File(path, "r", locking=False)
    found = {name: dataset for name in DATASETS if isinstance(dataset := file.get(name), h5py.Dataset)}
    if not found and "coords" in file:
        raise ValueError(
            "holds coordinates only, no pixels; index the slides they belong to (g2l index SLIDES --out COHORT) and "
            "give that cohort"
        )
    if not found:
        held = ", ".join(list(file)[:5]) or "nothing"
        raise ValueError(f"has none of the datasets {', '.join(DATASETS)} (it has: {held}); rename the one of patches")
    name, images = next(iter(found.items()))
    if not _pixels(images) and not _encoded(images):
        raise ValueError(
            f"{name} is {images.dtype} {images.shape}; it must be uint8 (N, height, width, 3), or N encoded images "
            "as uint8 of variable length, opaque or bytes"
        )
    return _Handle(file, images)


def _pixels(images: h5py.Dataset) -> bool:
    return images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3


def _encoded(images: h5py.Dataset) -> bool:
    return images.ndim == 1 and (images.dtype.kind in "SV" or h5py.check_vlen_dtype(images.dtype) == np.uint8)
