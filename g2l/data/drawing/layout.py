"""Where what lies on a synthetic slide: the outline of the tissue, its regions, and what each region looks like.

All lengths are micrometres from the slide's top-left corner; maps are stored at MAP_MPP.
"""

from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = ("glands", "acini", "solid", "lymphocytes", "stroma", "fat", "necrosis", "mucin")
MAP_MPP = 4.0
REGION_UM = 400.0  # mean distance of two regions' centres: patches of 128 um then mostly lie in one


@dataclass(frozen=True)
class Layout:
    """One slide's plan.

    `region` int16 (h, w) at MAP_MPP: region number, -1 outside tissue. `tissue_class` int (R,): index into CLASSES.
    `traits`: per region (R,), drawn alike for every class, so that no trait tells the class: `dark` and `eosin` scale
    both stains, `basophil` tints the ground, `size` scales nuclei, `keep` thins them, `open` the lumina's width, `wet`
    whether lumina and gaps are filled with secretion.
    """

    size_um: tuple[float, float]
    region: np.ndarray
    tissue_class: np.ndarray
    traits: dict[str, np.ndarray]

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Region number (-1 = none) under points (n,) in um; points off the slide are none."""
        rows, cols = np.floor(y / MAP_MPP).astype(int), np.floor(x / MAP_MPP).astype(int)
        height, width = self.region.shape
        inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        return np.where(inside, self.region[rows.clip(0, height - 1), cols.clip(0, width - 1)], -1)

    def class_map(self) -> np.ndarray:
        """uint8 (h, w) at MAP_MPP: 0 outside tissue, else 1 + index into CLASSES."""
        return np.where(self.region >= 0, self.tissue_class[self.region.clip(0)] + 1, 0).astype(np.uint8)

    def spread(self, per_class: dict[str, float]) -> np.ndarray:
        """A value per region (R,) from a value per class name; classes not named get 0."""
        return np.array([per_class.get(name, 0.0) for name in CLASSES])[self.tissue_class]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Gaussian random field float32 (h, w) of about zero mean and unit variance, correlated over `scale` pixels."""
    height, width = shape
    rows, cols = int(height / scale) + 4, int(width / scale) + 4
    coarse = rng.standard_normal((rows, cols), dtype=np.float32)
    field = cv2.resize(coarse, (int(cols * scale) + 1, int(rows * scale) + 1), interpolation=cv2.INTER_CUBIC)
    top, left = rng.integers(0, max(int(scale), 1), 2) + int(scale)
    # Cubic interpolation between independent values loses variance: about .7 of the standard deviation remains.
    return field[top : top + height, left : left + width] / 0.72


def plan(rng: np.random.Generator, size_um: tuple[float, float], mix: np.ndarray) -> Layout:
    """Draw a slide's layout.

    Args:
        size_um: (width, height).
        mix: (len(CLASSES),) share of each class beyond the two regions that every class gets.
    """
    shape = (round(size_um[1] / MAP_MPP), round(size_um[0] / MAP_MPP))
    tissue = _outline(rng, shape)
    region = _voronoi(rng, shape)
    region[~tissue] = -1
    numbers, areas = np.unique(region[region >= 0], return_counts=True)
    renumber = np.full(int(region.max()) + 1, -1, np.int16)
    renumber[numbers[np.argsort(-areas, kind="stable")]] = np.arange(len(numbers))
    region = np.where(region >= 0, renumber[region.clip(0)], -1).astype(np.int16)

    count, kinds = len(numbers), len(CLASSES)
    tissue_class = rng.choice(kinds, count, p=mix)
    # The largest regions hold every class (twice where there are enough), so that each slide shows all of them.
    for start in range(0, min(2 * kinds, count // kinds * kinds), kinds):
        tissue_class[start : start + kinds] = rng.permutation(kinds)
    traits = {
        "dark": rng.lognormal(0, 0.30, count),
        "eosin": rng.lognormal(0, 0.38, count),
        "basophil": rng.uniform(0, 30, count),
        "size": rng.uniform(0.88, 1.15, count),
        "keep": rng.uniform(0.6, 1.0, count),
        "open": rng.uniform(0.6, 1.25, count),
        "wet": (rng.random(count) < 0.45).astype(float),
    }
    return Layout(size_um, region, tissue_class, traits)


def _outline(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Tissue bool (h, w): a rounded block with a ragged edge and a few holes."""
    v, u = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    radius = (np.abs(u[None]) ** 3 + np.abs(v[:, None]) ** 3) ** (1 / 3)
    ragged = 0.10 * smooth_noise(rng, shape, 130) + 0.03 * smooth_noise(rng, shape, 25)
    return radius + ragged < 0.84


def _voronoi(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Region numbers int16 (h, w): Voronoi cells of jittered points, their edges bent by smooth noise."""
    from scipy.spatial import KDTree

    step = REGION_UM / MAP_MPP
    rows, cols = np.mgrid[-1 : shape[0] / step + 1, -1 : shape[1] / step + 1]
    centres = np.stack([rows.ravel(), cols.ravel()], 1) + rng.uniform(0.05, 0.95, (rows.size, 2))
    v, u = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    v += 9 * smooth_noise(rng, shape, 45) + 3 * smooth_noise(rng, shape, 12)
    u += 9 * smooth_noise(rng, shape, 45) + 3 * smooth_noise(rng, shape, 12)
    _, nearest = KDTree(centres * step).query(np.stack([v.ravel(), u.ravel()], 1))
    return np.asarray(nearest, np.int16).reshape(shape)
