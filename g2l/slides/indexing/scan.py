"""What the index does with one slide: open, thumbnail, mask, numbers; the result goes into one file of the work folder.

A file of the work folder is complete or absent, so a killed run is taken up where it stopped.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, G2LError, SlideError
from g2l.slides.coverage import pack
from g2l.slides.indexing.manifest import Entry
from g2l.slides.overview import MASK_MPP, fingerprint, look, open_slide
from g2l.slides.quality import BLUR_BELOW, has_pen, sharpness
from g2l.slides.slide import Slide
from g2l.slides.tissue import area_mm2, largest_square

THUMBNAIL_PX = 420
VERSION = 6  # of the results: raise it when this module computes something else


@dataclass(frozen=True, slots=True)
class Job:
    """One slide to scan. `fallback` is the mpp for a slide that neither the manifest nor the file gives one for."""

    entry: Entry
    fallback: float | None
    work: Path


@dataclass(frozen=True, slots=True)
class Scan:
    """The result: the row of the cohort's table, the packed mask (h, ceil(w / 8)), a JPEG thumbnail and its um/px."""

    row: dict[str, Any]
    bits: NDArray[np.uint8]
    jpeg: bytes
    thumbnail_mpp: float


def result_file(job: Job) -> Path:
    """Where the result of this job lies: named after all it depends on."""
    depends: list[object] = [VERSION, str(job.entry.path), job.entry.mpp, job.fallback]
    for path in filter(None, (str(job.entry.path), job.entry.given.get("tissue"))):
        try:
            state = Path(path).stat()
            depends += [state.st_size, state.st_mtime_ns]
        except OSError:
            depends.append(None)
    key = hashlib.sha1(json.dumps(depends).encode(), usedforsecurity=False).hexdigest()
    return job.work / key[:2] / f"{key}.npz"


def scan(job: Job) -> None:
    """Scan a slide and leave the result in `result_file(job)`.

    Raises:
        SlideError: the slide is to be rejected; the message says why and what helps.
        CohortError: the result cannot be written.
    """
    path, file = job.entry.path, result_file(job)
    try:
        with open_slide(path, job.entry.mpp, job.fallback) as slide:
            result = _scan(slide, job.entry)
    except SlideError:
        raise
    except G2LError as error:
        raise SlideError(f"slide {path}: {error}") from error
    except Exception as error:  # a damaged file makes the libraries raise anything, and must cost only its own slide
        what = " ".join(str(error).split())
        raise SlideError(f"slide {path} cannot be read ({type(error).__name__}: {what}); replace the file") from error
    if result_file(job) != file:
        raise SlideError(f"slide {path} changed while it was being read; index again when it is complete")
    try:
        _save(file, result)
    except OSError as error:
        raise CohortError(f"cannot write {file} ({error.strerror or error}); free the disk, and run again") from error


def load(file: Path) -> Scan:
    """Read a result."""
    with np.load(file, allow_pickle=False) as data:
        about = json.loads(data["about"].tobytes())
        return Scan(about["row"], data["bits"], data["jpeg"].tobytes(), about["thumbnail_mpp"])


def _scan(slide: Slide, entry: Entry) -> Scan:
    overview, mask = look(slide, entry.given.get("tissue"))
    shape = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    focus = sharpness(slide, mask, MASK_MPP)
    row: dict[str, Any] = {
        "name": entry.name,
        "path": str(entry.path),
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "backend": slide.backend,
        "width": slide.dimensions[0],
        "height": slide.dimensions[1],
        "width_um": slide.size_um[0],
        "height_um": slide.size_um[1],
        "tissue_mm2": area_mm2(mask, MASK_MPP),
        "room_um": largest_square(mask) * MASK_MPP,
        "pen": has_pen(overview, MASK_MPP),
        "sharpness": focus,
        "blur": bool(focus < BLUR_BELOW),
        "fingerprint": fingerprint(entry.path),
        "mask_mpp": MASK_MPP,
        "mask_h": shape[0],
        "mask_w": shape[1],
        "box_x0": int(columns[0]),
        "box_y0": int(rows[0]),
        "box_x1": int(columns[-1]) + 1,
        "box_y1": int(rows[-1]) + 1,
        "backend_reason": slide.backend_reason,
        "levels": [number for level in slide.levels for number in (*level[:2], level.tile_w, level.tile_h)],
        "tile_map": slide.tile_map,
    }
    thumbnail_mpp = max(slide.size_um) / THUMBNAIL_PX
    small = cv2.cvtColor(slide.thumbnail(thumbnail_mpp), cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return Scan(row, pack(mask), jpeg.tobytes(), thumbnail_mpp)


def _save(file: Path, result: Scan) -> None:
    about = json.dumps({"row": result.row, "thumbnail_mpp": result.thumbnail_mpp}).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            about=np.frombuffer(about, np.uint8),
            bits=result.bits,
            jpeg=np.frombuffer(result.jpeg, np.uint8),
        )
    temporary.replace(file)
