"""The test vector of a bundle: patches, and what PyTorch made of them in float32 when the bundle was written.

Letters: n patches, S their side in px, D embedding width.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.errors import ConfigError

_MOST = 1 << 30  # bytes of pixels; a small compressed file could unfold to any size


class Vector(NamedTuple):
    """patches: (n, S, S, 3) uint8 RGB; embedding: (n, D) float32; source: "drawn", or "real" from slides."""

    patches: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    source: str


def read_vector(file: Path, size: int, width: int) -> Vector:
    """Reads test_vector.h5.

    Args:
        size: S, as preprocess.json says.
        width: D.
    Raises:
        ConfigError: it is no HDF5, lacks a dataset, holds another shape, or points to data in another file.
    """
    import h5py

    try:
        with h5py.File(file, "r", locking=False) as content:  # network disks may know no locks, and nobody writes here
            patches, embedding = (_dataset(content, name, file) for name in ("patches", "embedding"))
            count = len(patches)
            right = patches.shape == (count, size, size, 3) and embedding.shape == (count, width)
            if not right or patches.dtype != np.uint8 or embedding.dtype != np.float32 or not count:
                raise ConfigError(
                    f"{file}: patches are {patches.dtype} {patches.shape} and embedding {embedding.dtype} "
                    f"{embedding.shape}, not n x {size} x {size} x 3 bytes and n x {width} float32; export it again"
                )
            if patches.size > _MOST:
                raise ConfigError(f"{file} holds {patches.size / 2**30:.1f} GiB of pixels; export it again")
            return Vector(patches[:], embedding[:], str(content.attrs.get("source", "unknown")))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{file} cannot be read as HDF5 ({error}); copy the bundle again") from error


def _dataset(content: Any, name: str, file: Path) -> Any:
    import h5py

    link = content.get(name, getlink=True)
    found = content[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise ConfigError(f"{file}: {name} is no plain dataset of this file; do not use this bundle")
    return found
