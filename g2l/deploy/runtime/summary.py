"""What became of each slide of a run: as a table to read, slides.csv and run.json."""

import csv
import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from g2l.deploy.runtime.folder import RUN, replace_text

SHOWN = 20  # slides that are done or skipped; those that failed are all listed
SLIDES = "slides.csv"
NAME_WIDTH = 40
Status = Literal["done", "skipped", "failed"]
STATUSES: tuple[Status, ...] = ("done", "skipped", "failed")


@dataclass(frozen=True)
class SlideRow:
    """One slide. patches: in its file; seconds: since the one before it ended; reason: why it failed, and a remedy."""

    slide: str
    status: Status
    patches: int = 0
    seconds: float = 0.0
    reason: str = ""
    path: str = ""


@dataclass(frozen=True)
class EmbedResult:
    """What `embed` did. As text: a table of the slides and as the last line how many were done, skipped, failed.

    Attributes:
        patches: embedded by this call. seconds: that took, from the first slide's opening on.
    """

    folder: Path
    format: str
    rows: tuple[SlideRow, ...]
    patches: int
    seconds: float

    @property
    def exit_code(self) -> int:
        """1 where a slide failed."""
        return int(self.count("failed") > 0)

    @property
    def rate(self) -> float:
        """Patches per second from end to end; 0 where there was nothing to do."""
        return self.patches / self.seconds if self.patches else 0.0

    def count(self, status: Status) -> int:
        """How many slides ended so."""
        return sum(row.status == status for row in self.rows)

    def __str__(self) -> str:
        well = [row for row in self.rows if row.status != "failed"]
        shown = sorted(well[:SHOWN] + [row for row in self.rows if row.status == "failed"], key=lambda row: row.slide)
        width = min(NAME_WIDTH, max([5, *(len(row.slide) for row in shown)]))
        lines = [f"{'slide':<{width}}  status   patches  seconds"]
        for row in shown:
            name = printable(row.slide)
            name = name if len(name) <= width else f"{name[: width - 1]}…"
            lines.append(f"{name:<{width}}  {row.status:<7}  {row.patches:>7}  {row.seconds:>7.1f}")
            if row.reason:
                lines.append(f"    {printable(row.reason)}")
        if len(well) > SHOWN:
            lines.append(f"and {len(well) - SHOWN} more, see {self.folder / SLIDES}")
        speed = f" at {self.rate:.2f} patches/s" if self.patches else ""
        lines.append(f"features are in {self.folder} ({self.patches} patches embedded now{speed}, {self.format})")
        lines.append(", ".join(f"{self.count(status)} {status}" for status in STATUSES))
        return "\n".join(lines)


def printable(text: str) -> str:
    """Damaged files name odd things, and file names may hold line breaks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def write_records(result: EmbedResult, settings: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """slides.csv, and run.json: what all files of the folder share, and what each run did. Raises OSError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(SlideRow)])
    for row in result.rows:
        writer.writerow([round(value, 3) if isinstance(value, float) else value for value in asdict(row).values()])
    replace_text(result.folder / SLIDES, text.getvalue())
    content = {"settings": settings, "runs": runs}
    replace_text(result.folder / RUN, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def counted(result: EmbedResult) -> dict[str, Any]:
    """What run.json says of the slides of a run."""
    return {
        "slides": {status: result.count(status) for status in STATUSES},
        "patches": result.patches,
        "seconds": round(result.seconds, 3),
        "patches_per_second": round(result.rate, 4),
        "patches_of_slides": {row.slide: row.patches for row in result.rows if row.status == "done"},
    }
