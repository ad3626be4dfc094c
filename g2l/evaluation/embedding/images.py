"""Images of a data set -> RGB pixels: files of one image, and rows of HDF5, npy and Parquet. Letters: `H` x `W` px."""

import struct
import zlib
from bisect import bisect_right
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.data.cut.encoded import MAX_PIXELS, decode
from g2l.data.cut.encoded import SUFFIXES as ENCODED
from g2l.data.kept import Kept
from g2l.errors import CohortError

TIFF = frozenset({".tif", ".tiff"})
HDF5 = frozenset({".h5", ".hdf5"})
IMAGE_SUFFIXES = ENCODED | TIFF | {".bmp", ".webp", ".gif"}
STACK_SUFFIXES = HDF5 | {".npy", ".parquet"}
PIXELS = "x"  # the dataset of PCam's files
OPEN_FILES, GROUPS = 64, 4


def read_image(path: str | Path, row: int = -1) -> NDArray[np.uint8]:
    """One image, whole; files of several stay open between calls, which may come from many threads.

    Of an HDF5 file the dataset `x` is read, or the only one of (N, H, W, 3) uint8; of Parquet the column `image`, or
    the only one of encoded images (bytes, or a struct that holds `bytes`). Of an npy stack, floats are 0-255, or 0-1
    where no pixel of the image is above 1. Grey becomes RGB, 16 bits become 8, what is transparent lies on white.

    Args:
        path: the file.
        row: which of its images; -1 where the file is the image.
    Returns:
        (H, W, 3) uint8.
    Raises:
        CohortError: it is not there, is damaged, or holds no such image.
    """
    path = Path(path)
    try:
        if row < 0:
            return _file(path)
        return _rgb(_STACKS.get(str(path)).read(row))
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, TypeError, SyntaxError) as error:
        _STACKS.forget(str(path))  # the handle itself may be what failed
        place = path if row < 0 else f"{path}#{row}"
        why = " ".join(str(error).split()) or type(error).__name__
        raise CohortError(f"image {place} cannot be read ({why}); replace it, or leave it out of the table") from error


def seen(height: int, width: int) -> tuple[int, int, int]:
    """(top, left, side) in px of what an encoder sees of an image: its central square. The encoder then resizes it.

    That is what resizing the shorter side and cropping the middle gives, but with whole px of the image, the same for
    every encoder, so that masks can be cut alike.
    """
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) -> the central square that an encoder sees, not copied."""
    top, left, side = seen(*pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _file(path: Path) -> NDArray[np.uint8]:
    suffix = path.suffix.lower()
    if suffix in TIFF:
        return _rgb(_tiff(path))
    if suffix in IMAGE_SUFFIXES - ENCODED:
        return _pil(path)
    return decode(path.read_bytes())


def _tiff(path: Path) -> NDArray[Any]:
    import tifffile

    kinds = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.YCBCR)
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            if not 0 < page.imagewidth * page.imagelength <= MAX_PIXELS:
                raise ValueError(f"it has {page.imagewidth} x {page.imagelength} px, so it is a slide; index it")
            if page.photometric in kinds:
                pixels = page.asarray()
                return np.moveaxis(pixels, 0, 2) if page.axes == "SYX" else pixels
    except (tifffile.TiffFileError, struct.error, zlib.error) as error:
        raise ValueError(str(error)) from error
    return _pil(path)  # palettes and rarer colour spaces


def _pil(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        opened = Image.open(path)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    with opened as image:
        if not 0 < image.width * image.height <= MAX_PIXELS:
            raise ValueError(f"its header states {image.width} x {image.height} px")
        whole = image.convert("RGBA")
        white = Image.new("RGBA", whole.size, "white")
        return np.asarray(Image.alpha_composite(white, whole).convert("RGB"))


def _rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Any (H, W), (H, W, 1-4) pixels as RGB of 8 bits."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise ValueError(f"its shape is {pixels.shape}, not (height, width, 1 to 4)")
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels.dtype.kind == "f":
        high = float(pixels.max(initial=0))
        if not np.isfinite(pixels).all() or pixels.min(initial=0) < 0 or high > 255:
            raise ValueError("its floats are not within 0-255")
        pixels = np.rint(pixels * (255 if high <= 1 else 1)).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise ValueError(f"its pixels are {pixels.dtype}, not 8 or 16 bits or floats")
    if pixels.shape[2] in (2, 4):
        colour, alpha = pixels[..., :-1].astype(np.uint16), pixels[..., -1:].astype(np.uint16)
        pixels = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


class _Array(NamedTuple):
    """Images along the first axis of an HDF5 dataset or a mapped npy file; `file` is what must stay open."""

    images: Any
    file: Any = None

    def read(self, row: int) -> NDArray[Any]:
        if row >= len(self.images):
            raise IndexError(f"it holds {len(self.images)} images")
        return np.asarray(self.images[row])


class _Parquet:
    """Encoded images in a column; a row group is the least that can be read, so the last few are kept."""

    def __init__(self, path: str) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path, memory_map=True)
        self._column, self._inner = _image_column(self._file.schema_arrow)
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = [0, *np.cumsum(sizes).tolist()]
        self._groups: Kept[int, Any] = Kept(self._group, GROUPS)

    def read(self, row: int) -> NDArray[np.uint8]:
        if row >= self._starts[-1]:
            raise IndexError(f"it holds {self._starts[-1]} images")
        group = bisect_right(self._starts, row) - 1
        data = self._groups.get(group)[row - self._starts[group]].as_py()
        if not data:
            raise ValueError("it holds a path and no bytes")
        return decode(data)

    def _group(self, group: int) -> Any:
        column = self._file.read_row_group(group, columns=[self._column]).column(0).combine_chunks()
        return column.field(self._inner) if self._inner is not None else column


def _image_column(schema: Any) -> tuple[str, int | None]:
    """Name of the column of encoded images, and the number of its field `bytes` where it is a struct."""
    import pyarrow as pa

    found: dict[str, int | None] = {}
    for field in schema:
        if pa.types.is_struct(field.type) and (inner := field.type.get_field_index("bytes")) >= 0:
            found[field.name] = inner
        elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            found[field.name] = None
    if "image" in found:
        return "image", found["image"]
    if len(found) != 1:
        raise ValueError(f"{len(found)} of its columns hold encoded images; name the one of images `image`")
    return next(iter(found.items()))


def _stack(path: str) -> "_Array | _Parquet":
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return _Array(np.load(path, mmap_mode="r", allow_pickle=False))
    if suffix == ".parquet":
        return _Parquet(path)
    if suffix in HDF5:
        return _dataset(path)
    raise ValueError(f"no stack of images: {', '.join(sorted(STACK_SUFFIXES))} can be read")


def _dataset(path: str) -> _Array:
    import h5py

    # locking=False: nothing is written, and many network mounts know no locks. The file closes with its last name.
    file = h5py.File(path, "r", locking=False)
    named = file.get(PIXELS)
    if isinstance(named, h5py.Dataset):
        return _Array(named, file)
    sets = [one for one in file.values() if isinstance(one, h5py.Dataset) and one.ndim == 4 and one.dtype == np.uint8]
    if len(sets) != 1:
        held = ", ".join(file) or "nothing"
        raise ValueError(f"it has neither a dataset {PIXELS} nor one alone of (N, H, W, 3) uint8, but {held}")
    return _Array(sets[0], file)


_STACKS: Kept[str, "_Array | _Parquet"] = Kept(_stack, OPEN_FILES)
