"""The manifest: a CSV that says what the slide files cannot (patient, centre, label, split, mpp, ...)."""

import csv
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from g2l.errors import CohortError
from g2l.slides.indexing.discover import RealPaths, Rejected, discover
from g2l.slides.split import PARTS, divided

KNOWN = ("patient", "centre", "label", "split", "regions", "tissue")
FILES = ("regions", "tissue")
AT_ONCE = 16  # questions to the file system: a network mount answers in a millisecond, but many at a time
Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A slide to index: `given` holds the manifest's columns other than slide and mpp (files as absolute paths)."""

    name: str
    path: Path
    mpp: float | None = None
    given: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV: its columns, and its rows by line number."""

    columns: tuple[str, ...]
    rows: dict[int, Row]


def entries(slides: Path, manifest: Path | None, reserved: Sequence[str]) -> tuple[list[Entry], list[Rejected]]:
    """All slides to index, sorted by name, and what cannot be indexed because it is not there.

    Args:
        slides: a folder, one slide, or a CSV with a column `slide` (then it is the manifest, and only its rows count).
        manifest: CSV; `slide` is a path relative to the CSV or to `slides`, a file name, or a stem. Columns patient,
            centre, label, split (train, val, test), mpp, regions (a region map) and tissue (a GeoJSON outline that
            replaces the computed mask) have a meaning, all others are carried along.
        reserved: names of columns that the index computes; a manifest may not use them.
    Raises:
        CohortError: one line with everything that is wrong.
    """
    real = RealPaths()
    rejected: list[Rejected] = []
    table = Table((), {})
    matched: dict[Path, Row] = {}
    if slides.suffix.lower() == ".csv":
        if manifest is not None:
            raise CohortError(f"{slides} is a CSV and so is --manifest {manifest}; give all columns in one of them")
        manifest = slides
        table = read_table(manifest, reserved)
        files = list(dict.fromkeys(manifest.parent / row["slide"] for row in table.rows.values()))
        problems = _matched_by_path(table, manifest, matched)
    else:
        files, rejected = discover(slides)
        problems = []
        if manifest is not None:
            table = read_table(manifest, reserved)
            lookup = _Lookup(files, (manifest.parent, slides if slides.is_dir() else slides.parent), real)
            problems = _matched_by_name(table, lookup, matched, manifest, rejected)
    where = manifest or slides
    problems += _duplicates(files, real) + _wrong_values(table, where)
    parts = [row.get("split") or None for row in matched.values()]
    torn = divided([row.get("patient") or None for row in matched.values()], parts)
    problems += [f"patient {patient} is in more than one part of the split" for patient in torn]
    if problems:
        more = f"; and {len(problems) - 8} more" if problems[8:] else ""
        raise CohortError(f"{where}: {'; '.join(problems[:8])}{more}; correct it and run again")
    columns = [name for name in dict.fromkeys((*KNOWN, *table.columns)) if name not in ("slide", "mpp")]
    made = [_entry(path, matched.get(path, {}), columns, where, real) for path in files]
    return sorted(made, key=lambda entry: entry.name), rejected


def read_table(path: Path, reserved: Sequence[str]) -> Table:
    """A CSV with a column slide (comma, semicolon or tab; UTF-8), values stripped.

    Raises:
        CohortError: not readable, or no such table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        head = text.lstrip().partition("\n")[0]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
        lines = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"manifest {path} cannot be read ({error}); give a CSV in UTF-8") from error
    columns = [name.strip() for name in lines[0][1]] if lines else []
    while columns and not columns[-1]:  # spreadsheets end lines with empty cells
        columns.pop()
    if "slide" not in columns:
        raise CohortError(f"manifest {path} has no column slide (it has: {', '.join(columns) or 'nothing'}); add it")
    taken = sorted(set(columns) & set(reserved) - {"mpp"})
    if taken or len(set(columns)) < len(columns):
        why = f"columns that the index computes: {', '.join(taken)}" if taken else "two columns of one name"
        raise CohortError(f"manifest {path} has {why}; rename them")
    if len(lines) < 2:
        raise CohortError(f"manifest {path} has no rows; add one line per slide")
    wide = next(((number, cells) for number, cells in lines if any(map(str.strip, cells[len(columns) :]))), None)
    if wide:
        raise CohortError(
            f"manifest {path}: line {wide[0]} has {len(wide[1])} values for {len(columns)} columns; put quotes around "
            "values that hold the separator"
        )
    blank = ("",) * len(columns)
    rows = {number: dict(zip(columns, map(str.strip, (*cells, *blank)), strict=False)) for number, cells in lines[1:]}
    return Table(tuple(columns), rows)


class _Lookup:
    """Finds slides by path, file name or stem."""

    def __init__(self, files: Sequence[Path], folders: Sequence[Path], real: RealPaths) -> None:
        self._folders, self._real = folders, real
        self._by_path = {real(path): path for path in files}
        self._by_name: dict[str, list[Path]] = {}
        for path in files:
            for key in {path.name, path.stem}:
                self._by_name.setdefault(key, []).append(path)

    def find(self, value: str) -> list[Path]:
        for folder in self._folders:
            found = self._by_path.get(self._real(folder / value)) if value else None
            if found:
                return [found]
        return self._by_name.get(value, [])


def _matched_by_path(table: Table, manifest: Path, matched: dict[Path, Row]) -> list[str]:
    problems: list[str] = []
    for number, row in table.rows.items():
        path = manifest.parent / row["slide"]
        if not row["slide"]:
            problems.append(f"line {number}: names no slide")
        elif path in matched:
            problems.append(f"line {number}: {row['slide']!r} is a second row for {path}")
        matched[path] = row
    return problems


def _matched_by_name(
    table: Table, lookup: _Lookup, matched: dict[Path, Row], manifest: Path, rejected: list[Rejected]
) -> list[str]:
    """Fills `matched`; rows of slides that are not there are rejected, unless that is all of them."""
    problems: list[str] = []
    absent: dict[int, Row] = {}
    for number, row in table.rows.items():
        hits = lookup.find(row["slide"])
        if not hits:
            absent[number] = row
        elif len(hits) > 1:
            some = ", ".join(map(str, hits[:3]))
            problems.append(f"line {number}: {row['slide']!r} matches {len(hits)} slides ({some})")
        elif hits[0] in matched:
            problems.append(f"line {number}: {row['slide']!r} is a second row for {hits[0]}")
        else:
            matched[hits[0]] = row
    if not matched:
        return problems + [f"line {number}: {row['slide']!r} is not among the slides" for number, row in absent.items()]
    for number, row in absent.items():
        reason = f"line {number} of {manifest.name} names it, but it is not among the slides"
        rejected.append(Rejected(row["slide"], reason, "bring the file, or correct the line"))
    return problems


def _entry(path: Path, row: Row, columns: Iterable[str], manifest: Path, real: RealPaths) -> Entry:
    given: dict[str, str | None] = {key: row.get(key) or None for key in columns}
    for key in FILES:
        if row.get(key):
            given[key] = str(real(manifest.parent / row[key]))
    return Entry(path.stem, real(path), float(row["mpp"]) if row.get("mpp") else None, given)


def _wrong_values(table: Table, manifest: Path) -> list[str]:
    wrong: list[str] = []
    named = [(number, key, row[key]) for number, row in table.rows.items() for key in FILES if row.get(key)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        there = threads.map(lambda one: (manifest.parent / one[2]).is_file(), named)
        for (number, key, value), good in zip(named, there, strict=True):
            if not good:
                wrong.append(f"line {number}: {key} {value!r} does not exist")
    for number, row in table.rows.items():
        if row.get("split") and row["split"] not in PARTS:
            wrong.append(f"line {number}: split {row['split']!r} is none of {', '.join(PARTS)}")
        try:
            float(row.get("mpp") or 1)
        except ValueError:
            wrong.append(f"line {number}: mpp {row['mpp']!r} is no number")
    return wrong


def _duplicates(files: Sequence[Path], real: RealPaths) -> list[str]:
    """Two slides of one name, or one file under two names."""
    names: dict[str, list[str]] = {}
    targets: dict[Path, list[str]] = {}
    for path in files:
        names.setdefault(path.stem, []).append(str(path))
        targets.setdefault(real(path), []).append(str(path))
    problems = [f"several slides are named {name} ({', '.join(all_)})" for name, all_ in names.items() if all_[1:]]
    return problems + [f"one file under several names ({', '.join(all_)})" for all_ in targets.values() if all_[1:]]
