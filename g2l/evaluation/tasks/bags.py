"""Bags of patches of slides or patients. Letters: U units, m patches of a unit, D width."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, G2LError
from g2l.evaluation.embedding.features import Features
from g2l.evaluation.tables.table import Table

KEPT_BYTES = 2 << 30  # of embeddings that stay in memory; the others are read again whenever they are needed
TOP = 5  # patches of a slide that a report shows
SHOWN_UNITS = 20


class Bags:
    """The patches of U units, each of one or several slides (rows of the table)."""

    def __init__(self, features: Features, table: Table, rows: Sequence[NDArray[np.int64]]) -> None:
        """Args: rows: of every unit, the rows of its slides."""
        self._features, self._table, self._rows = features, table, rows
        self._kept: dict[int, NDArray[np.float32]] = {}
        self._left = KEPT_BYTES

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, unit: int) -> NDArray[np.float32]:
        """(m, D) embeddings of all its patches, slide after slide.

        Raises:
            CohortError: it has no patch.
            G2LError: an embedding is not finite.
        """
        if unit in self._kept:
            return self._kept[unit]
        parts = [self._features.bag(int(row)).embeddings for row in self._rows[unit]]
        bag = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if not len(bag):
            raise CohortError(f"slide {self._name(unit)} has no patches; look at its tissue mask, or leave it out")
        if not np.isfinite(bag).all():
            raise G2LError(
                f"slide {self._name(unit)}: embeddings hold nan or inf; use a checkpoint from before it diverged"
            )
        if bag.nbytes <= self._left:
            self._kept[unit], self._left = bag, self._left - bag.nbytes
        return bag

    def means(self) -> NDArray[np.float64]:
        """(U, D) the mean over the patches of every unit."""
        return np.stack([self[unit].mean(axis=0, dtype=np.float64) for unit in range(len(self))])

    def top(self, unit: int, weights: NDArray[np.float64]) -> list[dict[str, object]]:
        """The patches with the largest weights, as plain JSON.

        Args:
            weights: (m,) attention over the patches of the unit.
        Returns:
            largest first: `slide` (id), `x`, `y`, `size_um` (um from the slide's top-left corner), `weight`.
        """
        bags = [(int(row), self._features.bag(int(row))) for row in self._rows[unit]]
        slide = np.repeat(np.arange(len(bags)), [len(bag.embeddings) for _, bag in bags])
        place = np.concatenate([np.arange(len(bag.embeddings)) for _, bag in bags])
        found = []
        for patch in np.argsort(-weights, kind="stable")[:TOP].tolist():
            row, bag = bags[slide[patch]]
            k = int(place[patch])
            found.append(
                {
                    "slide": str(self._table.ids[row]),
                    "x": float(bag.x[k]),
                    "y": float(bag.y[k]),
                    "size_um": float(bag.size_um),
                    "weight": float(weights[patch]),
                }
            )
        return found

    def _name(self, unit: int) -> str:
        return ", ".join(self._table.ids[self._rows[unit]].tolist())


def shown_units(count: int, seed: int) -> list[int]:
    """Some units, drawn with `seed`, ascending: a report cannot show all."""
    drawn = np.random.default_rng(seed).permutation(count)[:SHOWN_UNITS]
    return np.sort(drawn).tolist()
