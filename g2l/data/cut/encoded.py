"""JPEG and PNG as they lie in a file -> RGB pixels. Letters: `H` x `W` px of an image."""

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# A damaged header can state any size; beyond 8192 x 8192 px it is no patch, and memory is not asked for.
MAX_PIXELS = 1 << 26


def decode(data: bytes, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """The pixels of an image, told by its first bytes and not by its name.

    Grey becomes RGB, 16 bits become 8 (rounded), palettes are resolved, and what is transparent lies on white.

    Args:
        out: (H, W, 3) C-contiguous; where a JPEG has just this size, it is decoded into it and `out` itself returned.
    Returns:
        (H, W, 3) uint8.
    Raises:
        ValueError: neither JPEG nor PNG, damaged, or cut off.
    """
    if data[: len(JPEG)] == JPEG:
        return _jpeg(data, out)
    if data[: len(PNG)] == PNG:
        return _png(data)
    raise ValueError("neither JPEG nor PNG")


def _jpeg(data: bytes, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    _refuse_size(int(height), int(width))
    fits = out is not None and out.shape[:2] == (height, width)
    made = simplejpeg.decode_jpeg(data, "RGB", buffer=out if fits else None)
    return out if fits and out is not None else made


def _png(data: bytes) -> NDArray[np.uint8]:
    # the first chunk is always the header, which begins with the size: PNG specification, 11.2.1
    _refuse_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
    try:
        pixels = imagecodecs.png_decode(data)
    except imagecodecs.PngError as error:
        raise ValueError(str(error)) from error
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    colour = pixels.reshape(*pixels.shape[:2], channels)
    if channels in (2, 4):
        colour, alpha = colour[..., :-1].astype(np.uint16), colour[..., -1:].astype(np.uint16)
        colour = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.repeat(colour, 3, axis=2) if channels < 3 else colour


def _refuse_size(height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"its header states {width} x {height} px")
