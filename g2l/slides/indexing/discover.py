"""Which files under a folder are slides."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from g2l.errors import CohortError

SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm"}
)


@dataclass(frozen=True)
class Rejected:
    """A slide that is not in the cohort, why, and what helps."""

    file: str
    reason: str
    remedy: str


def discover(place: Path) -> tuple[list[Path], list[Rejected]]:
    """All slides below a folder (or the one file `place`), sorted; of a DICOM series the file of its finest level.

    Links are followed, to folders too, but every folder and every file counts once, so a loop of links ends. Names that
    begin with a dot are left out. What bears a slide's suffix without being a file (a dead link, a pipe) is listed like
    any slide: opening it will say what is wrong.

    Returns:
        The slides, and the folders that cannot be listed.
    Raises:
        CohortError: `place` does not exist, or there is no slide in it.
    """
    if place.is_file():
        return [place], []
    if not place.is_dir():
        raise CohortError(f"no slides: {place} does not exist; name a folder, a slide or a CSV with a column slide")
    found, closed = _walk(place)
    dicom = [path for path in found if path.suffix.lower() == ".dcm" and path.is_file()]
    if len(dicom) > 1:
        spare = set(dicom) - set(one_per_series(dicom))
        found = [path for path in found if path not in spare]
    if not found:
        where = f"; {closed[0].file}: {closed[0].reason}" if closed else ""
        raise CohortError(
            f"no slides found in {place} (looked for {', '.join(sorted(SUFFIXES))}{where}); check the folder"
        )
    return found, closed


class RealPaths:
    """Absolute paths without links; asks the disk once per folder and once per file.

    A dead link keeps its own name, by which it can be found; so does a loop of links, on which Path.resolve raises
    before Python 3.13.
    """

    def __init__(self) -> None:
        self._files: dict[Path, Path] = {}
        self._folders: dict[Path, Path] = {}

    def __call__(self, path: Path) -> Path:
        """`path` without links."""
        if path not in self._files:
            named = Path(os.path.realpath(path)) if path.name in ("", "..") else self._folder(path.parent) / path.name
            target = Path(os.path.realpath(path)) if path.is_symlink() else named
            self._files[path] = target if target == named or os.access(target, os.F_OK) else named
        return self._files[path]

    def _folder(self, path: Path) -> Path:
        if path not in self._folders:
            self._folders[path] = Path(os.path.realpath(path))
        return self._folders[path]


def one_per_series(files: Iterable[Path]) -> list[Path]:
    """Of every DICOM series (the files of one scan in one folder) the image with the most columns.

    Files that are not DICOM are kept: opening them will say what is wrong.
    """
    import pydicom

    tags = ["SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns"]
    best: dict[tuple[Path, str], tuple[int, Path]] = {}
    for path in files:
        series, columns = path.name, 0
        try:
            with warnings.catch_warnings(action="ignore"):
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            series = str(header.get("SeriesInstanceUID", path.name))
            if "VOLUME" in (header.get("ImageType") or []):
                columns = int(header.get("TotalPixelMatrixColumns", 0) or 0)
        except Exception:  # pydicom raises whatever the damage leads to
            columns = 0
        key = path.parent, series
        if key not in best or columns > best[key][0]:
            best[key] = columns, path
    return sorted(path for _, path in best.values())


def _walk(root: Path) -> tuple[list[Path], list[Rejected]]:
    found: dict[Path, Path] = {}  # by the real path
    closed: list[Rejected] = []
    seen: set[Path] = set()
    pending = [root]
    while pending:
        folder = pending.pop()
        real = Path(os.path.realpath(folder))
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as listing:
                inside = sorted(
                    (entry for entry in listing if not entry.name.startswith(".")), key=lambda one: one.name
                )
        except OSError as error:
            reason = f"this folder cannot be listed ({error.strerror or error})"
            closed.append(Rejected(str(folder), reason, "allow reading it, or move it away"))
            continue
        for entry in inside:
            path = folder / entry.name
            if _is_folder(entry):
                pending.append(path)
            elif path.suffix.lower() in SUFFIXES:
                found.setdefault(Path(os.path.realpath(path)) if entry.is_symlink() else real / entry.name, path)
    return sorted(found.values()), closed


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links, or a target that may not be looked at
        return False
