"""`g2l index`: slide files -> a cohort. Rejected slides are a result, not a failure; an interrupted run is taken up."""

import csv
import io
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from g2l.errors import CohortError, G2LError, SlideError
from g2l.slides.cohort import REJECTED, SHEET
from g2l.slides.indexing.changes import Changes, compare, state
from g2l.slides.indexing.cluster import run_on_cluster
from g2l.slides.indexing.discover import Rejected
from g2l.slides.indexing.manifest import AT_ONCE, Entry, entries
from g2l.slides.indexing.pool import run
from g2l.slides.indexing.scan import Job, Scan, load, result_file, scan
from g2l.slides.indexing.sheet import draw_sheet
from g2l.slides.indexing.store import COMPUTED, write_cohort
from g2l.slides.indexing.work import DAMAGED, arrives, claimed, finished, tidy
from g2l.slides.resolution import plausible

PER_WORKER = 4  # slides for which it is worth starting a process
SHARED_S = 60  # within which a result that another machine has written must show here


@dataclass(frozen=True)
class IndexResult:
    """What `index` did. As text: the rejected slides, what changed since the run before, and as the last line
    `indexed N, rejected M`.
    """

    indexed: int
    rejected: tuple[Rejected, ...]
    folder: Path
    changes: Changes | None = None

    def __str__(self) -> str:
        lines: list[str] = []
        for one in self.rejected:
            lines += [f"rejected {one.file}", f"    {one.reason}", f"    remedy: {one.remedy}"]
        if self.changes:
            lines.append(str(self.changes))
        lines.append(f"cohort in {self.folder}; look at {SHEET} before using it")
        lines.append(f"indexed {self.indexed}, rejected {len(self.rejected)}")
        return "\n".join(lines)


def index(
    slides: str,
    out: str,
    manifest: str | None = None,
    mpp: float | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    strict: bool = False,
) -> IndexResult:
    """Index slides into a cohort.

    Args:
        slides: a folder (searched recursively), one slide, or a CSV with a column slide.
        out: folder for the cohort; made when it does not exist.
        manifest: CSV with a column slide and any of patient, centre, label, split, mpp, regions, tissue, others.
        mpp: um per level-0 pixel of those slides that neither state a plausible one nor have one in the manifest.
        workers: processes; 0 works in this one. Default: as many as there are cores, and 4 slides for each.
        scheduler: address of a Dask scheduler (tcp://host:8786) whose workers do the work instead; they must see the
            slides and `out` by the same paths.
        strict: any rejected slide is an error.
    Raises:
        CohortError: nothing to index, a faulty manifest, a folder that cannot be written, or nothing left.
    """
    if mpp is not None and not plausible(mpp):
        raise CohortError(f"--mpp {mpp:g} is outside 0.1-4 um/px; give the level-0 resolution")
    if workers is not None and scheduler is not None:
        raise CohortError("--workers is for this machine and --scheduler for a cluster; give one of them")
    todo, absent = entries(Path(slides), Path(manifest) if manifest else None, COMPUTED.names)
    folder = Path(out)
    with claimed(folder) as work:
        jobs = [Job(entry, mpp, work.absolute()) for entry in todo]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            files = list(threads.map(result_file, jobs))
        errors = _scan_all(jobs, files, finished(work), workers, scheduler)
        rejected = (*absent, *(_rejection(entry, errors[entry.name]) for entry in todo if entry.name in errors))
        _replace(folder / REJECTED, _as_csv(rejected))
        kept = [(job, file) for job, file in zip(jobs, files, strict=True) if job.entry.name not in errors]
        if not kept or (strict and rejected):
            raise _refusal(len(kept), rejected, folder)
        before = state(folder)
        try:
            write_cohort(folder, _results(kept))
            shown = [(Path(one.file).name, f"{one.reason}; {one.remedy}") for one in rejected]
            draw_sheet([file for _, file in kept], shown, f"cohort {folder.resolve().name}", folder / SHEET)
        except OSError as error:
            raise CohortError(f"cannot write the cohort to {folder} ({error}); free the disk, and run again") from error
        tidy(work, {file.name for _, file in kept}, {str(job.entry.path) for job, _ in kept})
        after = state(folder)
    changes = compare(before, after, {one.file for one in rejected}) if before is not None and after else None
    return IndexResult(len(kept), rejected, folder, changes)


def _scan_all(
    jobs: Sequence[Job], files: Sequence[Path], done: Collection[str], workers: int | None, scheduler: str | None
) -> dict[str, str]:
    """Scan what is not scanned yet; the errors by slide name."""
    missing = {job.entry.name: (job, file) for job, file in zip(jobs, files, strict=True) if file.name not in done}
    todo = [job for job, _ in missing.values()]
    if not todo:
        return {}
    if workers is None:
        workers = min(_cores(), len(todo) // PER_WORKER)
    errors: dict[str, str] = {}
    start = time.monotonic()
    bar = tqdm(
        total=len(jobs),
        initial=len(jobs) - len(todo),
        desc="index",
        unit=" slides",
        bar_format="{desc}: {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}, {rate_noinv_fmt}{postfix}",
    )
    with bar:
        results = run(todo, scan, max(0, workers)) if scheduler is None else run_on_cluster(todo, scan, scheduler)
        for job, error in results:
            file = missing[job.entry.name][1]
            if error is None and not file.is_file():
                error = _without_result(job, file, 0 if scheduler is None else SHARED_S)
            if isinstance(error, CohortError):  # not the slide's fault
                raise error
            if error is not None:
                errors[job.entry.name] = str(error)
            bar.set_postfix(rejected=len(errors), refresh=False)
            bar.update()
    seconds = time.monotonic() - start
    tqdm.write(f"index: {len(todo)} slides in {seconds:.1f} s, {len(todo) / seconds:.2f} slides/s", file=sys.stderr)
    return errors


def _without_result(job: Job, file: Path, patience_s: float) -> G2LError | None:
    """Why a job that went well left no result; None when it comes late."""
    if result_file(job) != file:
        return SlideError(f"slide {job.entry.path} changed while it was being read; index again when it is complete")
    if arrives(file, patience_s):
        return None
    return CohortError(f"results do not arrive in {job.work}; give an --out that this machine and all workers share")


def _results(kept: Sequence[tuple[Job, Path]]) -> Iterator[tuple[Scan, dict[str, str | None]]]:
    """Read a few at a time: a network mount takes milliseconds for each file, but serves many at once."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for start in range(0, len(kept), 4 * AT_ONCE):
            some = kept[start : start + 4 * AT_ONCE]
            yield from zip(threads.map(_result, some), (job.entry.given for job, _ in some), strict=True)


def _result(one: tuple[Job, Path]) -> Scan:
    job, file = one
    try:
        return load(file)
    except DAMAGED:  # a power failure can leave an empty file under the right name
        file.unlink(missing_ok=True)
        scan(job)
        return load(file)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refusal(kept: int, rejected: Sequence[Rejected], folder: Path) -> CohortError:
    why = f"{len(rejected)} of {kept + len(rejected)} slides were" if kept else "every slide was"
    first = rejected[0]
    return CohortError(
        f"{why} rejected, first {first.file}: {first.reason}; remedies in {folder / REJECTED}"
        + (", or index without --strict" if kept else "")
    )


def _rejection(entry: Entry, message: str) -> Rejected:
    message = "".join(letter if letter.isprintable() else "?" for letter in message)  # damaged files name odd things
    reason, _, remedy = message.removeprefix(f"slide {entry.path}").lstrip(": ").rpartition("; ")
    return Rejected(str(entry.path), reason or message, remedy)


def _as_csv(rejected: Sequence[Rejected]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "reason", "remedy"])
    writer.writerows((one.file, one.reason, one.remedy) for one in rejected)
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
