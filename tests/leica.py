"""A Leica SCN file: the simplest slide whose scanned part lies somewhere on a larger canvas (OpenSlide's bounds)."""

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

NAMESPACE = "http://www.leica-microsystems.com/scn/2010/10/01"


def write_leica(
    path: Path, pixels: NDArray[np.uint8], corner: tuple[int, int], canvas: tuple[int, int], mpp: float = 0.5
) -> Path:
    """Write `pixels` (h, w, 3) at `corner` (x, y) of a canvas (width, height), all in level-0 px; two levels, tiled."""
    height, width = pixels.shape[:2]
    half = pixels.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    nm = round(mpp * 1000)
    view = f'sizeX="{width * nm}" sizeY="{height * nm}" offsetX="{corner[0] * nm}" offsetY="{corner[1] * nm}"'
    sizes = [(0, width, height), (1, width // 2, height // 2)]
    dimensions = "".join(f'<dimension r="{k}" ifd="{k}" sizeX="{w}" sizeY="{h}"/>' for k, w, h in sizes)
    about = (
        f'<?xml version="1.0"?><scn xmlns="{NAMESPACE}">'
        f'<collection name="c" uuid="u" sizeX="{canvas[0] * nm}" sizeY="{canvas[1] * nm}"><barcode>b</barcode>'
        f'<image name="i" uuid="v"><creationDate>2020-01-01T00:00:00Z</creationDate><device model="m" version="1"/>'
        f'<pixels sizeX="{width}" sizeY="{height}">{dimensions}</pixels><view {view}/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image></collection></scn>"
    )
    with tifffile.TiffWriter(path) as tiff:
        for level, image in enumerate((pixels, half)):
            tiff.write(
                image,
                tile=(128, 128),
                photometric="rgb",
                compression="deflate",
                metadata=None,
                description=about if level == 0 else None,
                resolution=(1e4 / (mpp * 2**level),) * 2,
                resolutionunit="CENTIMETER",
            )
    return path
