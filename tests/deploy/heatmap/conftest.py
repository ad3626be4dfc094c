"""A drawn slide whose dark square every kind of heatmap must find, and feature files of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import tifffile
from leica import write_leica
from numpy.typing import NDArray

from g2l.slides.slide import Slide

MPP, SIZE = 0.5, 128  # um per px; px of a patch, at the slide's own resolution
WIDTH, HEIGHT = 1536, 1280
DARK = (5, 3, 9, 6)  # left, top, right, bottom of the dark square in patches
CORNER, CANVAS = (1024, 640), (4096, 3072)  # of the slide that has bounds: whole patches, so that the grid is the same
WriteFeatures = Callable[..., Path]


class Drawn(NamedTuple):
    """slide and features of it; corner: of the scanned part, in px of level 0; dark: (left, top, right, bottom) of the
    dark square in px of level 0 from there.
    """

    slide: Path
    features: Path
    corner: tuple[int, int]
    dark: tuple[int, int, int, int]


def pixels() -> NDArray[np.uint8]:
    """Pink everywhere, and the dark square."""
    random = np.random.default_rng(0)
    made = random.normal((215, 150, 190), 6, (HEIGHT, WIDTH, 3))
    left, top, right, bottom = (SIZE * side for side in DARK)
    made[top:bottom, left:right] = random.normal((70, 40, 110), 6, (bottom - top, right - left, 3))
    return made.round().clip(0, 255).astype(np.uint8)


def write(
    path: Path,
    features: NDArray[Any],
    coords: NDArray[Any],
    about: dict[str, Any] | None = None,
    on_coords: bool = False,
) -> Path:
    """An HDF5 file as `g2l embed` writes it; attributes on `coords` alone are TRIDENT's way, none CLAM's."""
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = features, coords
        (file["coords"] if on_coords else file).attrs.update(about or {})
    return path


@pytest.fixture(scope="session")
def write_h5() -> WriteFeatures:
    """write_h5(path, features, coords, about=None, on_coords=False) -> path."""
    return write


def embedded(slide: Path, corner: tuple[int, int], path: Path) -> Path:
    """Mean and spread of the colours of every patch of the scanned part, as if they were embeddings."""
    columns, rows = np.meshgrid(np.arange(WIDTH // SIZE), np.arange(HEIGHT // SIZE))
    coords = np.stack([columns, rows], axis=-1).reshape(-1, 2) * SIZE + np.array(corner)
    with Slide.open(slide) as opened:
        patches = np.stack([opened.read_patch(x * MPP, y * MPP, SIZE, MPP) for x, y in coords.tolist()])
        width, height = opened.dimensions
    rows_of = patches.reshape(len(patches), -1, 3).astype(np.float64)
    features = np.concatenate([rows_of.mean(axis=1) / 255, rows_of.std(axis=1) / 64], axis=1).astype(np.float32)
    about = {
        "patch_size": SIZE, "patch_size_level0": SIZE, "level0_width": width, "level0_height": height,
        "level0_mpp": MPP, "mpp": MPP, "size_um": SIZE * MPP, "encoder_hash": "e" * 64,
    }  # fmt: skip
    return write(path, features, coords, about)


@pytest.fixture(scope="session", params=["plain", "bounds"])
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """The slide as a plain TIFF, and as a part of a larger canvas."""
    folder = tmp_path_factory.mktemp(request.param)
    left, top, right, bottom = (SIZE * side for side in DARK)
    if request.param == "plain":
        slide, corner = folder / "slide.tif", (0, 0)
        tile = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate", "metadata": None}
        tifffile.imwrite(slide, pixels(), resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER", **tile)
    else:
        slide, corner = write_leica(folder / "slide.scn", pixels(), CORNER, CANVAS, MPP), CORNER
    return Drawn(slide, embedded(slide, corner, folder / "slide.h5"), corner, (left, top, right, bottom))
