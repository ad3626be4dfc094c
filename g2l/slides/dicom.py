"""The JPEG tiles of a DICOM whole-slide image, found by wsidicom."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from g2l.errors import SlideError
from g2l.slides.reader import Plane
from g2l.slides.tiff import UnsuitableError
from g2l.slides.tiles import START, colour_marker

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
COLOURS = {"RGB": False, "YBR_FULL_422": True, "YBR_FULL": True}  # photometric interpretation -> YCbCr


class DicomTiles:
    """The tiles of an open series; one thread at a time looks one up, which takes a tenth of decoding it."""

    name = "wsidicom"

    def __init__(self, files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
        """Open a series.

        Args:
            files: all of the series.
            sizes: of the levels to read, (width, height), finest first.
        Raises:
            UnsuitableError: no DICOM series of JPEG tiles in full.
        """
        try:
            from wsidicom import WsiDicom
        except ImportError as error:
            raise UnsuitableError("wsidicom is not installed") from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about values longer than the standard allows, in many archives
                self._slide = WsiDicom.open(files)
        except Exception as error:  # a damaged header makes pydicom raise anything; OpenSlide may still read it
            raise UnsuitableError(f"wsidicom does not open it ({' '.join(str(error).split())})") from error
        try:
            self._levels = self._chosen(sizes)
        except UnsuitableError:
            self._slide.close()
            raise
        self._lock = Lock()

    def _chosen(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, bytes]]:
        """Number in the series and first bytes of a tile, of every level."""
        by_size = {(level.size.width, level.size.height): level for level in self._slide.levels}
        chosen = []
        self.planes: list[Plane] = []
        for size in sizes:
            level = by_size.get((size[0], size[1]))
            if level is None:
                raise UnsuitableError(f"wsidicom finds no level of {size[0]} x {size[1]} px")
            data = level.default_instance.image_data
            photometric = str(getattr(data, "photometric_interpretation", ""))
            if (
                str(data.transfer_syntax) != JPEG_BASELINE
                or photometric not in COLOURS
                or level.default_instance.dataset.tile_type.name != "FULL"
            ):
                raise UnsuitableError(
                    f"{photometric} tiles of transfer syntax {data.transfer_syntax}, not all of them JPEG"
                )
            if len(level.default_instance.focal_planes) > 1 or len(level.default_instance.optical_paths) > 1:
                raise UnsuitableError("several focal planes or optical paths")
            tile = level.tile_size
            self.planes.append(Plane(size[0], size[1], tile.width, tile.height))
            chosen.append((level.level, START + colour_marker(COLOURS[photometric])))
        return chosen

    def encoded(self, plane: int, column: int, row: int) -> bytes | None:
        """As `Tiles.encoded`."""
        from wsidicom.errors import WsiDicomError

        level, head = self._levels[plane]
        try:
            with self._lock:
                data = self._slide.read_encoded_tile(level, (column, row), crop_to_image_boundary=False)
        except WsiDicomError as error:
            raise ValueError(str(error)) from error
        return head + data[2:]

    def close(self) -> None:
        """As `Tiles.close`."""
        self._slide.close()


def series(path: Path) -> list[Path]:
    """The DICOM files beside `path` with its series UID, and `path` first. UnsuitableError: it is no DICOM file."""
    try:
        import pydicom
    except ImportError as error:
        raise UnsuitableError("pydicom is not installed") from error

    def uid(file: Path) -> str | None:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except Exception:  # damaged, or no DICOM: not of this series
            return None
        return str(header.get("SeriesInstanceUID", file))

    own = uid(path)
    if own is None:
        raise UnsuitableError("no DICOM file")
    beside = (file for file in sorted(path.parent.iterdir()) if file.suffix.lower() == ".dcm" and file.is_file())
    return [path, *(file for file in beside if file != path and uid(file) == own)]


def open_again(path: Path, sizes: Sequence[tuple[int, int]], files: Sequence[str]) -> DicomTiles:
    """Open the series of these files beside `path`, found fit before; SlideError when it no longer is."""
    try:
        return DicomTiles([path.parent / file for file in files], sizes)
    except UnsuitableError as error:
        raise SlideError(f"slide {path} has changed since it was indexed ({error}); run g2l index again") from error
