"""Tiny slides whose every pixel is known, and cohorts made of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from g2l.slides.cohort import Cohort
from g2l.slides.coverage import pack
from g2l.slides.indexing.scan import Scan
from g2l.slides.indexing.store import write_cohort

WriteSlide = Callable[..., Path]
MakeCohort = Callable[..., Cohort]


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The next level as scanners make it: 2 x 2 means, an odd last row or column dropped."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    blocks = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).astype(np.float64)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def _write(
    path: Path,
    pixels: NDArray[np.uint8],
    mpp: float | tuple[float, float] | None = 0.5,
    levels: int = 1,
    compression: str = "deflate",
    dpi: float | None = None,
) -> Path:
    resolution: tuple[float, float] | None = None
    unit = "CENTIMETER"
    if mpp is not None:
        x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        resolution = 1e4 / x, 1e4 / y
    if dpi is not None:
        resolution, unit = (dpi, dpi), "INCH"
    options: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "compression": compression, "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            stated = {"resolution": resolution, "resolutionunit": unit} if resolution else {}
            tiff.write(pixels, subfiletype=int(level > 0), **options, **stated)
            pixels = halved(pixels)
    return path


@pytest.fixture(scope="session")
def write_slide() -> WriteSlide:
    """write_slide(path, pixels, mpp=0.5 | (x, y) | None, levels=1, compression="deflate", dpi=None) -> path."""
    return _write


@pytest.fixture(scope="session")
def noise() -> NDArray[np.uint8]:
    """(771, 1023, 3): no two places alike, odd sizes on every level."""
    rough = np.random.default_rng(0).integers(0, 256, (771, 1023, 3))
    return rough.astype(np.uint8)


@pytest.fixture
def make_cohort(tmp_path: Path) -> MakeCohort:
    """make_cohort([mask, ...], mask_mpp=16, levels=(mpp_x, mpp_y, tile_w, tile_h, ...), **columns) -> Cohort without
    slide files; a column has one value per slide.
    """

    def make(
        masks: Sequence[NDArray[np.bool_]],
        mask_mpp: float = 16.0,
        levels: Sequence[float] = (0.5, 0.5, 0, 0),
        **columns: Sequence[str | None],
    ) -> Cohort:
        folder = tmp_path / f"cohort{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        slides = []
        for k, mask in enumerate(masks):
            rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            height, width = mask.shape
            row: dict[str, Any] = {
                "name": f"s{k}", "path": f"/nowhere/s{k}.tif", "mpp": 0.5, "mpp_source": "file", "backend": "none",
                "width": width * 32, "height": height * 32, "width_um": width * mask_mpp,
                "height_um": height * mask_mpp, "tissue_mm2": mask.sum() * (mask_mpp / 1000) ** 2, "room_um": 0.0,
                "pen": False, "sharpness": 1.0, "blur": False, "fingerprint": "", "mask_mpp": mask_mpp,
                "mask_h": height, "mask_w": width, "box_x0": int(cols[0]), "box_y0": int(rows[0]),
                "box_x1": int(cols[-1]) + 1, "box_y1": int(rows[-1]) + 1, "backend_reason": "",
                "levels": list(levels), "tile_map": None,
            }  # fmt: skip
            slides.append((Scan(row, pack(mask), b"", 1.0), {key: value[k] for key, value in columns.items()}))
        write_cohort(folder, slides)
        return Cohort.open(folder)

    return make


@pytest.fixture
def outline(tmp_path: Path) -> Path:
    """A GeoJSON outline in level-0 pixels, x 100-700 and y 100-600: a mask that need not be computed."""
    corners = [[100, 100], [700, 100], [700, 600], [100, 600], [100, 100]]
    path = tmp_path / "outline.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    return path
