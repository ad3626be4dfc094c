"""JPEG and PNG of every kind decode to what PIL makes of them, and damage is noticed."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from layouts import Pixels, drawn, encode, pil
from PIL import Image

from g2l.data.cut.encoded import decode

RGB = drawn(3)
GREY = RGB[..., 0]


@pytest.mark.parametrize(
    "data",
    [
        encode(RGB, "JPEG"),
        encode(RGB, "JPEG", quality=95, subsampling=0, progressive=True),
        encode(GREY, "JPEG"),
        encode(RGB),
        encode(GREY),
        encode(GREY > 99),
    ],
    ids=["jpeg", "progressive", "grey jpeg", "png", "grey png", "black and white png"],
)
def test_pixels_are_those_of_pil(data: bytes) -> None:
    found, wanted = decode(data), pil(data)
    assert found.shape == wanted.shape == (40, 48, 3) and found.dtype == np.uint8
    assert np.array_equal(found, wanted)


def _on_white(colour: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255
    return np.round(colour * share + 255 * (1 - share)).astype(np.uint8)


def test_palettes_are_resolved() -> None:
    image = Image.fromarray(RGB).quantize(50)
    for options in ({}, {"transparency": int(np.asarray(image)[0, 0])}):
        stream = io.BytesIO()
        image.save(stream, "PNG", **options)
        stored = Image.open(stream)
        assert stored.mode == "P"
        rgba = np.asarray(stored.convert("RGBA"))
        assert (rgba[..., 3] == 0).any() == bool(options)
        assert np.array_equal(decode(stream.getvalue()), _on_white(rgba[..., :3], rgba[..., 3]))


def test_what_is_transparent_lies_on_white() -> None:
    alpha = RGB[..., 2]
    assert np.array_equal(decode(encode(np.dstack([RGB, alpha]))), _on_white(RGB, alpha))
    two = np.dstack([GREY, alpha])
    assert np.array_equal(decode(encode(two)), _on_white(np.repeat(GREY[..., None], 3, axis=2), alpha))


def test_sixteen_bits_are_rounded_to_eight() -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    wanted = np.round(deep / 257).astype(np.uint8)
    assert np.array_equal(decode(bytes(imagecodecs.png_encode(deep))), np.repeat(wanted[..., None], 3, axis=2))


def test_a_jpeg_of_the_right_size_is_decoded_in_place() -> None:
    data = encode(RGB, "JPEG")
    out = np.zeros((40, 48, 3), np.uint8)
    assert decode(data, out) is out and np.array_equal(out, pil(data))
    for shape in ((48, 40, 3), (41, 48, 3), (20, 24, 3)):
        other = np.zeros(shape, np.uint8)
        assert np.array_equal(decode(data, other), pil(data)) and not other.any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_off_image_is_refused_wherever_it_is_cut(kind: str) -> None:
    data = encode(RGB, kind)
    # a PNG's last 12 bytes are an empty end mark
    for length in [*range(40), *range(40, len(data) - 12, 97), len(data) - 13]:
        with pytest.raises(ValueError, match=r"."):
            decode(data[:length])


def test_garbage_is_refused() -> None:
    png = bytearray(encode(RGB))
    png[len(png) // 2] ^= 0xFF
    for data in (b"", b"GIF89a", bytes(png), encode(RGB, "JPEG")[:100] + bytes(1000)):
        with pytest.raises(ValueError, match=r"."):
            decode(data)


def test_a_header_that_lies_about_the_size_takes_no_memory() -> None:
    header = struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(ValueError, match="1048576 x 1048576 px"):
        decode(b"\x89PNG\r\n\x1a\n" + chunk)
