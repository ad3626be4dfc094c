"""The HDF5 file of one slide's embeddings, in the layout that CLAM and TRIDENT read. Letters: N patches, D width."""

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from g2l.slides.grid import Grid

FEATURES, COORDS, UM, KEY, FORMAT = "features", "coords", "um", "g2l_key", "g2l_format"
VERSION = 2  # the layout of evaluation/embedding/store.py
CHUNK_BYTES = 1 << 18
OVERHEAD_BYTES = 1 << 16  # of an HDF5 file, its attributes and its indices

State = Literal["absent", "done", "stale", "foreign"]


def write_features(
    file: Path,
    temporary: Path,
    key: str,
    grid: Grid,
    width: int,
    batches: Iterable[NDArray[np.float32]],
    about: Mapping[str, str | int | float],
) -> None:
    """Writes `features` (N, D) float32, `coords` (N, 2) int64 in px of level 0 and `um` (N, 2) float64, then renames.

    Args:
        temporary: name on the same disk under which the file grows.
        key: of all that the embeddings depend on (see `state`).
        width: D. batches: the rows in the order of the grid, some at a time.
        about: attributes of the file, of `coords` and of `um`.
    Raises:
        OSError: the disk is full or cannot be written; nothing is left then, and a former `file` stays.
    """
    import h5py

    count = len(grid.coords)
    chunk = max(1, min(count, CHUNK_BYTES // (4 * width)))
    require_room(temporary, (count + 2 * chunk) * (4 * width + 2 * 16) + count // chunk * 100 + OVERHEAD_BYTES)
    try:
        with h5py.File(temporary, "w") as content:
            # A checksum for each chunk: a damaged file is an error, not other numbers.
            rows = content.create_dataset(FEATURES, (count, width), "float32", chunks=(chunk, width), fletcher32=True)
            at = 0
            for batch in batches:
                rows[at : at + len(batch)] = batch
                at += len(batch)
            for name, column in ((COORDS, grid.coords), (UM, grid.um)):
                dataset = content.create_dataset(name, data=column, fletcher32=True, chunks=(chunk, 2))
                dataset.attrs.update(about)
            content.attrs.update({**about, KEY: key, FORMAT: VERSION})
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())  # a power failure after the rename must not leave an empty file of that name
        temporary.replace(file)
    except RuntimeError as error:  # HDF5's name for some failures of the disk
        raise OSError(" ".join(str(error).split())) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_room(file: Path, size: int) -> None:
    """OSError unless the disk (or the user's share of it) takes so many bytes at the place of `file`.

    HDF5 cannot close a file that a full disk cut short, nor tell so in one line: it must not come to that.
    """
    if shutil.disk_usage(file.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with file.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, size)  # which minds a user's quota too
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # not every file system can reserve
            raise
    finally:
        file.unlink(missing_ok=True)


def state(file: Path, keys: Iterable[str]) -> State:
    """What lies at `file`: features under one of these keys ("done"), ours under another or no readable HDF5 ("stale"),
    or an HDF5 that something else has written ("foreign").
    """
    import h5py

    if not file.is_file():
        return "absent"
    try:
        with h5py.File(file, "r", locking=False) as content:
            key, rows = content.attrs.get(KEY), content.get(FEATURES)
            if key is None:
                return "foreign"
            whole = rows is not None and COORDS in content and rows.shape[0] == content[COORDS].shape[0]  # type: ignore[union-attr]
            return "done" if key in set(keys) and whole else "stale"
    except (OSError, RuntimeError, KeyError, AttributeError):
        return "stale"


def count_of(file: Path) -> int:
    """How many patches a file that is done holds."""
    import h5py

    with h5py.File(file, "r", locking=False) as content:
        dataset: Any = content[FEATURES]
        return int(dataset.shape[0])
