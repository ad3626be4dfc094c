"""The manifest: a CSV that says what the slide files cannot (patient, centre, label, split, mpp, ...)."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from g2l.errors import CohortError
from g2l.slides.discover import discover
from g2l.slides.split import PARTS, divided

KNOWN = ("patient", "centre", "label", "split", "regions", "tissue")
FILES = ("regions", "tissue")
Row = dict[str, str]


class _Lookup:
    """Finds slides by path, file name or stem."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._by_path = {path.resolve(): path for path in files}
        self._by_name: dict[str, list[Path]] = {}
        for path in files:
            for key in {path.name, path.stem}:
                self._by_name.setdefault(key, []).append(path)

    def find(self, value: str, exact: Path | None) -> list[Path]:
        found = self._by_path.get(exact.resolve()) if exact else None
        return [found] if found else self._by_name.get(value, [])


@dataclass(frozen=True, slots=True)
class Entry:
    """A slide to index: `given` holds the manifest's columns other than slide and mpp (files as absolute paths)."""

    name: str
    path: Path
    mpp: float | None = None
    given: dict[str, str | None] = field(default_factory=dict)


def entries(slides: Path, manifest: Path | None, reserved: Sequence[str]) -> list[Entry]:
    """All slides to index, sorted by name.

    Args:
        slides: a folder, one slide, or a CSV with a column `slide` (then it is the manifest, and only its rows count).
        manifest: CSV; `slide` is a path relative to the CSV or to `slides`, a file name, or a stem. Columns patient,
            centre, label, split (train, val, test), mpp, regions (a region map) and tissue (a GeoJSON outline that
            replaces the computed mask) have a meaning, all others are carried along.
        reserved: names of columns that the index computes; a manifest may not use them.
    Raises:
        CohortError: one line with everything that is wrong.
    """
    if slides.suffix.lower() == ".csv":
        if manifest is not None:
            raise CohortError(f"{slides} is a CSV and so is --manifest {manifest}; give all columns in one of them")
        manifest, root = slides, slides.parent
        rows = read_rows(manifest, reserved)
        files = [path for path in dict.fromkeys(_beside(row["slide"], manifest, root) for row in rows) if path]
    else:
        root = slides if slides.is_dir() else slides.parent
        files = discover(slides)
        rows = read_rows(manifest, reserved) if manifest else []
    problems = _duplicates(files)
    matched: dict[Path, Row] = {}
    lookup = _Lookup(files)
    for number, row in enumerate(rows, start=2):
        hits = lookup.find(row["slide"], _beside(row["slide"], manifest or slides, root))
        if len(hits) != 1:
            what = (
                f"matches {len(hits)} slides ({', '.join(map(str, hits[:3]))})" if hits else "is not among the slides"
            )
            problems.append(f"line {number}: {row['slide']!r} {what}")
        elif hits[0] in matched:
            problems.append(f"line {number}: {row['slide']!r} is a second row for {hits[0]}")
        else:
            matched[hits[0]] = row
            problems += [f"line {number}: {problem}" for problem in _wrong_values(row, manifest or slides)]
    parts = [row.get("split") or None for row in matched.values()]
    torn = divided([row.get("patient") or None for row in matched.values()], parts)
    problems += [f"patient {patient} is in more than one part of the split" for patient in torn]
    if problems:
        more = f"; and {len(problems) - 8} more" if problems[8:] else ""
        raise CohortError(f"{manifest or slides}: {'; '.join(problems[:8])}{more}; correct it and run again")
    made = [_entry(path, matched.get(path, {}), manifest or slides) for path in files]
    return sorted(made, key=lambda entry: entry.name)


def read_rows(path: Path, reserved: Sequence[str]) -> list[Row]:
    """The rows of a CSV (comma, semicolon or tab; UTF-8), values stripped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(f"manifest {path} cannot be read ({error}); give a CSV in UTF-8") from error
    lines = text.splitlines()
    head = lines[0] if lines else ""
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(lines, delimiter=delimiter)
    columns = [name.strip() for name in reader.fieldnames or []]
    if "slide" not in columns:
        raise CohortError(f"manifest {path} has no column slide (it has: {', '.join(columns) or 'nothing'}); add it")
    taken = sorted(set(columns) & set(reserved) - {"mpp"})
    if taken or len(set(columns)) < len(columns):
        why = f"columns that the index computes: {', '.join(taken)}" if taken else "two columns of one name"
        raise CohortError(f"manifest {path} has {why}; rename them")
    rows = [{k.strip(): (v or "").strip() for k, v in row.items() if isinstance(k, str)} for row in reader]
    if not rows:
        raise CohortError(f"manifest {path} has no rows; add one line per slide")
    return rows


def _entry(path: Path, row: Row, manifest: Path) -> Entry:
    given: dict[str, str | None] = {key: row.get(key) or None for key in KNOWN}
    given |= {key: value or None for key, value in row.items() if key not in ("slide", "mpp")}
    for key in FILES:
        if row.get(key):
            given[key] = str((manifest.parent / row[key]).resolve())
    return Entry(path.stem, path.resolve(), float(row["mpp"]) if row.get("mpp") else None, given)


def _wrong_values(row: Row, manifest: Path) -> list[str]:
    wrong = [
        f"{key} {row[key]!r} does not exist"
        for key in FILES
        if row.get(key) and not (manifest.parent / row[key]).is_file()
    ]
    if row.get("split") and row["split"] not in PARTS:
        wrong.append(f"split {row['split']!r} is none of {', '.join(PARTS)}")
    try:
        float(row.get("mpp") or 1)
    except ValueError:
        wrong.append(f"mpp {row['mpp']!r} is no number")
    return wrong


def _beside(value: str, manifest: Path, root: Path) -> Path | None:
    return next((path for path in (manifest.parent / value, root / value) if value and path.is_file()), None)


def _duplicates(files: Sequence[Path]) -> list[str]:
    seen: dict[str, list[str]] = {}
    for path in files:
        seen.setdefault(path.stem, []).append(str(path))
    return [f"several slides are named {name} ({', '.join(where)})" for name, where in seen.items() if len(where) > 1]
