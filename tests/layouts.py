"""Patches that were cut already, written in every layout that groups use, with pixels that are known."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
SLIDES, EACH = ("s1", "s 2", "süß"), 4


def drawn(number: int, height: int = 40, width: int = 48) -> Pixels:
    """(height, width, 3): no two numbers and no two places alike, and smooth enough for JPEG."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9 + number), np.cos(y / 7 - number), np.sin((x + y) / 11 + 2 * number)], axis=-1)
    return (127.5 + 120 * waves).astype(np.uint8)


def encode(pixels: NDArray[np.generic], kind: str = "PNG", **options: Any) -> bytes:
    """A PNG or JPEG, by PIL."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def pil(data: bytes) -> Pixels:
    """What PIL decodes: the independent reference."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _numbers() -> list[tuple[str, int]]:
    return [(slide, number) for slide in SLIDES for number in range(EACH)]


def _pixels(slide: str, number: int) -> Pixels:
    return drawn(EACH * SLIDES.index(slide) + number)


def write_images(root: Path, kind: str = "JPEG") -> dict[str, Pixels]:
    """root/class/slide/number.jpg; returns name -> pixels, as all of these do."""
    made: dict[str, Pixels] = {}
    for slide, number in _numbers():
        data = encode(_pixels(slide, number), kind)
        name = f"{'ab'[number % 2]}/{slide}/{number}.{'jpg' if kind == 'JPEG' else 'PNG'}"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        made[name] = pil(data)
    return made


def write_hdf5(root: Path, kind: str) -> dict[str, Pixels]:
    """root/part/slide.h5 with pixels ("plain", "gzip") or JPEGs ("vlen", "opaque", "bytes")."""
    made: dict[str, Pixels] = {}
    (root / "part").mkdir(parents=True)
    for slide in SLIDES:
        pixels = [_pixels(slide, number) for number in range(EACH)]
        jpegs = [encode(one, "JPEG") for one in pixels]
        with h5py.File(root / "part" / f"{slide}.h5", "w") as file:
            file["coords"] = np.zeros((EACH, 2), np.int64)
            if kind in ("plain", "gzip"):
                packing = {"compression": "gzip", "chunks": (1, 40, 48, 3)} if kind == "gzip" else {}
                file.create_dataset("imgs", data=np.stack(pixels), **packing)
            elif kind == "vlen":
                images = file.create_dataset("images", (EACH,), h5py.vlen_dtype(np.uint8))
                for number, data in enumerate(jpegs):
                    images[number] = np.frombuffer(data, np.uint8)
            elif kind == "opaque":
                file["patches"] = np.array([np.void(data) for data in jpegs], dtype=f"V{max(map(len, jpegs))}")
            else:
                file["img"] = np.array(jpegs)
        decoded = pixels if kind in ("plain", "gzip") else [pil(data) for data in jpegs]
        made |= {f"part/{slide}.h5/{number}": one for number, one in enumerate(decoded)}
    return made


def write_tar(path: Path, members: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> None:
    """A tar with these files; its times are fractions of a second, as WebDataset's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size, about.mtime = len(data), 1.5
            tar.addfile(about, io.BytesIO(data))


def write_shards(root: Path) -> dict[str, Pixels]:
    """root/0.tar and root/1.tar: half of every slide in each, with JSON before or behind the image, and a .cls."""
    made: dict[str, Pixels] = {}
    for half in range(2):
        members: dict[str, bytes] = {}
        for slide, number in _numbers():
            if number % 2 == half:
                data = encode(_pixels(slide, number), "JPEG")
                about = json.dumps({"slide": slide, "patient": f"p{SLIDES.index(slide)}"}).encode()
                two = {f"x/{slide}.{number}.jpg": data, f"x/{slide}.{number}.json": about}
                members |= dict(reversed(two.items())) if number > 1 else two
                made[f"{half}.tar/x/{slide}.{number}.jpg"] = pil(data)
        write_tar(root / f"{half}.tar", members)
    return made


LAYOUTS: dict[str, Callable[[Path], dict[str, Pixels]]] = {
    "jpeg": write_images,
    "png": lambda root: write_images(root, "PNG"),
    "hdf5": lambda root: write_hdf5(root, "plain"),
    "hdf5 gzip": lambda root: write_hdf5(root, "gzip"),
    "hdf5 vlen": lambda root: write_hdf5(root, "vlen"),
    "hdf5 opaque": lambda root: write_hdf5(root, "opaque"),
    "hdf5 bytes": lambda root: write_hdf5(root, "bytes"),
    "tar": write_shards,
}
