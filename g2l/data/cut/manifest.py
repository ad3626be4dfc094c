"""The CSV that says of patches what their files cannot: patient, group, centre, label, split, mpp."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from g2l.data.cut.text import places, shown, stripped
from g2l.errors import CohortError
from g2l.slides.resolution import PLAUSIBLE_MPP, plausible
from g2l.slides.split import PARTS

KEYS = ("path", "file", "slide", "name")  # columns that may say which patch, or which slide, a row is about


class Manifest(NamedTuple):
    """The rows of a CSV, all text: `keys` name patches or slides, `columns` say something of them."""

    path: Path
    keys: pa.StringArray
    columns: dict[str, pa.StringArray]


def read_manifest(path: Path) -> Manifest:
    """Read a CSV (comma, semicolon or tab; UTF-8); values are stripped, empty ones are null.

    Raises:
        CohortError: it cannot be read, has no rows, or no column path (file, slide, name).
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.readline().strip()
        delimiter = max(",;\t", key=head.count)
        names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(column_names=names, skip_rows=1),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise CohortError(f"manifest {path} cannot be read ({error}); give a CSV in UTF-8") from error
    if len(set(names)) < len(names):
        raise CohortError(f"manifest {path} has two columns of one name; rename them")
    key = next((name for name in KEYS if name in names), None)
    if key is None:
        raise CohortError(f"manifest {path} has no column {', '.join(KEYS)} (it has: {', '.join(names)}); add one")
    if not table.num_rows:
        raise CohortError(f"manifest {path} has no rows; add one line per patch or slide")
    columns = {name: stripped(table.column(name)) for name in names}
    return Manifest(path, columns.pop(key), columns)


def join(
    manifest: Manifest, root: Path, names: pa.StringArray, slides: pa.DictionaryArray
) -> dict[str, pa.DictionaryArray]:
    """The manifest's columns, row by row of the patches; null where it says nothing.

    A key is a patch's path below `root` (or beside the manifest), or a slide's name, which then speaks of all its
    patches; what is said of a patch itself goes first.

    Args:
        names, slides: (N,) of every patch.
    Raises:
        CohortError: one line with everything that is wrong.
    """
    patch_of, slide_of, problems = _locate(manifest, root, names, slides.dictionary)
    problems += wrong_values(manifest.columns)
    line_of_slide, line = np.full(len(slides.dictionary), -1), np.full(len(names), -1)
    for target, found, kind in ((line_of_slide, slide_of, slides.dictionary), (line, patch_of, names)):
        lines = np.flatnonzero(found >= 0)
        target[found[lines[::-1]]] = lines[::-1]  # the first of two rows stays
        spare = lines[target[found[lines]] != lines].tolist()
        problems += [f"line {k + 2}: a second row for {kind[int(found[k])]}" for k in spare]
    if problems:
        raise CohortError(f"manifest {manifest.path}: {shown(problems)}; correct it and run again")
    line = np.where(line >= 0, line, line_of_slide[slides.indices.to_numpy()])
    rows = pa.array(line, mask=line < 0)
    return {name: column.dictionary_encode().take(rows) for name, column in manifest.columns.items()}


def _locate(
    manifest: Manifest, root: Path, names: pa.StringArray, slides: pa.StringArray
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Of every line the patch or else the slide it is about, -1 where neither; and what is wrong with the others."""
    patch_of = places(manifest.keys, names)
    slide_of = np.full(len(patch_of), -1)
    problems: list[str] = []
    rest = np.flatnonzero(patch_of < 0)
    keys = [manifest.keys[k].as_py() or "" for k in rest.tolist()]
    inside = np.zeros(len(rest), np.bool_)
    for base in (root, manifest.path.parent.resolve()):
        below = pa.array([_below(root, base, key) for key in keys], pa.string())
        patch_of[rest] = np.maximum(patch_of[rest], places(below, names))
        inside |= below.is_valid().to_numpy(zero_copy_only=False)
    number = {name: k for k, name in enumerate(slides.to_pylist())}
    for line, key, within in zip(rest.tolist(), keys, inside.tolist(), strict=True):
        if patch_of[line] >= 0:
            continue
        # a table of slides may name their files: s1.svs for the patches of s1
        slide = next((number[name] for name in (key, Path(key).name, Path(key).stem) if name in number), None)
        if within and slide is not None:
            slide_of[line] = slide
        else:
            what = "is no patch and no slide of this folder" if within else f"lies outside {root}"
            problems.append(f"line {line + 2}: {key!r} {what}")
    return patch_of, slide_of, problems


def _below(root: Path, base: Path, key: str) -> str | None:
    """The path `key`, seen from `base`, relative to `root`; None outside it. No file is looked at."""
    # text instead of Path: there may be a million
    path = os.path.normpath(key if key.startswith("/") else f"{base}/{key}")
    return path.removeprefix(f"{root}/") if path == str(root) or path.startswith(f"{root}/") else None


def wrong_values(columns: Mapping[str, pa.Array]) -> list[str]:
    """Values of the columns split and mpp that cannot be, each once."""
    values = {name: columns[name].unique().drop_null().to_pylist() for name in ("split", "mpp") if name in columns}
    wrong = [
        f"split {value!r} is none of {', '.join(PARTS)}" for value in values.get("split", []) if value not in PARTS
    ]
    low, high = PLAUSIBLE_MPP
    for value in values.get("mpp", []):
        try:
            possible = plausible(float(value))
        except ValueError:
            possible = False
        if not possible:
            wrong.append(f"mpp {value!r} is no number of um/px in {low:g}-{high:g}")
    return wrong
