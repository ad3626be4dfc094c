"""What a cohort holds that the one before it did not, and the reverse."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from g2l.slides.cohort import TABLE

SHOWN = 10
State = dict[str, tuple[str, float, float]]


class Changes(NamedTuple):
    """Numbers of slides that are new, changed (file, resolution or outline) or as they were, and the paths of those
    that are gone.
    """

    new: int
    changed: int
    unchanged: int
    vanished: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"vanished {path}" for path in self.vanished[:SHOWN]]
        if len(self.vanished) > SHOWN:
            lines.append(f"    and {len(self.vanished) - SHOWN} more")
        gone = f"{len(self.vanished)} vanished" + (", which the cohort no longer holds" if self.vanished else "")
        lines.append(f"{self.new} new, {self.changed} changed, {self.unchanged} unchanged, {gone}")
        return "\n".join(lines)


def state(folder: Path) -> State | None:
    """Fingerprint, um per px and tissue area of every slide of the cohort in `folder`, by path; None without one."""
    columns = ["path", "fingerprint", "mpp", "tissue_mm2"]
    try:
        table = pq.read_table(folder / TABLE, columns=columns)
        path, *values = (table.column(name).to_pylist() for name in columns)
    except (OSError, KeyError, pa.ArrowException):
        return None
    return dict(zip(path, zip(*values, strict=True), strict=True))


def compare(before: State, after: State, rejected: Collection[str]) -> Changes:
    """What became of the slides; those rejected now are told elsewhere."""
    both = before.keys() & after.keys()
    changed = sum(before[path] != after[path] for path in both)
    vanished = sorted(before.keys() - after.keys() - set(rejected))
    return Changes(len(after) - len(both), changed, len(both) - changed, tuple(vanished))
