"""PanNuke's masks -> codes of classes. Letter: N images of a fold."""

import hashlib
import os
from pathlib import Path

import numpy as np

from g2l.errors import CohortError

# 256 x 256 x 6 doubles are 3 MB: so many at once
BLOCK = 64


def class_stack(images: Path, types: Path, masks: Path, cache: Path) -> tuple[Path, int, list[str]]:
    """Codes of a fold, written once: 1 to 5 for the five classes in their order, 0 for background.

    Published are (N, 256, 256, 6) with the number of the nucleus a pixel belongs to in each class's channel, and the
    background in the last. A pixel in two channels, at a border of nuclei, is of the first.

    Returns:
        The file of codes (N, 256, 256), N, and the tissue of each image.
    Raises:
        CohortError: files are damaged, or do not fit each other.
    """
    try:
        shown = np.load(images, mmap_mode="r", allow_pickle=False)
        marked = np.load(masks, mmap_mode="r", allow_pickle=False)
        tissues = np.load(types, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CohortError(f"PanNuke's {images.parents[2]} cannot be read ({error}); unpack it again") from error
    count = len(shown)
    if shown.ndim != 4 or marked.shape != (*shown.shape[:3], 6) or tissues.shape != (count,):
        raise CohortError(
            f"PanNuke's {images.parents[2]} has images {shown.shape}, masks {marked.shape} and types {tissues.shape}, "
            "which are not of one fold; unpack its archive again"
        )
    state = masks.stat()
    key = hashlib.sha256(f"{masks} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()
    path = cache / f"PanNuke-{key[:16]}.npy"
    if not path.is_file():
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        try:
            cache.mkdir(parents=True, exist_ok=True)
            codes = np.lib.format.open_memmap(partial, "w+", np.uint8, shown.shape[:3])
            for first in range(0, count, BLOCK):
                inside = np.asarray(marked[first : first + BLOCK, ..., :5]) > 0
                codes[first : first + BLOCK] = np.where(inside.any(-1), inside.argmax(-1) + 1, 0)
            codes.flush()
            partial.replace(path)
        except OSError as error:
            raise CohortError(f"codes of PanNuke cannot be written to {cache} ({error}); give another cache") from error
        finally:
            partial.unlink(missing_ok=True)
    return path, count, [str(tissue) for tissue in tissues.tolist()]
