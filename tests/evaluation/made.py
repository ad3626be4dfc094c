"""Embeddings that a test made up, where a task expects those of an encoder. Letters: N rows, D width, P token width."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.embedding.features import Bag, Features
from g2l.evaluation.tables.splits import Split
from g2l.evaluation.tables.table import Table
from g2l.evaluation.tasks.task import Context


class MadeFeatures:
    """Features in memory; what was not given cannot be asked for.

    Attributes:
        asked: rows of every call, in order: (method, rows).
    """

    def __init__(
        self,
        cls: NDArray[np.float32] | None = None,
        tokens: NDArray[np.float32] | None = None,
        bags: Mapping[int, Bag] | None = None,
        key: str = "made",
    ) -> None:
        """Args: cls: (N, D). tokens: (N, h, w, P). bags: of slides, by row of the table."""
        self._cls, self._tokens, self._bags, self.key = cls, tokens, bags, key
        self.asked: list[tuple[str, list[int]]] = []

    def key_of(self, rows: NDArray[np.int64]) -> str:
        return f"{self.key} {rows.tolist()}"

    def cls(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        assert self._cls is not None, "this test made no embeddings of images"
        self.asked.append(("cls", rows.tolist()))
        return self._cls[rows].astype(np.float32)

    def tokens(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        assert self._tokens is not None, "this test made no tokens"
        self.asked.append(("tokens", rows.tolist()))
        return self._tokens[rows].astype(np.float32)

    def bag(self, row: int) -> Bag:
        assert self._bags is not None, "this test made no bags"
        self.asked.append(("bag", [int(row)]))
        return self._bags[int(row)]


def parts(table: Table) -> Split:
    """The split that the table's column `splits` states."""
    train, val, test = (np.flatnonzero(table.splits == part) for part in ("train", "val", "test"))
    return Split(train, val, test)


def context(
    table: Table,
    features: Features,
    others: Mapping[str, Features] | None = None,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
    split: Split | None = None,
) -> Context:
    """A run of encoder "made" on the table; `others`: features of further encoders by name."""
    named = {"made": features, **(others or {})}
    return Context(table, split or parts(table), "made", features, named.__getitem__, seed, report)
