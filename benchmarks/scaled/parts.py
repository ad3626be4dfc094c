"""The user's patches: read, brought to one size, and split by group into the parts of the study, seed by seed."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from g2l.deploy.runtime.folder import replace_bytes
from g2l.errors import CohortError
from g2l.evaluation.tables.groups import carve, deal
from g2l.evaluation.tables.listing import Listing, read_columns
from g2l.evaluation.tables.table import Table
from g2l.slides.split import divided
from g2l.sums import sha256
from scaled.files import read_rows, write_rows

TEACHER, DISTIL, PROBE, TEST = "teacher", "distil", "probe", "test"
# Groups are dealt into twelve blocks; each seed takes these many for its parts, two blocks further on than the seed
# before, so that six seeds test every group once.
BLOCKS = {TEST: 2, PROBE: 2, TEACHER: 5, DISTIL: 3}
TURN = BLOCKS[TEST]
TOTAL = sum(BLOCKS.values())
VALIDATION = 0.1  # share of the groups of a training on which nothing is chosen, but its course can be seen
COLUMNS = ("path", "label", "group", "centre", "part")


def read_patches(folder: Path) -> Table:
    """The one CSV of a folder of patches, columns path, label, group and, if there is one, centre; patients = groups.

    Raises:
        CohortError: no CSV or several, columns, files or values that are missing, fewer groups than blocks.
    """
    lists = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    if len(lists) != 1:
        found = ", ".join(file.name for file in lists) or "none"
        raise CohortError(f"{folder} must hold one CSV with the columns path, label and group, but holds {found}")
    if "group" not in read_columns(lists[0]):
        raise CohortError(f"list {lists[0]} has no column group: patches of one origin could end in two parts; add it")
    table = Listing(str(lists[0]), columns={"patient": "group"}, name=folder.resolve().name).read()
    for what, column in (("group", table.patients), ("label", table.labels)):
        if (column == "").any():
            raise CohortError(f"list {lists[0]}: {int((column == '').sum())} patches have no {what}; fill it in")
    outside = [name for name in table.ids.tolist() if Path(name).is_absolute() or ".." in Path(name).parts]
    twice = [name for name, count in Counter(names(table)).items() if count > 1]
    if outside or twice:
        what = f"{outside[0]} lies outside {folder}" if outside else f"{twice[0]} would be the name of two patches"
        raise CohortError(f"list {lists[0]}: {what}; give every patch a path of its own below the folder of the list")
    counted = {str(label): len(np.unique(table.patients[table.labels == label])) for label in np.unique(table.labels)}
    few = [f"{label} {count}" for label, count in counted.items() if count < TOTAL]
    if len(counted) < 2 or few:
        raise CohortError(
            f"list {lists[0]}: the groups of each of two classes or more are dealt into {TOTAL} blocks, but there are "
            f"too few of {', '.join(few) or 'a second class'}; give at least {TOTAL} of each"
        )
    return table


def prepare(table: Table, out: Path, size: int) -> str:
    """Every patch as out/<id>.png: the square in its middle, brought to `size` px by averaging areas.

    Returns:
        SHA-256 of them all, with their names.
    Raises:
        CohortError: an image that cannot be read.
    """
    found = hashlib.sha256()
    for path, name in tqdm(list(zip(table.paths.tolist(), names(table), strict=True)), desc="patches", disable=None):
        _prepare(path, out / name, size)
        found.update(f"{name} {sha256(out / name)}\n".encode())
    return found.hexdigest()


def _prepare(path: str, target: Path, size: int) -> None:
    if not target.is_file() or target.stat().st_mtime < Path(path).stat().st_mtime:
        image = cv2.imread(path, cv2.IMREAD_COLOR)
        if image is None:
            raise CohortError(f"patch {path} cannot be read; replace it, or leave it out of the list")
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = image[top : top + side, left : left + side]
        if side != size:
            square = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(target, cv2.imencode(".png", square)[1].tobytes())


def names(table: Table) -> list[str]:
    """(N,) what each patch is called once it is prepared."""
    return [f"{Path(name).with_suffix('')}.png" for name in table.ids.tolist()]


def assign(table: Table, seed: int) -> list[str]:
    """(N,) the part of every patch; no group is in two."""
    groups = np.unique(table.patients, return_inverse=True)[1]
    turns = TOTAL // TURN
    blocks = deal(groups, table.labels, TOTAL, seed // turns)
    place = (blocks - TURN * (seed % turns)) % TOTAL
    order = np.repeat(list(BLOCKS), list(BLOCKS.values()))
    return order[place].tolist()


def write_parts(table: Table, seed: int, folder: Path) -> None:
    """parts.csv, from which everything else of a seed is made; the one that is there is kept."""
    file = folder / "parts.csv"
    if file.is_file():
        return
    columns = (names(table), table.labels, table.patients, table.centres, assign(table, seed))
    rows: list[dict[str, str]] = [dict(zip(COLUMNS, map(str, row), strict=True)) for row in zip(*columns, strict=True)]
    write_rows(file, rows, COLUMNS)


def read_parts(folder: Path) -> list[dict[str, str]]:
    """The rows of parts.csv.

    Raises:
        CohortError: a group is in two parts, or a part is not known.
    """
    rows = read_rows(folder / "parts.csv")
    torn = divided([row["group"] for row in rows], [row["part"] for row in rows])
    if torn:
        raise CohortError(
            f"{folder / 'parts.csv'}: {len(torn)} groups are in more than one part ({', '.join(torn[:3])}); copies of "
            "one field would be trained and tested on: remove the file, and the study deals the groups again"
        )
    strange = sorted({row["part"] for row in rows} - set(BLOCKS))
    if strange:
        raise CohortError(f"{folder / 'parts.csv'}: parts {', '.join(strange)} are none of {', '.join(BLOCKS)}")
    return rows


def write_manifests(rows: Sequence[dict[str, str]], seed: int, folder: Path) -> None:
    """What the verbs read: teacher.csv; distil.csv, which says nothing of classes; labelled.csv, the same patches with
    them; test.csv, whose `train` are the probes'.
    """
    for part, files in ((TEACHER, {"teacher.csv": True}), (DISTIL, {"distil.csv": False, "labelled.csv": True})):
        held = _held_out(rows, part, seed)
        split = ["test" if row["part"] != part else "val" if row["group"] in held else "train" for row in rows]
        stated = [row | {"split": each} for row, each in zip(rows, split, strict=True)]
        for file, labelled in files.items():
            write_rows(folder / file, stated, ("path", "group", "split", *(["label"] if labelled else [])))
    judged = [
        row | {"split": "test" if row["part"] == TEST else "train"} for row in rows if row["part"] in (TEST, PROBE)
    ]
    columns = ("path", "label", "group", "split", *(["centre"] if any(row["centre"] for row in rows) else []))
    write_rows(folder / "test.csv", judged, columns)


def first(rows: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    """Up to `count` rows of each group, in their order."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        seen[row["group"]] += 1
        if seen[row["group"]] <= count:
            found.append(row)
    return found


def _held_out(rows: Sequence[dict[str, str]], part: str, seed: int) -> set[str]:
    of_part = [row for row in rows if row["part"] == part]
    groups, labels = (np.array([row[name] for row in of_part]) for name in ("group", "label"))
    held = carve(np.unique(groups, return_inverse=True)[1], labels, VALIDATION, seed)
    return set(groups[held].tolist())
