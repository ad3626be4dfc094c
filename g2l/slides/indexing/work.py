"""The work folder of the index: for one run at a time, with one result per slide and state of its file."""

import os
import time
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from g2l.errors import CohortError
from g2l.slides.indexing.scan import load
from g2l.slides.lock import alone

WORK, LOCK = "work", "lock"
# What reading a result raises that a power failure cut short.
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """The work folder of the cohort in `folder`: made, writable, and for this run alone.

    Raises:
        CohortError: it cannot be written, or another run has it.
    """
    work = folder / WORK
    probe = work / f".{os.getpid()}.tmp"
    try:
        work.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise CohortError(f"cannot write to {folder} ({error.strerror or error}); choose another --out") from error
    with alone(work / LOCK, folder, "g2l index", CohortError):
        yield work


def finished(work: Path) -> set[str]:
    """The names of all results that are there. Listing folders asks a network mount less than one question for each."""
    found: set[str] = set()
    for place in work.glob("??"):
        with suppress(OSError), os.scandir(place) as listing:
            found.update(entry.name for entry in listing if entry.name.endswith(".npz"))
    return found


def arrives(file: Path, patience_s: float) -> bool:
    """Whether a result that another machine has written shows here, if need be after a while."""
    end = time.monotonic() + patience_s
    while not file.is_file():
        if time.monotonic() >= end:
            return False
        time.sleep(0.5)
        with suppress(OSError):
            list(file.parent.iterdir())  # makes a network mount look again
    return True


def tidy(work: Path, needed: Collection[str], slides: Collection[str]) -> None:
    """Remove what killed runs left half-written, and the results that a newer one of the same slide replaces.

    Results of slides that are gone stay: they are small, and the slides may be back when their disk is.

    Args:
        needed: names of the results in use.
        slides: paths of their slides.
    """
    for name in finished(work) - set(needed):
        file = work / name[:2] / name
        try:
            superseded = load(file).row["path"] in slides
        except DAMAGED:
            superseded = True
        if superseded:
            file.unlink(missing_ok=True)
    for file in work.glob("??/*.tmp"):
        file.unlink(missing_ok=True)
