"""Small tables beside slides (labels, clinical data), and the slide files below a folder."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from g2l.errors import CohortError

Row = dict[str, str]


def read_rows(path: Path, remedy: str) -> list[Row]:
    """A CSV (comma, semicolon or tab; UTF-8) as one dict per line; values stripped, lines that begin with # left out.

    Args:
        remedy: where to get the file.
    Raises:
        CohortError: it is not there, cannot be read, or has no rows.
    """
    if not path.is_file():
        raise CohortError(f"{path} does not exist; {remedy}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        delimiter = max(",;\t", key=lines[0].count) if lines else ","
        rows = list(csv.DictReader(io.StringIO("\n".join(lines), newline=""), delimiter=delimiter, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path} cannot be read ({error}); {remedy}") from error
    if not rows:
        raise CohortError(f"{path} has no rows; {remedy}")
    return [{(key or "").strip(): (value or "").strip() for key, value in row.items() if key} for row in rows]


def column_of(rows: Sequence[Row], names: Sequence[str], path: Path, what: str) -> str:
    """The first of `names` that is a column, whatever its case and whether it is written with spaces or `_`.

    Raises:
        CohortError: none is.
    """
    found = {_key(name): name for name in rows[0]}
    for name in names:
        if _key(name) in found:
            return found[_key(name)]
    raise CohortError(
        f"{path} has no column for the {what} (looked for {', '.join(names)}; it has {', '.join(rows[0])}); name it"
    )


def slide_files(root: Path, suffixes: Sequence[str], remedy: str) -> list[Path]:
    """All slides below a folder, at any depth, sorted.

    Raises:
        CohortError: there are none.
    """
    found: list[Path] = []
    for folder, inside, names in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += [Path(folder, name) for name in names if name.lower().endswith(tuple(suffixes)) and name[0] != "."]
    if not found:
        raise CohortError(f"no slides ({', '.join(suffixes)}) below {root}; {remedy}")
    return sorted(found)


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace(".", "_")
