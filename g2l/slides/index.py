"""`g2l index`: slide files -> a cohort. Rejected slides are a result, not a failure; an interrupted run is taken up."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from g2l.errors import CohortError
from g2l.slides.cohort import REJECTED, SHEET
from g2l.slides.manifest import Entry, entries
from g2l.slides.pool import run
from g2l.slides.resolution import plausible
from g2l.slides.scan import Job, load, result_file, scan
from g2l.slides.sheet import draw_sheet
from g2l.slides.store import COMPUTED, write_cohort

WORK = "work"
PER_WORKER = 8  # a process is worth starting (tiatoolbox takes 8-20 s to import) for this many slides


@dataclass(frozen=True)
class Rejected:
    """A slide that is not in the cohort, why, and what helps."""

    file: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class IndexResult:
    """What `index` did. As text: the rejected slides, then `indexed N, rejected M` as the last line."""

    indexed: int
    rejected: tuple[Rejected, ...]
    folder: Path

    def __str__(self) -> str:
        lines: list[str] = []
        for one in self.rejected:
            lines += [f"rejected {one.file}", f"    {one.reason}", f"    remedy: {one.remedy}"]
        lines.append(f"cohort in {self.folder}; look at {SHEET} before using it")
        lines.append(f"indexed {self.indexed}, rejected {len(self.rejected)}")
        return "\n".join(lines)


def index(
    slides: str,
    out: str,
    manifest: str | None = None,
    mpp: float | None = None,
    workers: int | None = None,
    strict: bool = False,
) -> IndexResult:
    """Index slides into a cohort.

    Args:
        slides: a folder (searched recursively), one slide, or a CSV with a column slide.
        out: folder for the cohort; made when it does not exist.
        manifest: CSV with a column slide and any of patient, centre, label, split, mpp, regions, tissue, others.
        mpp: um per level-0 pixel of those slides that neither state a plausible one nor have one in the manifest.
        workers: processes; 0 works in this one. Default: up to 4, as many as there are cores and 8 slides for each.
        strict: any rejected slide is an error.
    Raises:
        CohortError: nothing to index, a faulty manifest, a folder that cannot be written, or nothing left.
    """
    if mpp is not None and not plausible(mpp):
        raise CohortError(f"--mpp {mpp:g} is outside 0.1-4 um/px; give the level-0 resolution")
    todo = entries(Path(slides), Path(manifest) if manifest else None, COMPUTED.names)
    folder = _writable(Path(out))
    jobs = [Job(entry, mpp, folder / WORK) for entry in todo]
    errors = _scan_all(jobs, workers)
    rejected = tuple(_rejection(entry, errors[entry.name]) for entry in todo if entry.name in errors)
    _replace(folder / REJECTED, _as_csv(rejected))
    kept = [job for job in jobs if job.entry.name not in errors]
    if not kept or (strict and rejected):
        why = "every slide was" if not kept else f"{len(rejected)} of {len(todo)} slides were"
        first = rejected[0]
        raise CohortError(
            f"{why} rejected, first {first.file}: {first.reason}; remedies in {folder / REJECTED}"
            + ("" if not kept else ", or index without --strict")
        )
    files = [result_file(job) for job in kept]
    write_cohort(folder, ((scan_, job.entry.given) for job, scan_ in zip(kept, map(load, files), strict=True)))
    shown = [(Path(one.file).name, f"{one.reason}; {one.remedy}") for one in rejected]
    draw_sheet(files, shown, f"cohort {folder.resolve().name}", folder / SHEET)
    return IndexResult(len(kept), rejected, folder)


def _scan_all(jobs: Sequence[Job], workers: int | None) -> dict[str, str]:
    """Scan what is not scanned yet; the errors by slide name."""
    missing = [job for job in jobs if not result_file(job).is_file()]
    if workers is None:
        workers = min(os.cpu_count() or 1, 4, len(missing) // PER_WORKER)
    errors: dict[str, str] = {}
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="slide", desc="index", disable=not missing)
    with bar:
        for job, error in run(missing, scan, 0 if workers < 1 else workers):
            if error is not None:
                errors[job.entry.name] = str(error)
            bar.set_postfix(rejected=len(errors), refresh=False)
            bar.update()
    return errors


def _rejection(entry: Entry, message: str) -> Rejected:
    reason, _, remedy = message.removeprefix(f"slide {entry.path}").lstrip(": ").rpartition("; ")
    return Rejected(str(entry.path), reason or message, remedy)


def _writable(folder: Path) -> Path:
    probe = folder / f".g2l.{os.getpid()}.tmp"
    try:
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise CohortError(f"cannot write to {folder} ({error.strerror or error}); choose another --out") from error
    return folder


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
