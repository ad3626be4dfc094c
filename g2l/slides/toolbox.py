"""tiatoolbox's WSIReader as the last resort, for files that OpenSlide does not open (striped TIFF, OME-TIFF with
JPEG 2000, ...)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g2l.errors import SlideError
from g2l.slides.reader import Plane, damaged


class ToolboxReader:
    """A `Reader` over tiatoolbox. Slow, and one thread at a time inside it; importing it takes seconds."""

    name = "tiatoolbox"
    shrinks = (1,)

    def __init__(self, path: Path) -> None:
        """Raises SlideError when tiatoolbox does not open the file either, or is not installed."""
        try:
            from tiatoolbox.wsicore.wsireader import WSIReader
        except ImportError as error:  # a bundle's runtime does without it
            raise SlideError(
                f"slide {path} cannot be read (OpenSlide does not open it, and tiatoolbox is not installed here); "
                "install tiatoolbox, or convert the file to a tiled TIFF or DICOM"
            ) from error
        self._path = path
        try:
            self._slide = WSIReader.open(path)
            about = self._slide.info
            self.planes = [Plane(int(width), int(height)) for width, height in about.level_dimensions]
            self._mpp = None if about.mpp is None else [float(side) for side in about.mpp]
        except Exception as error:  # many libraries lie behind it, each with errors of its own
            why = " ".join(str(error).split()) or type(error).__name__
            raise SlideError(
                f"slide {path} cannot be read (neither OpenSlide nor tiatoolbox opens it: {why}); replace or remove "
                "the file"
            ) from error

    def read(
        self, plane: int, x: int, y: int, width: int, height: int, shrink: int, out: NDArray[np.uint8]
    ) -> tuple[float, float]:
        """As `Reader.read`."""
        stored = self.planes[plane]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, stored.width), min(y + height, stored.height)
        out.fill(255)
        if left >= right or top >= bottom:
            return x, y
        # Its coordinates are level 0's, always whole: reading from a multiple of the ratio keeps the place whole.
        ratio_x, ratio_y = self.planes[0].width / stored.width, self.planes[0].height / stored.height
        corner = round(left * ratio_x), round(top * ratio_y)
        try:
            pixels = self._slide.read_rect(
                corner, (right - left, bottom - top), resolution=plane, units="level", coord_space="baseline"
            )
        except Exception as error:
            raise damaged(self._path, plane, x, y, error) from error
        out[top - y : bottom - y, left - x : right - x] = np.asarray(pixels)[..., :3]
        return x + corner[0] / ratio_x - left, y + corner[1] / ratio_y - top

    def properties(self) -> Mapping[str, str]:
        """Its resolution, by OpenSlide's names."""
        if self._mpp is None:
            return {}
        return {"openslide.mpp-x": str(self._mpp[0]), "openslide.mpp-y": str(self._mpp[1])}

    def close(self) -> None:
        """Dropping the reader closes it."""
