"""How fast patches are read and loaded from slides, beside OpenSlide, its peers and the limit of the decoder.

    python benchmarks/loading.py [SLIDES or COHORT ...]

Without an argument on the embedded cohort, which is drawn and indexed when absent. All readers read the same places, in
turns, over several rounds; the tables (Markdown) state medians. The peers: pip install -c constraints.txt -e '.[bench]'
and, as its dependencies serve GPUs alone, pip install --no-deps cucim-cu13.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loaders import Job
from peers import CACHE_BYTES, PEERS
from race import races
from trial import Trial

from g2l.errors import CohortError, G2LError
from g2l.slides.cohort import TABLE, Cohort
from g2l.slides.pyramid import NATIVE_TOLERANCE

MOST_SLIDES = 20
MOST_LOADED = 8  # what wsistream keeps open: with more, its figures depend on when one looks
LOADER_ROUNDS = 3
INTERRUPTED = 130  # exit code
WHERE = {"tile": "in tiles", "random": "anywhere"}
READERS = ("reader", "patches/s per core", "x OpenSlide", "of the limit", "grey levels from OpenSlide")
LOADERS = (
    "loader", "workers", "threads", "patches/s", "per core", "x wsistream", "of two bare threads", "MiB resident",
)  # fmt: skip
READER_NOTES = f"""
"In tiles" is inside the fewest tiles that can hold a patch, "anywhere" at any pixel, both on tissue. Every reader reads
the same places, one after another; a figure is the median over the rounds, a ratio that of the rounds' ratios. Per core
means per second of processor time, all threads of a reader together; the files are in the system's memory. No place is
read twice, and OpenSlide's tile cache is held at {CACHE_BYTES >> 20} MiB: its 32 MiB would keep much of a small slide
decoded, and next to nothing of one of full size. pyvips keeps two rows of tiles, which cannot be changed: on slides of
a few thousand px it meets a tenth of the tiles again or more, hence figures beyond the limit. The limit: libjpeg-turbo
decodes the tiles that a patch touches as wholes, from memory, and hands nothing over; who decodes parts of tiles can be
faster."""
LOADER_NOTES = """
Each loader runs in a process of its own and is measured in several rounds after it has begun to deliver; its training
does nothing. Per core: per second of processor time of all its processes. "x wsistream" is to the fastest of its
settings with one worker; as its README sets it up, it looks for tissue again whenever it opens a slide. g2l reads in
tiles, as it does by default; the others anywhere, as they do. "read_patch alone" reads the same patches over and over
into the same memory. Memory: what the processes of a loader hold for themselves, and once what they share; Python with
its libraries is most of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print as it is measured. Returns the exit code."""
    parser = argparse.ArgumentParser(description="patches per second from slides, beside others")
    parser.add_argument("sources", nargs="*", type=Path, help="slides, folders of slides, or one cohort")
    parser.add_argument("--mpp", type=float, help="um/px of slides that state none")
    parser.add_argument("--size", nargs="+", type=int, default=[224, 256, 512], help="sides of a patch in px")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="that OpenSlide reads in each case; a loader gets three times that"
    )
    parser.add_argument("--rounds", type=int, default=7, help="into which they are divided")
    parser.add_argument("--part", choices=("readers", "loaders"), help="only one of the two tables")
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    options = parser.parse_args(arguments)
    if min(options.size) < 1 or options.seconds <= 0 or options.rounds < 1:
        parser.error("--size, --seconds and --rounds must be above 0")
    result: dict[str, Any] = {"machine": machine(), "readers": [], "loaders": []}
    say(*(f"- {key}: {value}" for key, value in result["machine"].items()))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            cohort = cohort_of(options.sources, options.mpp, Path(scratch))
            if options.part != "loaders":
                measure_readers(cohort, options, result["readers"])
            if options.part != "readers":
                measure_loaders(cohort, options, result["loaders"])
        except KeyboardInterrupt:
            say("", "interrupted: the tables end where the measurement did")
            return INTERRUPTED
        except G2LError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        finally:
            if options.json:
                options.json.write_text(json.dumps(result, indent=1))
    return 0


def machine() -> dict[str, str]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    if (cpus := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    libraries = [peer.version or f"{peer.packages[0]} not installed" for peer in PEERS]
    return {
        "machine": f"{model}, {cores} cores, {platform.system()}",
        "versions": ", ".join([f"Python {platform.python_version()}", *libraries]),
    }


def cohort_of(sources: Sequence[Path], mpp: float | None, scratch: Path) -> Cohort:
    """The cohort that is named, the embedded one, or one made of the slides that are named.

    Raises:
        CohortError: nothing there, or no slide of it can be used.
    """
    if not sources:
        from g2l.data.module import DEMO, SlideDataModule

        data = SlideDataModule(DEMO)
        data.prepare_data()
        return data.cohort
    if any((source / TABLE).exists() for source in sources):
        if len(sources) > 1:
            raise CohortError("a cohort is measured alone; name one, or slides and folders of slides")
        return Cohort.open(sources[0])
    from g2l.slides.index import index
    from g2l.slides.indexing.discover import discover

    slides: list[Path] = []
    for source in sources:
        found, closed = discover(source)
        slides += found
        say(*(f"left out: {one.file}: {one.reason}" for one in closed))
    chosen = spread(slides, MOST_SLIDES)
    manifest = scratch / "slides.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["slide"], *([str(path.resolve())] for path in chosen)])
    done = index(str(manifest), str(scratch / "cohort"), mpp=mpp)
    say(*(f"left out: {one.file}: {one.reason}" for one in done.rejected))
    return Cohort.open(scratch / "cohort")


def measure_readers(cohort: Cohort, options: argparse.Namespace, result: list[dict[str, Any]]) -> None:
    """Print a table for each kind of slides, size and placing."""
    for race in races(cohort, spread(range(len(cohort)), MOST_SLIDES), say):
        cases = [(size, 1) for size in options.size] + [(size, 2) for size in options.size[:1] if race.half]
        for (size, shrink), placing in itertools.product(cases, WHERE):
            rows = race.run(size, placing, shrink, options.seconds, options.rounds)
            result += [row._asdict() for row in rows]
            if rows:
                at = "" if shrink == 1 else ", half the finest resolution (OpenSlide's resized)"
                say("", f"{size} px {WHERE[placing]}{at}: {race.title}")
                say("", *head(READERS))
            for row in rows:
                figures = [number(row.rate, 0), number(row.to_openslide), number(row.of_limit), number(row.difference)]
                say(line([row.reader, *([row.note, "", "", ""] if row.note else figures)]))
    say(READER_NOTES)


def measure_loaders(cohort: Cohort, options: argparse.Namespace, result: list[dict[str, Any]]) -> None:
    """Print a table of the loaders on slides of one resolution."""
    finest = cohort.geometry.levels[cohort.geometry.first_level[:-1], :2].mean(axis=1)
    values, counts = np.unique(finest.round(2), return_counts=True)
    mpp = float(np.median(finest[finest.round(2) == values[counts.argmax()]]))
    slides = spread(np.flatnonzero(np.abs(finest / mpp - 1) <= NATIVE_TOLERANCE).tolist(), MOST_LOADED)
    size = options.size[0]
    trial = Trial(Job(cohort.folder.resolve(), slides, size, mpp))
    try:
        trial.run(3 * options.seconds, LOADER_ROUNDS)
    finally:
        rows = trial.rows()
        result += [row._asdict() for row in rows]
        say("", f"Loaders, {size} px at {mpp:.3g} um/px: {len(slides)} of the slides", "", *head(LOADERS))
        for row in rows:
            figures = [number(row.rate, 0), number(row.per_core, 0), number(row.to_wsistream), number(row.of_bare)]
            what = [row.loader, str(row.workers), str(row.threads)]
            say(line([*what, *([row.note, "", "", "", ""] if row.note else [*figures, number(row.mib, 0)])]))
    say(LOADER_NOTES)


def number(value: float | None, digits: int = 2) -> str:
    """For a table; empty where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, spread evenly."""
    return [items[k * len(items) // most] for k in range(most)] if len(items) > most else list(items)


def head(names: Sequence[str]) -> list[str]:
    """The head of a Markdown table, the first column to the left and the others to the right."""
    return [line(names), line(["---", *["---:"] * (len(names) - 1)])]


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def say(*lines: str) -> None:
    """Print at once, so that an interrupted run leaves what it has."""
    for text in lines:
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
