"""Which files under a folder are slides."""

from collections.abc import Iterable
from pathlib import Path

from g2l.errors import CohortError

SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm"}
)


def discover(place: Path) -> list[Path]:
    """All slides below a folder (or the one file `place`), sorted; of a DICOM series the file of its finest level.

    Raises:
        CohortError: `place` does not exist, or there is no slide in it.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise CohortError(f"no slides: {place} does not exist; name a folder, a slide or a CSV with a column slide")
    found = sorted(
        path
        for path in place.rglob("*")
        if path.suffix.lower() in SUFFIXES and not _hidden(path, place) and path.is_file()
    )
    dicom = [path for path in found if path.suffix.lower() == ".dcm"]
    if len(dicom) > 1:
        spare = set(dicom) - set(one_per_series(dicom))
        found = [path for path in found if path not in spare]
    if not found:
        raise CohortError(f"no slides found in {place} (looked for {', '.join(sorted(SUFFIXES))}); check the folder")
    return found


def one_per_series(files: Iterable[Path]) -> list[Path]:
    """Of every DICOM series (the files of one scan in one folder) the image with the most columns.

    Files that are not DICOM are kept: opening them will say what is wrong.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    tags = ["SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns"]
    best: dict[tuple[Path, str], tuple[int, Path]] = {}
    for path in files:
        series, columns = path.name, 0
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            series = str(header.get("SeriesInstanceUID", path.name))
            if "VOLUME" in header.get("ImageType", []):
                columns = int(header.get("TotalPixelMatrixColumns", 0) or 0)
        except (InvalidDicomError, OSError):
            columns = 0
        key = path.parent, series
        if key not in best or columns > best[key][0]:
            best[key] = columns, path
    return sorted(path for _, path in best.values())


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
