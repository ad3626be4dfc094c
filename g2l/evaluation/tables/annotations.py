"""Annotations of publishers -> codes of pixels: 0 background, 1 to C the classes, 255 not judged.

Letters: `H` x `W` px of a mask, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError

BACKGROUND, IGNORED = 0, 255
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Legend:
    """What the values of a mask mean.

    Attributes:
        classes: name -> value, or values that are one class; the first is code 1. The value 0 is background unless it
            stands here or in `ignore`.
        ignore: values of pixels that are neither trained on nor judged.
        instances: every value above 0 is an object (a nucleus) of the only class, and `classes` gives just its name.
    """

    classes: Mapping[str, int | Sequence[int]]
    ignore: Sequence[int] = ()
    instances: bool = False

    def codes(self, mask: NDArray[Any], where: str) -> Codes:
        """Codes of a mask (H, W).

        Raises:
            CohortError: it is not (H, W) whole numbers, or holds values that the legend does not know.
        """
        if mask.ndim != 2:
            raise CohortError(f"mask {where} has shape {mask.shape}; give one value for each pixel, (height, width)")
        if mask.dtype == np.bool_:
            mask = mask.astype(np.uint8)
        if self.instances:
            return (mask > 0).astype(np.uint8)
        known = {0: BACKGROUND}
        for code, values in enumerate(self.classes.values(), start=1):
            known |= dict.fromkeys([values] if isinstance(values, int) else values, code)
        known |= dict.fromkeys(self.ignore, IGNORED)
        values, places = np.unique(mask, return_inverse=True)
        unknown = [value for value in values.tolist() if value not in known]
        if unknown:
            stated = ", ".join(f"{name} = {value}" for name, value in self.classes.items())
            raise CohortError(
                f"mask {where} holds the values {', '.join(map(str, unknown[:5]))}, which are no class ({stated}); add "
                "them to the classes or to the values to ignore"
            )
        return np.array([known[value] for value in values.tolist()], np.uint8)[places].reshape(mask.shape)


def read_mask(path: str | Path, row: int = -1) -> NDArray[Any]:
    """A mask as it lies in a file: (H, W) of an image of one channel (PNG, TIFF; palettes give their numbers), or a row
    of an npy stack.

    Raises:
        CohortError: it is not there, or is no such mask.
    """
    from PIL import Image

    try:
        if row >= 0:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)[row])
        with Image.open(path) as image:
            if len(image.getbands()) > 1:
                raise ValueError(f"it has {len(image.getbands())} colour channels instead of one of values")
            return np.asarray(image)
    except (OSError, ValueError, IndexError, SyntaxError, Image.DecompressionBombError) as error:
        raise CohortError(f"mask {path} cannot be read ({error}); replace it, or leave its image out") from error


def read_mat(path: Path) -> NDArray[np.int64]:
    """`type_map` (H, W) of a MATLAB file as CoNSeP has them: the class of every pixel, 0 for background."""
    from scipy.io import loadmat

    try:
        mask = loadmat(path, variable_names=["type_map"])["type_map"]
    except (OSError, ValueError, KeyError, NotImplementedError, TypeError) as error:
        raise CohortError(f"annotation {path} holds no type_map ({error}); unpack it again") from error
    return np.asarray(mask).astype(np.int64)


def read_polygons(path: Path, height: int, width: int, codes: Mapping[str, int]) -> Codes:
    """Polygons of an Aperio XML, filled in the file's order. The class is the name of an annotation's first attribute.

    Args:
        codes: name of a class, in lower case -> code; annotations of other names are refused.
    Returns:
        (H, W) codes; a pixel is filled when its centre lies within, or on the outline.
    Raises:
        CohortError: it is no such file, or names an unknown class.
    """
    from xml.etree import ElementTree

    import cv2

    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise CohortError(f"annotation {path} cannot be read ({error}); unpack it again") from error
    filled = np.zeros((height, width), np.uint8)
    for annotation in root.iter("Annotation"):
        named = annotation.find("Attributes/Attribute")
        regions = annotation.findall("Regions/Region")
        name = "" if named is None else named.get("Name", "").strip()
        if not regions:
            continue
        if name.lower() not in codes:
            raise CohortError(f"annotation {path} names the class {name!r}; known are {', '.join(codes)}")
        for region in regions:
            try:
                corners = [(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iterfind("Vertices/Vertex")]
            except (KeyError, ValueError) as error:
                raise CohortError(f"annotation {path} has a vertex without X and Y; unpack it again") from error
            if len(corners) > 2:
                cv2.fillPoly(filled, [np.rint(corners).astype(np.int32)], codes[name.lower()])
    return filled
