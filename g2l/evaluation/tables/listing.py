"""A data set of one's own: a CSV or Parquet file with one line per image or slide, and the files it names."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.tables.splits import PATIENTS, shown
from g2l.evaluation.tables.table import Source, Table, Texts

# What the columns of a list mean, under the names that `columns` can override.
KNOWN = {
    "path": "", "row": "", "label": "labels", "patient": "patients", "slide": "slides", "centre": "centres",
    "split": "splits",
}  # fmt: skip
# How others call the parts.
PARTS = {"training": "train", "valid": "val", "validation": "val", "tune": "val", "testing": "test"}


class Listing(Source):
    """Images or slides listed in a file: columns path, label, patient, slide, centre, split, row (which image of a
    stack), of which path is needed; all others go to `Table.extra`, as numbers where every value is one.
    """

    def __init__(
        self,
        listing: str,
        root: str | None = None,
        columns: dict[str, str] | None = None,
        name: str | None = None,
        label: bool = True,
        independent: bool = False,
        patients_unknown: str | None = None,
        mpp: float | None = None,
        homepage: str = "",
        licence: str = "",
        citation: str = "",
    ) -> None:
        """Where the list is and how to read it.

        Args:
            listing: CSV (comma, semicolon or tab; UTF-8) or Parquet file.
            root: folder that the paths in it are below; default: the list's own.
            columns: what the list calls a column, such as {label: diagnosis, patient: case}.
            name: of the data set in reports; default: the list's file name.
            label: whether a label column is needed; false for survival and other targets.
            independent: every row is of another patient.
            patients_unknown: who says that the parts of the split share no patient, where no column can.
            mpp: um per px of the images.
            homepage: of the data set. licence: of it. citation: of it; all three for the report.
        """
        self.listing, self.root, self.columns, self.name = listing, root, columns or {}, name
        self.label, self.independent, self.patients_unknown, self.mpp = label, independent, patients_unknown, mpp
        self.origin = {"homepage": homepage, "licence": licence, "citation": citation}

    def read(self) -> Table:
        """The table; its rows keep the order of the list."""
        file = Path(self.listing)
        root = (Path(self.root) if self.root is not None else file.parent).resolve()
        content = read_columns(file)
        self._check_columns(file, list(content))
        given = {key: content.pop(self.columns.get(key, key), None) for key in KNOWN}
        paths = given.pop("path")
        if paths is None:  # refused above
            raise CohortError(f"list {file} has no column path")
        if (paths == "").any():
            lines = (np.flatnonzero(paths == "") + 2).astype(np.str_)
            raise CohortError(f"list {file}: {len(lines)} lines have no path (lines {shown(lines)}); fill them in")
        rows = given.pop("row")
        splits = given["split"]
        if splits is not None:
            lower = np.char.lower(splits)
            given["split"] = np.array([PARTS.get(part, part) for part in lower.tolist()], np.str_)
        found = [root / path for path in paths.tolist()]
        require_files(f"list {file}", found)
        origin = {key: value for key, value in self.origin.items() if value}
        if self.patients_unknown is not None:
            origin[PATIENTS] = self.patients_unknown
        return Table.build(
            self.name or file.stem, found, root,
            rows=None if rows is None else _whole(file, rows), mpp=self.mpp, origin=origin,
            extra={key: as_numbers(column) for key, column in content.items()}, independent=self.independent,
            **{KNOWN[key]: column for key, column in given.items()},
        )  # fmt: skip

    def _check_columns(self, file: Path, names: list[str]) -> None:
        strange = set(self.columns) - set(KNOWN)
        if strange:
            raise CohortError(
                f"list {file}: `columns` names {shown(sorted(strange))}, but only {', '.join(KNOWN)} have a meaning"
            )
        wanted = {"path", *self.columns} | ({"label"} if self.label else set())
        lacking = [self.columns.get(key, key) for key in KNOWN if key in wanted]
        lacking = [name for name in lacking if name not in names]
        if lacking:
            raise CohortError(
                f"list {file} has no column {', '.join(lacking)} (it has: {', '.join(names)}); add it, or say with "
                "`columns` what it is called"
            )


def read_columns(file: Path) -> dict[str, Texts]:
    """The columns of a CSV or Parquet file as text, by name, without white space at their ends.

    Raises:
        CohortError: it cannot be read, or has no rows or two columns of one name.
    """
    try:
        names, lines = _parquet(file) if file.suffix.lower() in (".parquet", ".pq") else _csv(file)
    except FileNotFoundError as error:
        raise CohortError(f"list {file} does not exist (below {Path.cwd()}); correct its path") from error
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise CohortError(f"list {file} cannot be read ({why}); give a CSV in UTF-8, or Parquet") from error
    if len(set(names)) < len(names):
        raise CohortError(f"list {file} has two columns of one name; rename them")
    if not lines:
        raise CohortError(f"list {file} has no rows; add one line per image")
    uneven = [str(number + 2) for number, line in enumerate(lines) if len(line) != len(names)]
    if uneven:
        raise CohortError(f"list {file}: lines {shown(uneven)} have not {len(names)} values; quote what holds commas")
    return {name: np.array([line[k].strip() for line in lines], np.str_) for k, name in enumerate(names)}


def require_files(where: str, paths: list[Path]) -> None:
    """CohortError when files are missing: the first ones and the count. Each is looked at once."""
    missing = [path for path in dict.fromkeys(paths) if not path.is_file()]
    if missing:
        raise CohortError(
            f"{where}: {len(missing)} of {len(set(paths))} files are missing ({shown(missing)}); correct the paths or "
            "the root"
        )


def as_numbers(column: Texts) -> NDArray:
    """A column of text as float64 where every value is a number ("" becomes nan), else as it is."""
    try:
        return np.array([float(value) if value else np.nan for value in column.tolist()], np.float64)
    except ValueError:
        return column


def _csv(file: Path) -> tuple[list[str], list[list[str]]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        head = stream.readline()
        stream.seek(0)
        lines = [line for line in csv.reader(stream, delimiter=max(",;\t", key=head.count), strict=True) if line]
    return [name.strip() for name in lines[0]] if lines else [], lines[1:]


def _parquet(file: Path) -> tuple[list[str], list[list[str]]]:
    import pyarrow.parquet as pq

    table = pq.read_table(file)  # ArrowInvalid is a ValueError
    columns = [["" if value is None else str(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [list(line) for line in zip(*columns, strict=True)]


def _whole(file: Path, rows: Texts) -> NDArray[np.int64]:
    try:
        return np.array([int(row) if row else -1 for row in rows.tolist()], np.int64)
    except ValueError as error:
        raise CohortError(f"list {file}: column row must hold whole numbers ({error})") from error
