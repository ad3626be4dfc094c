"""Masks of a table's images, as far as an encoder saw them. Letters: `H` x `W` px of an image, B images, C classes."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.tables.annotations import Codes, Legend, read_mask
from g2l.evaluation.tables.table import Table

Rows = NDArray[np.int64]


class Truth:
    """Codes of a table's masks, as far as the encoder saw their images: the central square.

    Attributes:
        names: of the classes, by code. rows: which mask of its file; -1 where the file is the mask.
    """

    def __init__(self, table: Table, legend: Legend) -> None:
        self._table, self._legend = table, legend
        self.names = list(legend.classes)
        self.rows = np.asarray(table.extra.get("target_row", np.full(len(table), -1)), np.int64)
        self._sizes: dict[int, tuple[int, int, int]] = {}

    def size(self, row: int) -> tuple[int, int, int]:
        """(top, left, side) of the square in the image. The mask is not asked: it is the truth."""
        from g2l.evaluation.embedding.images import seen

        if row not in self._sizes:
            self._sizes[row] = seen(*self._shape(row))
        return self._sizes[row]

    def codes(self, row: int) -> Codes:
        """(side, side)."""
        top, left, side = self.size(row)
        mask, where = self._mask(row)
        return self._legend.codes(mask[top : top + side, left : left + side], where)

    def batch(self, rows: Rows, side: int) -> Codes:
        """(B, side, side): nearest, so that no code comes to be that was not there."""
        found = []
        for row in rows.tolist():
            codes = self.codes(row)
            nearest = ((np.arange(side) + 0.5) * len(codes) / side).astype(np.int64)
            found.append(codes[np.ix_(nearest, nearest)])
        return np.stack(found)

    def side(self, rows: Rows) -> int:
        """px of the largest square."""
        return max(self.size(row)[2] for row in rows.tolist())

    def pixels(self, rows: Rows) -> NDArray[np.int64]:
        """(C + 1,) judged pixels of each code."""
        found = np.zeros(256, np.int64)
        for row in rows.tolist():
            found += np.bincount(self.codes(row).ravel(), minlength=256)
        return found[: len(self.names) + 1]

    def check(self, row: int) -> None:
        """CohortError when the mask does not fit its image."""
        mask, where = self._mask(row)
        shape = self._shape(row)
        if mask.shape[:2] != shape:
            raise CohortError(
                f"mask {where} has {mask.shape[1]} x {mask.shape[0]} px, its image {self._table.ids[row]} {shape[1]} x "
                f"{shape[0]}; give a mask of the image's size"
            )
        self._legend.codes(mask, where)

    def _mask(self, row: int) -> tuple[NDArray[Any], str]:
        path, number = Path(str(self._table.extra["target"][row])), int(self.rows[row])
        # a path of its own stays as it is
        path = Path(str(self._table.paths[row])).parent / path
        return read_mask(path, number), f"{path}#{number}" if number >= 0 else str(path)

    def _shape(self, row: int) -> tuple[int, int]:
        """(H, W) of the image, from its header where it has one."""
        from PIL import Image

        from g2l.evaluation.embedding.images import read_image

        path, number = str(self._table.paths[row]), int(self._table.rows[row])
        if path.endswith(".npy") and number >= 0:
            return np.load(path, mmap_mode="r", allow_pickle=False).shape[1:3]
        if number < 0:
            with suppress(OSError, ValueError, Image.DecompressionBombError), Image.open(path) as image:
                return image.height, image.width
        height, width = read_image(path, number).shape[:2]
        return height, width
