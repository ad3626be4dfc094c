"""Whether the memory of a stream grows while it opens and closes slides.

    python benchmarks/memory.py COHORT [--minutes 10] [--slides 1000] [--plot memory.png]

The slides of the cohort are linked under so many names that the stream takes them for as many slides, and has to close
one for nearly every one it opens. Prints memory and open files, and how fast memory grows, with its uncertainty.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from scipy import stats
from trial import resident

from g2l.data.source import CohortSource
from g2l.data.stream import PatchStream
from g2l.data.streaming.loader import PatchLoader
from g2l.errors import G2LError
from g2l.slides.cohort import Cohort
from g2l.slides.indexing.scan import Scan
from g2l.slides.indexing.store import COMPUTED, write_cohort
from g2l.slides.sampling import Sampler

BLOCKS = 12  # memory of one moment resembles that of the next; means over so many spans are taken for independent

SETTLING = 0.5  # share of the time until the system's allocator keeps enough: about a million patches


class Sample(NamedTuple):
    """After so many seconds: MiB resident, open files of all processes, patches delivered."""

    seconds: float
    mib: float
    files: int
    patches: int


class Slope(NamedTuple):
    """MiB per minute, and half the width of its 95 % interval."""

    value: float
    uncertainty: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and plot. Returns the exit code."""
    parser = argparse.ArgumentParser(description="memory of a stream over many slides")
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, default=Path("memory.png"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            cohort = linked(Cohort.open(options.cohort), options.slides, Path(scratch))
            for sample in watch(cohort, options.minutes * 60, options.workers, options.threads):
                samples.append(sample)
                rate = sample.patches / max(sample.seconds, 1e-9)
                at = f"{sample.seconds / 60:6.2f} min  {sample.mib:8.1f} MiB"
                print(f"{at}  {sample.files:5d} files  {rate:7.0f} patches/s", flush=True)
        except KeyboardInterrupt:
            print("interrupted: what follows is of the time until here")
        except G2LError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    settled = [one for one in samples[1:] if one.seconds >= SETTLING * samples[-1].seconds]
    if len(settled) < 2 * BLOCKS:
        print("too few samples for a slope; give more --minutes")
        return 0
    growth = slope(np.array([one.seconds / 60 for one in settled]), np.array([one.mib for one in settled]))
    what = f"{options.slides} slides, {samples[-1].patches:,} patches, {options.workers} workers"
    print(f"{what}: {settled[0].mib:.0f} MiB after {settled[0].seconds / 60:.1f} min, {settled[-1].mib:.0f} at the end")
    print(f"slope in between: {growth.value:+.2f} +- {growth.uncertainty:.2f} MiB per minute (95 %)")
    plot(samples, growth, options.plot)
    return 0


def linked(cohort: Cohort, count: int, folder: Path) -> Cohort:
    """A cohort of `count` slides in `folder`: links to the slides of `cohort`, in turns, with their rows and masks."""
    columns = {name: cohort.column(name) for name in COMPUTED.names}
    (folder / "slides").mkdir()

    def rows() -> Iterator[tuple[Scan, Mapping[str, str | None]]]:
        for number in range(count):
            source = number % len(cohort)
            row = {name: values[source] for name, values in columns.items()}
            target = Path(row["path"])
            link = folder / "slides" / f"{number:05d}{target.suffix}"
            link.symlink_to(target)
            row |= {"name": link.stem, "path": str(link)}
            yield Scan(row, cohort.bits(source), b"", 1.0), {}

    write_cohort(folder, rows())
    return Cohort.open(folder)


def watch(cohort: Cohort, seconds: float, workers: int, threads: int) -> Iterator[Sample]:
    """Draw patches of 224 px at the finest resolution that all slides have, and look at memory again and again."""
    mpp = float(cohort.geometry.levels[cohort.geometry.first_level[:-1], :2].max())
    sampler = Sampler(cohort, range(len(cohort)), 0, 224, mpp)
    loader = PatchLoader(PatchStream(CohortSource(sampler), 64, threads=threads), workers)
    process, every = psutil.Process(), max(0.2, min(3.0, seconds / 100))
    began, due, patches = time.perf_counter(), 0.0, 0
    for batch in loader:
        patches += len(batch["images"])
        elapsed = time.perf_counter() - began
        if elapsed >= due:
            due = elapsed + every
            family = [process, *process.children(recursive=True)]
            yield Sample(elapsed, resident(process), sum(one.num_fds() for one in family), patches)
        if elapsed >= seconds:
            return


def slope(minutes: NDArray[np.float64], mib: NDArray[np.float64]) -> Slope:
    """Least squares through the means of BLOCKS equal parts of the samples."""
    parts = zip(np.array_split(minutes, BLOCKS), np.array_split(mib, BLOCKS), strict=True)
    x, y = np.array([(part[0].mean(), part[1].mean()) for part in parts]).T
    line, covariance = np.polyfit(x, y, 1, cov=True)
    return Slope(float(line[0]), float(stats.t.ppf(0.975, BLOCKS - 2) * np.sqrt(covariance[0, 0])))


def plot(samples: list[Sample], growth: Slope, file: Path) -> None:
    """Memory over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    axes.plot([one.seconds / 60 for one in samples], [one.mib for one in samples], linewidth=1)
    axes.set(xlabel="minutes", ylabel="MiB resident", ylim=(0, None))
    axes.set_title(f"{growth.value:+.2f} +- {growth.uncertainty:.2f} MiB per minute, {samples[-1].patches:,} patches")
    figure.savefig(file, dpi=120)
    print(f"plot in {file}")


if __name__ == "__main__":
    sys.exit(main())
