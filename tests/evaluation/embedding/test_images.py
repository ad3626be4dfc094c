"""Every way in which a data set stores images, against pixels that are known."""

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from layouts import Pixels, drawn, encode, pil
from numpy.typing import NDArray
from PIL import Image

from g2l.errors import CohortError
from g2l.evaluation.embedding.images import read_image, seen, square


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp"])
def test_files_of_one_image_give_the_pixels_that_pil_gives(suffix: str, tmp_path: Path) -> None:
    pixels = drawn(1)
    file = tmp_path / f"süß 1.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(file, **options)
    found = read_image(file)
    assert found.dtype == np.uint8 and np.array_equal(found, pil(file.read_bytes()))
    if suffix != "jpg":
        assert np.array_equal(found, pixels)


def _tiffs() -> dict[str, tuple[NDArray[Any], dict[str, Any], Pixels]]:
    rgb = drawn(2)
    wide = rgb.astype(np.uint16) * 257
    alpha = np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 128, np.uint8)], axis=2)
    mixed = ((rgb.astype(np.float64) * 128 + 255 * 127) / 255 + 0.5).astype(np.uint8)
    return {
        "plain": (rgb, {"photometric": "rgb"}, rgb),
        "lzw tiles": (rgb, {"photometric": "rgb", "compression": "lzw", "tile": (16, 16)}, rgb),
        "planes": (np.moveaxis(rgb, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}, rgb),
        "16 bit": (wide, {"photometric": "rgb"}, rgb),
        "grey": (rgb[..., 0], {"photometric": "minisblack"}, np.repeat(rgb[..., :1], 3, axis=2)),
        "alpha": (alpha, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, mixed),
    }


@pytest.mark.parametrize("kind", _tiffs())
def test_tiffs_of_every_kind(kind: str, tmp_path: Path) -> None:
    data, options, expected = _tiffs()[kind]
    tifffile.imwrite(tmp_path / "a.tif", data, **options)
    assert np.array_equal(read_image(tmp_path / "a.tif"), expected)


def test_a_palette_tiff_is_resolved(tmp_path: Path) -> None:
    image = Image.fromarray(drawn(3)).quantize(16)
    image.save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["x", "alone", "npy uint8", "npy 0-255", "npy 0-1", "struct", "bytes"])
def test_stacks_give_the_row_asked_for(kind: str, tmp_path: Path) -> None:
    stack = np.stack([drawn(number) for number in range(7)])
    if kind in ("x", "alone"):
        file = tmp_path / "a.h5"
        with h5py.File(file, "w") as made:
            made["x" if kind == "x" else "patches"] = stack
            made["y"] = np.zeros((7, 1, 1, 1))
            if kind == "x":
                made["other"] = stack[::-1]
    elif kind.startswith("npy"):
        file = tmp_path / "a.npy"
        np.save(file, {"npy uint8": stack, "npy 0-255": stack.astype(np.float64), "npy 0-1": stack / 255}[kind])
    else:
        file = tmp_path / "a.parquet"
        data = [encode(one) for one in stack]
        images = [{"bytes": one, "path": "p.png"} for one in data] if kind == "struct" else data
        other = {"thumb": data[::-1]} if kind == "bytes" else {}
        pq.write_table(pa.table({"label": list(range(7)), "image": images, **other}), file, row_group_size=3)
    for row in (0, 6, 2, 3, 2):
        assert np.array_equal(read_image(file, row), stack[row]), row
    with pytest.raises(CohortError, match=r"#7 cannot be read \(it holds 7 images\)"):
        read_image(file, 7)


def _damage(folder: Path) -> dict[Path, str]:
    good = encode(drawn(0))
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with h5py.File(folder / "two.h5", "w") as made:
        made["a"] = made["b"] = np.zeros((1, 4, 4, 3), np.uint8)
    np.save(folder / "wide.npy", np.full((1, 4, 4, 3), 300.0))
    np.save(folder / "nan.npy", np.full((1, 4, 4, 3), np.nan))
    np.save(folder / "deep.npy", np.zeros((1, 4, 4, 5), np.uint8))
    pq.write_table(pa.table({"a": [good], "b": [good]}), folder / "two.parquet")
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "x"}]}, schema=pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])), folder / "no.parquet")  # fmt: skip
    files = {
        "cut.png": (good[:200], "cut.png cannot be read"),
        "text.jpg": (b"hello", "neither JPEG nor PNG"),
        "cut.tif": (b"II*\0", "cut.tif cannot be read"),
        "text.webp": (b"hello", "text.webp cannot be read"),
        "pickle.npy": (stream.getvalue(), "Python objects"),
        "text.h5": (b"hello", "text.h5#0 cannot be read"),
        "text.parquet": (b"hello", "text.parquet#0 cannot be read"),
        "text.zip": (b"hello", "no stack of images"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    expected = {folder / name: text for name, (_, text) in files.items()}
    expected |= {folder / "two.h5": "neither a dataset x nor one alone", folder / "wide.npy": "within 0-255"}
    expected |= {folder / "nan.npy": "within 0-255", folder / "deep.npy": "its shape is"}
    expected |= {folder / "two.parquet": "2 of its columns", folder / "no.parquet": "a path and no bytes"}
    return expected | {folder / "absent.png": "absent.png cannot be read", folder / "absent.npy": "absent.npy#0"}


def test_what_cannot_be_read_is_told_in_one_line_with_a_remedy(tmp_path: Path) -> None:
    for file, text in _damage(tmp_path).items():
        row = 0 if file.suffix in (".npy", ".h5", ".parquet", ".zip") else -1
        with pytest.raises(CohortError, match=text) as caught:
            read_image(file, row)
        assert "\n" not in str(caught.value) and "leave it out of the table" in str(caught.value)


@pytest.mark.parametrize(("height", "width"), [(40, 48), (48, 40), (40, 40), (41, 48)])
def test_an_encoder_sees_the_central_square(height: int, width: int) -> None:
    pixels = drawn(0, height, width)
    found = square(pixels)
    top, left, side = seen(height, width)
    assert found.shape == (side, side, 3) and side == min(height, width)
    assert np.array_equal(found, pixels[top : top + side, left : left + side])
    assert abs(top - (height - side - top)) <= 1 and abs(left - (width - side - left)) <= 1
