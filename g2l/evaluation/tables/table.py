"""The rows of a data set, as every task sees them. Letter: N rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError

Texts = NDArray[np.str_]
SHOWN = 5  # names that a message lists


@dataclass(frozen=True)
class Table:
    """N images or slides and what is known of them; every array has N rows, "" says that nothing is known.

    Attributes:
        name: of the data set, for messages and reports.
        ids: unique and stable: the path below the data set's root, with `#12` for an image inside a stack.
        paths: absolute, the file that holds the image or slide.
        rows: which image of a file that holds several (HDF5, npy, Parquet); -1 where the file is the image.
        labels, patients, slides, centres: text.
        splits: "train", "val", "test" or "".
        mpp: um per px of the images, None where unknown or mixed.
        extra: further columns by name (`time`, `event`, `target`: path of a mask, ...), N rows each.
        origin: what a report says of it: `homepage`, `licence`, `citation`.
        independent: True where the publisher says that every image is of another patient, or the user declares it;
            then a row without a patient counts as a patient of its own.
    """

    name: str
    ids: Texts
    paths: Texts
    rows: NDArray[np.int64]
    labels: Texts
    patients: Texts
    slides: Texts
    centres: Texts
    splits: Texts
    mpp: float | None = None
    extra: Mapping[str, NDArray] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    independent: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def __post_init__(self) -> None:
        columns = {
            "ids": self.ids, "paths": self.paths, "rows": self.rows, "labels": self.labels, "patients": self.patients,
            "slides": self.slides, "centres": self.centres, "splits": self.splits, **self.extra,
        }  # fmt: skip
        wrong = {name: column.shape for name, column in columns.items() if column.shape != (len(self.ids),)}
        if wrong:
            raise CohortError(f"table {self.name}: columns {wrong} for {len(self.ids)} rows; give one value per row")
        if not len(self.ids):
            raise CohortError(f"table {self.name} has no rows; look at its folder or file")
        names, counts = np.unique(self.ids, return_counts=True)
        if (counts > 1).any():
            twice = ", ".join(names[counts > 1][:SHOWN].tolist())
            raise CohortError(
                f"table {self.name}: {int((counts > 1).sum())} paths occur more than once ({twice}); keep one each"
            )

    @property
    def units(self) -> Texts:
        """(N,) whom a row belongs to when rows are kept together or drawn again: the patient, where unknown the slide,
        and a row of its own where neither is known.
        """
        return np.where(self.patients != "", self.patients, np.where(self.slides != "", self.slides, self.ids))

    @classmethod
    def build(
        cls,
        name: str,
        paths: list[Path],
        root: Path,
        *,
        rows: NDArray[np.int64] | None = None,
        mpp: float | None = None,
        extra: Mapping[str, NDArray] | None = None,
        origin: Mapping[str, str] | None = None,
        independent: bool = False,
        **columns: list[str] | NDArray | None,
    ) -> "Table":
        """A table from N paths; `ids` are the paths below `root` (absolute outside it), with `#row` inside a stack.

        Args:
            columns: labels, patients, slides, centres, splits: one text per row; "" everywhere when left out.
        """
        number = np.full(len(paths), -1, np.int64) if rows is None else rows
        places = [path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path) for path in paths]
        ids = [place if row < 0 else f"{place}#{row}" for place, row in zip(places, number.tolist(), strict=True)]
        unknown = set(columns) - {"labels", "patients", "slides", "centres", "splits"}
        if unknown:
            raise TypeError(f"no columns of a table: {', '.join(sorted(unknown))}")

        def text(key: str) -> Texts:
            values = columns.get(key)
            return np.full(len(paths), "") if values is None else np.asarray(values, dtype=np.str_)

        return cls(
            name, np.asarray(ids, np.str_), np.asarray([str(path) for path in paths], np.str_), number,
            text("labels"), text("patients"), text("slides"), text("centres"), text("splits"),
            mpp, extra or {}, origin or {}, independent,
        )  # fmt: skip


class Source:
    """Where a table comes from; a subclass per published layout. Subclasses take plain settings in `__init__` (they
    stand in YAML), touch no file there, and read all in `read`.
    """

    def read(self) -> Table:
        """The table.

        Raises:
            CohortError: what is missing or wrong, where it is expected, and where to get it: all in one line.
        """
        raise NotImplementedError
