"""Stain maps -> pixels: a centre's stains and scanner, local unevenness, artefacts; and the pyramidal TIFF."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from g2l.data.drawing.canvas import UNIT, Canvas
from g2l.data.drawing.layout import MAP_MPP, Layout, smooth_noise

TILE = 256


@dataclass(frozen=True)
class Centre:
    """What a centre does to every slide: stain vectors (optical density in R, G, B), strengths, optics, scanner."""

    name: str
    hematoxylin: tuple[float, float, float] = (0.65, 0.70, 0.29)
    eosin: tuple[float, float, float] = (0.10, 0.95, 0.20)
    strength: tuple[float, float] = (1.0, 1.0)
    white: tuple[int, int, int] = (243, 243, 243)
    blur_um: float = 0.35
    noise: float = 2.0
    quality: int = 85
    mpp: float = 0.5

    def vary(self, rng: np.random.Generator, amount: float = 1.0) -> "Centre":
        """This centre on another day: stain vectors and strengths moved a little."""
        return replace(
            self,
            hematoxylin=_tilt(rng, self.hematoxylin, 0.035 * amount),
            eosin=_tilt(rng, self.eosin, 0.035 * amount),
            strength=(
                self.strength[0] * float(rng.lognormal(0, 0.12 * amount)),
                self.strength[1] * float(rng.lognormal(0, 0.15 * amount)),
            ),
            blur_um=self.blur_um * float(rng.uniform(0.85, 1.2)),
        )


def _tilt(rng: np.random.Generator, vector: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    moved = (np.array(vector) + rng.normal(0, by, 3)).clip(0.02, None)
    r, g, b = (moved / np.linalg.norm(moved)).tolist()
    return r, g, b


def develop(
    rng: np.random.Generator, layout: Layout, canvas: Canvas, centre: Centre, fold: bool, pen: bool
) -> np.ndarray:
    """RGB uint8 (height, width, 3) of a painted canvas. Folds and pen strokes become class "none" in `layout`'s map."""
    height, width = canvas.shape
    shape = layout.region.shape
    thick = np.exp(0.16 * smooth_noise(rng, shape, 60)).astype(np.float32)  # both stains: section thickness
    uptake = [np.exp(0.17 * smooth_noise(rng, shape, 75)).astype(np.float32) for _ in range(2)]
    if fold:
        band = _band(rng, shape, 5.0)
        thick *= 1 + 1.1 * np.minimum(band, 1)
        layout.region[band > 0.3] = -1
    chromatin = 1 + 0.13 * cv2.GaussianBlur(rng.standard_normal((1024, 1024), dtype=np.float32), (0, 0), 1.2) * 4
    table = _colours(centre)
    sensor = rng.normal(0, centre.noise, (1024, 1024, 3)).astype(np.float32).round().astype(np.int16)
    rgb = np.empty((height, width, 3), np.uint8)
    fields = [(100 * thick * field).round().clip(0, 255).astype(np.uint8) for field in uptake]
    fields = [cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR) for field in fields]
    columns = width // 1024 + 1
    for top in range(0, height, 1024):
        rows = slice(top, min(top + 1024, height))
        crumbs = np.tile(np.roll(chromatin, int(rng.integers(1024)), 1), (1, columns))[: rows.stop - top, :width]
        h = (cv2.multiply(canvas.h[rows], fields[0][rows], scale=0.01) * crumbs).clip(0, 255).astype(np.uint16)
        e = cv2.multiply(canvas.e[rows], fields[1][rows], scale=0.01).astype(np.uint16)
        rgb[rows] = table[(h << 8) | e]
    if pen:
        _pen(rng, rgb, layout)
    _dust(rng, rgb, canvas.mpp)
    rgb = cv2.GaussianBlur(rgb, (0, 0), centre.blur_um / canvas.mpp)
    for top in range(0, height, 1024):
        rows = slice(top, min(top + 1024, height))
        grain = np.tile(np.roll(sensor, int(rng.integers(1024)), 1), (1, columns, 1))[: rows.stop - top, :width]
        rgb[rows] = (rgb[rows] + grain).clip(0, 255)
    return rgb


def _colours(centre: Centre) -> np.ndarray:
    """Beer-Lambert: uint8 (65536, 3), the colour of stain bytes (h, e) at index h * 256 + e."""
    amount = np.arange(256) / UNIT
    h = amount[:, None] * np.array(centre.hematoxylin) * centre.strength[0]
    e = amount[:, None] * np.array(centre.eosin) * centre.strength[1]
    return (np.array(centre.white) * np.exp(-(h[:, None] + e[None]))).round().astype(np.uint8).reshape(-1, 3)


def _band(rng: np.random.Generator, shape: tuple[int, int], width: float) -> np.ndarray:
    """A curved band across the map: about 1 on its middle line, 0 away from it."""
    v, u = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle, (row, col) = rng.uniform(0, np.pi), rng.uniform(0.35, 0.65, 2) * shape
    distance = (v - row) * np.cos(angle) - (u - col) * np.sin(angle) + 12 * smooth_noise(rng, shape, 120)
    return np.exp(-((distance / width) ** 4))


def _pen(rng: np.random.Generator, rgb: np.ndarray, layout: Layout) -> None:
    """A felt-pen stroke along part of the tissue's edge."""
    height, width = rgb.shape[:2]
    turn = np.linspace(0, 1.3, 40) + rng.uniform(0, 6)
    path = np.stack([0.5 + 0.40 * np.cos(turn), 0.5 + 0.40 * np.sin(turn)], 1) * (width, height)
    ink = np.zeros(layout.region.shape, np.float32)
    scale = layout.region.shape[1] / width
    cv2.polylines(ink, [(path * scale).round().astype(np.int32)], False, 1.0, 22, cv2.LINE_AA)
    layout.region[ink > 0.2] = -1
    cover = cv2.resize(cv2.GaussianBlur(ink, (0, 0), 1.5), (width, height))[..., None]
    colour = np.array([(30, 60, 160), (20, 110, 70), (40, 40, 45)][rng.integers(3)], np.float32) / 255
    for top in range(0, height, 1024):
        rows = slice(top, min(top + 1024, height))
        rgb[rows] = rgb[rows] * (1 - 0.85 * cover[rows] * (1 - colour))


def _dust(rng: np.random.Generator, rgb: np.ndarray, mpp: float) -> None:
    """A few specks, on tissue and beside it."""
    for _ in range(rng.integers(4, 12)):
        x, y = rng.integers(0, rgb.shape[1]), rng.integers(0, rgb.shape[0])
        axes = tuple(int(v) for v in np.maximum(rng.lognormal(1.3, 0.6, 2) / mpp, 1))
        cv2.ellipse(rgb, ((int(x), int(y)), (axes[0], axes[1]), float(rng.uniform(0, 180))), (95, 88, 80), -1)


def write_pyramid(path: Path, rgb: np.ndarray, mpp: float, quality: int) -> None:
    """Write RGB uint8 (H, W, 3) as a tiled JPEG pyramid with its resolution, halving down to one tile; atomic."""
    import tifffile

    temporary = path.with_name(path.name + ".part")
    with tifffile.TiffWriter(temporary) as tiff:
        level, image = 0, rgb
        while True:
            pixels_per_cm = 1e4 / (mpp * 2**level)
            tiff.write(
                image, photometric="rgb", tile=(TILE, TILE), compression="jpeg",
                compressionargs={"level": quality}, subfiletype=int(level > 0), metadata=None, software="g2l",
                resolution=(pixels_per_cm, pixels_per_cm), resolutionunit="CENTIMETER", maxworkers=1,
            )  # fmt: skip
            if max(image.shape[:2]) <= 2 * TILE:
                break
            # An odd last row or column is dropped, so that every level is exactly twice as coarse as the one above.
            even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            image = cv2.resize(even, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            level += 1
    temporary.replace(path)


def map_at(layout: Layout, mpp: float) -> np.ndarray:
    """The class map uint8 at a coarser `mpp`, a multiple of MAP_MPP: the class at each pixel's middle."""
    step = round(mpp / MAP_MPP)
    return layout.class_map()[step // 2 :: step, step // 2 :: step]
