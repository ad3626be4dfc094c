"""Real patches for an export: those that every format is compared on, and others that int8 is calibrated on.

Letters: `n` patches, `S` their side in px.
"""

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.data.cut.epochs import EpochSource
from g2l.data.folders import PatchFiles
from g2l.data.opening import DEMO, open_data
from g2l.data.source import CohortSource, Source
from g2l.deploy.progress import say
from g2l.errors import CohortError, ConfigError, SlideError
from g2l.slides.cohort import MASKS, TABLE, Cohort
from g2l.slides.indexing.discover import SUFFIXES
from g2l.slides.sampling import Sampler

LEAST = 256  # patches to compare on, as the gates are stated
CALIBRATION = 300
FEWEST_TO_CALIBRATE = 32
SPARE = 3  # so many numbers are tried for each patch that is asked for: some places cannot be read, some look alike
SEED = 2**33  # neither that of a training's stream nor of its held-out patches


@dataclass(frozen=True)
class Patches:
    """Patches of one source.

    Attributes:
        parity: (n, S, S, 3) uint8 RGB to compare formats on, of held-out patients where they are known.
        calibration: as many or fewer, none of which is among `parity`, to choose the ranges of int8 by.
        about: for parity.json: count, slides, source in words, calibration; no names.
    """

    parity: NDArray[np.uint8]
    calibration: NDArray[np.uint8]
    about: dict[str, Any]


def read_patches(place: str, size: int, mpp: float, count: int, trained: dict[str, Any] | None = None) -> Patches:
    """Patches of a cohort, of slides, or of images.

    Args:
        place: a folder written by `g2l index`; a slide, a folder of slides or a CSV with a column slide; a folder of
            patches already cut (of at least S px and taken to be at `mpp`).
        size: S. mpp: um per px.
        count: to compare on.
        trained: the settings of the data a student was trained on (`manifest`, `hold_out`, `fraction`, `seed`), which
            say which patients were held out.
    Raises:
        ConfigError: nothing of the kind is there, or it holds too few patches.
    """
    if count < LEAST:
        raise ConfigError(f"--count {count}: the gates hold on {LEAST} patches or more; give {LEAST} or more")
    if not Path(place).exists() and place != DEMO:
        raise ConfigError(
            f"--patches {place} does not exist; give a cohort of g2l index, slides, or a folder of images"
        )
    try:
        if _holds_slides(Path(place)):
            from g2l.slides.index import index

            with tempfile.TemporaryDirectory(prefix="g2l-export-") as folder:
                for one in index(place, folder, workers=0).rejected:
                    say(f"left out {one.file}: {one.reason}")
                return _read(Cohort.open(folder), "slides given at the export", size, mpp, count, {})
        data = open_data(place, (trained or {}).get("manifest"))
        kind = "cohort of slides" if isinstance(data, Cohort) else "images"
        return _read(data, kind, size, mpp, count, trained or {})
    except CohortError as error:
        raise ConfigError(f"--patches {place}: {error}") from error


def _holds_slides(place: Path) -> bool:
    if place.is_file():
        return place.suffix.lower() in (*SUFFIXES, ".csv")
    if (place / TABLE).exists() or (place / MASKS).exists():
        return False
    return any(file.suffix.lower() in SUFFIXES for file in place.rglob("*"))


def _read(data: Cohort | PatchFiles, kind: str, size: int, mpp: float, count: int, trained: dict[str, Any]) -> Patches:
    held_out, training = _parts(data, trained)
    apart = not set(held_out) & set(training)
    source = _source(data, held_out, size, mpp)
    wanted = [count, CALIBRATION]
    if apart:
        first, slides = _take(source, [count])
        second, _ = _take(_source(data, training, size, mpp), [CALIBRATION])
        parity, calibration = first[0], second[0]
    else:
        (parity, calibration), slides = _take(source, wanted)
    if len(parity) < LEAST:
        raise CohortError(f"{len(parity)} patches that differ could be read, {LEAST} are needed; give more slides")
    about = {
        "count": len(parity),
        "slides": slides,
        "source": f"{kind}, patients held out of {'the training' if trained else 'the calibration'}" if apart else kind,
        "calibration": len(calibration),
    }
    return Patches(parity, calibration, about)


def _parts(data: Cohort | PatchFiles, trained: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Rows to compare on and rows to calibrate on: held-out patients and the others where they can be told apart, or
    else all rows for both.
    """
    every = list(range(len(data)))
    try:
        split = data.split(trained.get("hold_out", "patient"), trained.get("fraction", 0.2), trained.get("seed", 0))
    except CohortError:  # no patients known, or only one
        return every, every
    held_out = [*split["val"], *split["test"]]
    if not held_out or not split["train"] or (isinstance(data, PatchFiles) and len(held_out) < LEAST):
        return every, every
    return held_out, split["train"]


def _source(data: Cohort | PatchFiles, rows: list[int], size: int, mpp: float) -> Source:
    if isinstance(data, PatchFiles):
        return data.source(rows, SEED, size)
    return CohortSource(Sampler(data, rows, SEED, size, mpp))


def _take(source: Source, counts: list[int]) -> tuple[list[NDArray[np.uint8]], int]:
    """The first patches of a source that can be read and are not alike, dealt to several lists in order; and of how
    many slides those of the first list are.
    """
    wanted, seen = sum(counts), dict[bytes, int]()
    limit = len(source) if isinstance(source, EpochSource) else SPARE * wanted  # images: each once
    fault: SlideError | None = None
    for start in range(0, limit, wanted):
        drawn = source.draw(np.arange(start, min(start + wanted, limit)))
        for k in range(min(wanted, limit - start)):
            patch, out = drawn.patch(k), np.empty((source.size, source.size, 3), np.uint8)
            try:
                source.read(patch, out)
            except SlideError as error:
                fault = error
                continue
            seen.setdefault(out.tobytes(), patch.slide)
            if len(seen) == wanted:
                break
        if len(seen) == wanted:
            break
    if not seen and fault:
        raise CohortError(f"none of {limit} patches could be read, last: {fault}")
    shape = (source.size, source.size, 3)
    images = [np.frombuffer(pixels, np.uint8).reshape(shape) for pixels in seen]
    ends = np.cumsum([0, *counts]).tolist()
    parts = [np.array(images[a:b], np.uint8).reshape(-1, *shape) for a, b in pairwise(ends)]
    return parts, len(set(list(seen.values())[: counts[0]]))
