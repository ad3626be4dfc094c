"""Which slides train and which are held out: whole groups (patients, centres), never parts of one."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from g2l.errors import CohortError

PARTS = ("train", "val", "test")


class Table(Protocol):
    """Rows with columns of text, None where nothing is known."""

    @property
    def columns(self) -> list[str]:
        """The names `column` knows."""
        ...

    def column(self, name: str) -> list[Any]:
        """All values of a column; CohortError, listing the columns there are, when it is unknown."""
        ...


def split_table(
    table: Table,
    where: str,
    hold_out: str,
    fraction: float,
    seed: int,
    rows: str = "slides",
    name: str = "name",
    whole: Sequence[str] = ("patient",),
) -> dict[str, list[int]]:
    """Rows for "train", "val" and "test", so that no value of the column `hold_out` occurs in two of them.

    The table's `split` column decides where there is one (and is refused where it breaks that rule); otherwise whole
    groups go to val, `fraction` of them drawn with `seed`, and test is empty.

    Args:
        where, rows, name: for messages: the table ("cohort X"), what its rows are, and the column that names them.
        whole: columns of which, whatever is held out, no value may occur in two parts.
    Raises:
        CohortError: unknown column, rows without a value, one group only, or a group in two parts.
    """
    values = [None if value is None else str(value) for value in table.column(hold_out)]
    groups = [value for value in values if value is not None]
    if len(groups) < len(values):
        lacking = [str(row) for row, value in zip(table.column(name), values, strict=True) if value is None]
        more = ", ..." if lacking[5:] else ""
        raise CohortError(
            f"{where}: {len(lacking)} {rows} have no {hold_out} ({', '.join(lacking[:5])}{more}); give it "
            f"in the manifest, or hold out by another column ({name}: each on its own)"
        )
    stated = table.column("split") if "split" in table.columns else []
    if any(part is not None for part in stated):
        parts = split_stated(where, hold_out, groups, stated, table.column(name), rows)
    else:
        parts = split_groups(where, hold_out, groups, fraction, seed, rows)
    part_of = {row: part for part, found in parts.items() for row in found}
    for column in (column for column in whole if column in table.columns and column != hold_out):
        torn = divided(table.column(column), [part_of[row] for row in range(len(part_of))])
        if torn:
            raise CohortError(
                f"{where}: holding out by {hold_out} puts {column}s into two parts: {', '.join(torn[:5])}; hold "
                f"out by {column}, or give a split column that keeps {column}s whole"
            )
    return parts


def split_groups(
    where: str, column: str, groups: Sequence[str], fraction: float, seed: int, rows: str = "slides"
) -> dict[str, list[int]]:
    """Hold out a share of the groups, drawn with `seed` and independent of the order of the rows.

    Args:
        where, column, rows: for messages. groups: of every row.
        fraction: of the groups; at least one is held out and at least one is left.
    """
    if not 0 < fraction < 1:
        raise CohortError(f"{where}: the share to hold out is {fraction}; give a number between 0 and 1")
    names = sorted(set(groups))
    if len(names) < 2:
        raise CohortError(
            f"{where}: all {len(groups)} {rows} have one {column} ({', '.join(names)}), nothing can be "
            f"held out; add {rows}, give a split column in the manifest, or hold out by another column"
        )
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    held = {names[k] for k in np.random.default_rng(seed).permutation(len(names))[:count]}
    return {
        "train": [i for i, group in enumerate(groups) if group not in held],
        "val": [i for i, group in enumerate(groups) if group in held],
        "test": [],
    }


def split_stated(
    where: str,
    column: str,
    groups: Sequence[str],
    parts: Sequence[str | None],
    names: Sequence[str],
    rows: str = "slides",
) -> dict[str, list[int]]:
    """The split a manifest states, refused where it is incomplete or divides a group."""
    wrong = [f"{name}: {part}" for name, part in zip(names, parts, strict=True) if part not in PARTS]
    if wrong:
        raise CohortError(
            f"{where}: split must be {', '.join(PARTS)} for all {rows}, but: {'; '.join(wrong[:5])}; "
            "correct it in the manifest"
        )
    torn = divided(groups, parts)
    if torn:
        raise CohortError(
            f"{where}: {column} in more than one part of the split: {', '.join(torn)}; put each into one part"
        )
    found = {part: [i for i, value in enumerate(parts) if value == part] for part in PARTS}
    for part in ("train", "val"):
        if not found[part]:
            raise CohortError(f"{where}: the split column puts no {rows} into {part}; name at least one")
    return found


def divided(groups: Sequence[str | None], parts: Sequence[str | None]) -> list[str]:
    """The groups that occur in more than one part, sorted, each with its parts."""
    seen: dict[str, set[str]] = {}
    for group, part in zip(groups, parts, strict=True):
        if group is not None and part is not None:
            seen.setdefault(group, set()).add(part)
    return [f"{group} ({' and '.join(sorted(of))})" for group, of in sorted(seen.items()) if len(of) > 1]
