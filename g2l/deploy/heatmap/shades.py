"""What numbers look like: a colour for every value, a region for every value, and what the legend says about both.

Letters: n places, C numbers of each. No place has nan.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
# Okabe and Ito's eight colours, told apart by most colour-blind people too, without black; then lighter ones.
PALETTE: tuple[Colour, ...] = (
    (213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (240, 228, 66), (86, 180, 233), (230, 159, 0),
    (128, 128, 128), (150, 75, 160), (120, 200, 80), (160, 110, 60), (250, 160, 160),
)  # fmt: skip
SEED = 0


class Entry(NamedTuple):
    """A region's name and colour."""

    name: str
    colour: Colour


class Shades(Protocol):
    """How the values of a kind of heatmap are shown."""

    @property
    def title(self) -> str:
        """What is shown."""
        ...

    @property
    def regions(self) -> Sequence[Entry]:
        """What values are sorted into."""
        ...

    @property
    def bar(self) -> tuple[float, float] | None:
        """Ends of the colour bar; None where the legend names regions instead."""
        ...

    @property
    def measured(self) -> Sequence[str]:
        """What each of the C numbers is called."""
        ...

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(n, C) -> (n, 3) RGB."""
        ...

    def sort(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """(n, C) -> (n,) numbers of regions."""
        ...


class Scale:
    """One number on a perceptually even colour map, cut into equal levels."""

    def __init__(self, title: str, measured: str, low: float, high: float, levels: int) -> None:
        """Args: low, high: ends of the bar; beyond them the end's colour stands."""
        self.title, self.measured, self.bar = title, (measured,), (low, high)
        steps = np.linspace(low, high, levels + 1)
        middles = ((steps[:-1] + steps[1:]) / 2).astype(np.float32)
        colours = self.paint(middles[:, None]).tolist()
        names = [f"{measured} {a} to {b}" for a, b in pairwise(numbers(low, high, levels))]
        self.regions = [Entry(name, _colour(colour)) for name, colour in zip(names, colours, strict=True)]

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """As `Shades.paint`."""
        grey = np.rint(self._share(values) * 255).astype(np.uint8)
        return np.asarray(cv2.applyColorMap(grey[:, None], cv2.COLORMAP_VIRIDIS), np.uint8)[:, 0, ::-1]

    def sort(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """As `Shades.sort`."""
        return np.minimum((self._share(values) * len(self.regions)).astype(np.int64), len(self.regions) - 1)

    def _share(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        low, high = self.bar
        return ((values[:, 0].astype(np.float64) - low) / (high - low)).clip(0.0, 1.0)


class Classes:
    """The most probable of some classes."""

    bar = None

    def __init__(self, title: str, names: Sequence[str]) -> None:
        """Args: names: of the C classes."""
        self.title, self.measured = title, [f"probability {name}" for name in names]
        colours = [PALETTE[k] if k < len(PALETTE) else _spread(k) for k in range(len(names))]
        self.regions = [Entry(name, colour) for name, colour in zip(names, colours, strict=True)]
        self._colours = np.array(colours, np.uint8)

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """As `Shades.paint`."""
        return self._colours[self.sort(values)]

    def sort(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """As `Shades.sort`."""
        return values.argmax(axis=1)


class Components:
    """Three numbers as red, green and blue; regions are groups of places with like colours."""

    bar = None
    measured = ("component 1", "component 2", "component 3")

    title = "Principal components of the embeddings as red, green and blue; groups of like colours"

    def __init__(self, values: NDArray[np.float32], groups: int) -> None:
        """Args: values: (n, 3) of all places: 1 % at either end of each number saturate. groups: how many at most."""
        low, high = (np.percentile(values, share, axis=0) for share in (1, 99))
        self._low, self._range = low, high - low
        colours = self.paint(values).astype(np.float32)
        self._centres = _groups(colours, groups)
        self.regions = [
            Entry(f"group {k + 1}", _colour(centre)) for k, centre in enumerate(np.rint(self._centres).tolist())
        ]

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """As `Shades.paint`; a number that never varies is in the middle."""
        varies = self._range > 0
        share = np.where(varies, (values - self._low) / np.where(varies, self._range, 1.0), 0.5)
        return np.rint(share.clip(0.0, 1.0) * 255).astype(np.uint8)

    def sort(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """As `Shades.sort`."""
        colours = self.paint(values).astype(np.float32)
        return ((colours[:, None] - self._centres) ** 2).sum(axis=2).argmin(axis=1)


def numbers(low: float, high: float, parts: int) -> list[str]:
    """The borders of equal parts of [low, high], with as many digits as tell them apart."""
    digits = max(2, 1 - math.floor(math.log10((high - low) / parts)))
    return [f"{number:.{digits}f}" for number in np.linspace(low, high, parts + 1)]


def _groups(colours: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Centres of a k-means, (k, 3), by their size; at most as many as there are different colours."""
    count = min(count, len(np.unique(colours, axis=0)))
    if count == 1:  # OpenCV takes a single row for a column
        return colours.mean(axis=0, keepdims=True)
    cv2.setRNGSeed(SEED)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 0.1)
    labels = np.zeros((len(colours), 1), np.int32)
    _, labels, centres = cv2.kmeans(colours, count, labels, stop, 5, cv2.KMEANS_PP_CENTERS)
    sizes = np.bincount(np.asarray(labels).ravel(), minlength=count)
    return np.asarray(centres, np.float32)[np.argsort(-sizes, kind="stable")]


def _spread(k: int) -> Colour:
    """A colour of its own for class k, hues a golden angle apart."""
    hue = int((k * 0.618034 % 1.0) * 180)
    return _colour(cv2.cvtColor(np.array([[[hue, 160, 210]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0])


def _colour(numbers: Sequence[float] | NDArray[np.uint8]) -> Colour:
    red, green, blue = (int(number) for number in numbers)
    return red, green, blue
