"""Patches of slides as PNG files: those that a training streams, in its order, and those that judge, side by side.

Letters: `B` images of a step, `S` px of a patch.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from g2l.data.cut.epochs import EpochSource
from g2l.data.cut.stores import ImageFiles
from g2l.data.module import HELD_OUT_SEED, SlideDataModule
from g2l.data.stream import read_patches
from g2l.errors import CohortError
from g2l.evaluation.embedding.grid import tissue_grid
from g2l.slides.cohort import Cohort
from g2l.slides.placing.patches import Patch
from scaled.files import write_rows

LIST, COLUMNS = "patches.csv", ("path", "slide", "patient", "split")
MIN_TISSUE = 0.5


def cut_stream(data: SlideDataModule, steps: int, out: Path) -> None:
    """Write what a training over slides sees, so that a training over the folder sees the same in the same order.

    The patches come from the data module's own loaders: `steps` batches of training, and the held-out ones of one
    validation. A folder of N patches is read in a drawn order, epoch by epoch (`EpochSource`): number i of the stream
    is written to the file that the first epoch takes as its number i. So N is all that the training consumes.

    Args:
        data: over a cohort, not set up yet; its batch size, seed, resolution and S are those of both trainings.
        out: folder of train/, val/ and patches.csv (path,slide,patient,split), whole or not there.
    """
    data.setup()
    of_slide = dict(zip(data.cohort.column("name"), data.cohort.column("patient"), strict=True))
    rows: list[dict[str, str]] = []
    with whole(out) as folder:
        for part, loader, seed in (
            ("train", islice(data.train_dataloader(), steps), data.seed),
            ("val", data.val_dataloader(), data.seed + HELD_OUT_SEED),
        ):
            count = steps if part == "train" else -(-data.val_patches // data.batch_size)
            names = [f"{part}/{row:07d}.png" for row in range(count * data.batch_size)]
            order = _order(names, seed, data.patch_size)
            (folder / part).mkdir()
            for batch in loader:
                for number, slide, pixels in zip(
                    batch["index"].tolist(), batch["slides"], batch["images"].numpy(), strict=True
                ):
                    name = names[order.row(number)]
                    write_png(folder / name, pixels)
                    rows.append({"path": name, "slide": slide, "patient": of_slide[slide], "split": part})
        write_rows(folder / LIST, sorted(rows, key=lambda row: row["path"]), COLUMNS)


def cut_grid(cohort: Cohort, slides: Sequence[int], size: int, mpp: float, count: int, out: Path) -> None:
    """Write patches side by side over the tissue of some slides: none overlaps another, or it would be its neighbour.

    Args:
        slides: their numbers in the cohort; each gives an equal share of the patches, drawn by its file alone.
        size, mpp: S, and um per px.
        count: patches of all slides together.
        out: folder of a folder per slide, and patches.csv (path,slide,patient,split), all of them `test`.
    Raises:
        CohortError: a slide has not so many.
    """
    names, patients, prints = (cohort.column(column) for column in ("name", "patient", "fingerprint"))
    rows: list[dict[str, str]] = []
    with whole(out) as folder:
        for slide, share in zip(slides, _shares(count, len(slides)), strict=True):
            um = tissue_grid(cohort, slide, size, mpp, MIN_TISSUE, share, prints[slide]).um.tolist()
            if len(um) < share:
                raise CohortError(
                    f"slide {names[slide]} has {len(um)} patches of {size} px at {mpp:g} um/px side by side, {share} "
                    "are asked; judge on fewer, or at a finer resolution"
                )
            patches = [Patch(k, slide, x, y, mpp, size) for k, (x, y) in enumerate(um)]
            (folder / names[slide]).mkdir()
            for patch, pixels in zip(patches, read_patches(cohort, patches, 1), strict=True):
                name = f"{names[slide]}/{patch.x:.0f}_{patch.y:.0f}.png"
                write_png(folder / name, pixels)
                rows.append({"path": name, "slide": names[slide], "patient": patients[slide], "split": "test"})
        write_rows(folder / LIST, rows, COLUMNS)


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `out` when all went well; what a killed run left is removed."""
    building = out.with_name(f"{out.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    yield building
    shutil.rmtree(out, ignore_errors=True)
    building.rename(out)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write RGB (S, S, 3), without loss."""
    _, png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(png.tobytes())


def _order(names: Sequence[str], seed: int, size: int) -> EpochSource:
    """A source over files that need not be there yet: it is asked for their order alone."""
    files, count = ImageFiles(Path(), pa.array(names, pa.string())), len(names)
    slides, mpp, labels = np.zeros(count, np.int32), np.full(count, np.nan), np.full(count, "")
    return EpochSource(files, slides, mpp, labels, [""], seed, size)


def _shares(count: int, slides: int) -> list[int]:
    """`count` in `slides` parts that differ by one at most."""
    return [count // slides + (k < count % slides) for k in range(slides)]
