"""Two stain maps to draw on: how much hematoxylin and eosin each pixel holds, before any colour exists."""

import cv2
import numpy as np

UNIT = 100  # a map value of UNIT is one unit of optical density along the stain's colour vector
SUBPIXEL = 4  # fractional bits of the vertices handed to OpenCV


class Canvas:
    """Stain maps `h` and `e`, uint8 (height, width) at `mpp`; every method takes micrometres.

    `nuclei` collects the centres (x, y) of all nuclei drawn: the training of the demo's teacher counts them.
    """

    def __init__(self, size_um: tuple[float, float], mpp: float) -> None:
        self.mpp = mpp
        self.shape = (round(size_um[1] / mpp), round(size_um[0] / mpp))
        self.h = np.zeros(self.shape, np.uint8)
        self.e = np.zeros(self.shape, np.uint8)
        self.nuclei: list[np.ndarray] = []

    def fill(self, shapes: np.ndarray, h: np.ndarray, e: np.ndarray) -> None:
        """Fill polygons (n, points, 2) with one value (n,) per stain; later ones cover earlier ones."""
        vertices = self._fixed(shapes)
        for polygon, dye, counter in zip(vertices, _bytes(h), _bytes(e), strict=True):
            cv2.fillPoly(self.h, [polygon], dye, cv2.LINE_8, SUBPIXEL)
            cv2.fillPoly(self.e, [polygon], counter, cv2.LINE_8, SUBPIXEL)

    def lines(self, paths: np.ndarray, width_um: np.ndarray, e: np.ndarray, h: np.ndarray | None = None) -> None:
        """Draw open paths (n, points, 2) of widths (n,) in eosin (n,), and in hematoxylin where given."""
        vertices = self._fixed(paths)
        widths = np.maximum(np.round(width_um / self.mpp), 1).astype(int).tolist()
        for path, width, counter in zip(vertices, widths, _bytes(e), strict=True):
            cv2.polylines(self.e, [path], False, counter, width, cv2.LINE_8, SUBPIXEL)
        if h is not None:
            for path, width, dye in zip(vertices, widths, _bytes(h), strict=True):
                cv2.polylines(self.h, [path], False, dye, width, cv2.LINE_8, SUBPIXEL)

    def _fixed(self, shapes: np.ndarray) -> np.ndarray:
        """um -> fixed-point pixel coordinates; pixel p covers [p, p + 1) x mpp, and OpenCV puts its centre at p."""
        return np.round((shapes / self.mpp - 0.5) * (1 << SUBPIXEL)).astype(np.int32)


def blobs(
    rng: np.random.Generator,
    centres: np.ndarray,
    major: np.ndarray,
    minor: np.ndarray,
    angle: np.ndarray,
    wobble: float = 0.1,
    points: int = 12,
) -> np.ndarray:
    """Closed wobbly ellipses, (n, points, 2) um.

    Args:
        centres: (n, 2) as (x, y). major, minor: (n,) half axes. angle: (n,) of the major axis, rad.
        wobble: standard deviation of the radius' low harmonics, as a share of it.
    """
    theta = np.linspace(0, 2 * np.pi, points, endpoint=False)
    harmonics = np.arange(2, 5)
    waves = rng.normal(0, wobble, (len(centres), 3, 2)) / np.sqrt(harmonics - 1)[None, :, None]
    phase = np.outer(harmonics, theta)
    radius = 1 + waves[:, :, 0] @ np.cos(phase) + waves[:, :, 1] @ np.sin(phase)
    radius = radius.clip(0.3, 2.0)
    along, across = radius * np.cos(theta) * major[:, None], radius * np.sin(theta) * minor[:, None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.stack([along * cos - across * sin, along * sin + across * cos], -1) + centres[:, None]


def _bytes(values: np.ndarray) -> list[int]:
    return np.asarray(values).round().clip(0, 255).astype(int).tolist()
