"""The embedded cohort: synthetic H&E-like slides with known tissue classes, three centres, and a split by patient.

Everything follows from the seed: the same seed gives the same bytes, whatever the number of processes.
"""

import csv
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from g2l.data.drawing.canvas import Canvas
from g2l.data.drawing.layout import CLASSES, Layout, plan
from g2l.data.drawing.scanner import Centre, develop, map_at, write_pyramid
from g2l.data.drawing.tissues import paint
from g2l.slides.regions import write_regions

VERSION = 1  # raise when a drawing changes, so that stale cohorts are drawn again
SIZE_UM = 2700.0
REGION_MPP = 16.0
CENTRES = (
    Centre("north", (0.65, 0.70, 0.29), (0.09, 0.95, 0.30), (1.0, 1.0), (244, 243, 244), 0.30, 1.5, 88, 0.50),
    Centre("east", (0.55, 0.76, 0.34), (0.05, 0.90, 0.42), (1.25, 0.75), (240, 236, 228), 0.55, 3.0, 75, 0.50),
    Centre("south", (0.74, 0.62, 0.24), (0.18, 0.95, 0.20), (0.80, 1.25), (236, 240, 246), 0.45, 2.2, 80, 0.46),
)
SPLITS = ("train", "train", "val", "test", "test")  # the five patients of each centre


@dataclass(frozen=True)
class Order:
    """One slide to draw."""

    number: int
    patient: int
    centre: Centre
    split: str
    fold: bool = False
    pen: bool = False

    @property
    def name(self) -> str:
        return f"p{self.patient:02d}-{self.number:02d}"


def cohort_orders() -> list[Order]:
    """The cohort's 18 slides of 15 patients: the first patient of each centre has two.

    Each part has every centre, and the test part two slides of each, so that neighbours of the same centre exist
    outside a patch's own slide (evaluation.measures.robustness).
    """
    orders: list[Order] = []
    for c, centre in enumerate(CENTRES):
        for p, split in enumerate(SPLITS):
            for _ in range(2 if p == 0 else 1):
                number = len(orders)
                orders.append(Order(number, len(SPLITS) * c + p, centre, split, number % 4 == 1, number == 6))
    return orders


def draw_slide(
    seed: int, order: Order, size_um: float = SIZE_UM, patient_spread: float = 1.0
) -> tuple[np.ndarray, Layout, Canvas, Centre]:
    """Draw one slide in memory.

    Returns: RGB uint8 (H, W, 3) at order.centre.mpp; its layout, whose class map is the truth; the canvas with the
    nuclei's places; the centre as it was on that day.
    """
    habit = np.random.default_rng([seed, 1, order.patient])
    mix = habit.dirichlet(np.full(len(CLASSES), 1.5))
    stain = order.centre.vary(habit, patient_spread)
    rng = np.random.default_rng([seed, 2, order.number])
    stain = stain.vary(rng, 0.6)
    layout = plan(rng, (size_um, size_um), mix)
    canvas = Canvas(layout.size_um, stain.mpp)
    paint(rng, layout, canvas)
    rgb = develop(rng, layout, canvas, stain, order.fold, order.pen)
    return rgb, layout, canvas, stain


def draw_cohort(folder: Path, seed: int = 0, workers: int | None = None, size_um: float = SIZE_UM) -> Path:
    """Draw the embedded cohort into `folder`, or return at once where it already stands.

    Args:
        folder: gets slides/*.tif (pyramids with their mpp), regions/*.png (slides.regions) and manifest.csv.
        seed: another seed is another cohort of the same centres.
        workers: processes; by default one per core, at most four. The bytes do not depend on it.
        size_um: side of a slide.
    Returns:
        The manifest's path: columns slide, patient, centre, split, regions; paths relative to `folder`.
    """
    folder = Path(folder)
    manifest, stamp = folder / "manifest.csv", folder / "demo.json"
    wanted = {"version": VERSION, "seed": seed, "size_um": size_um}
    orders = cohort_orders()
    if _stands(stamp, wanted) and manifest.exists() and all(_slide(folder, o).exists() for o in orders):
        return manifest
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    (folder / "regions").mkdir(exist_ok=True)
    stamp.unlink(missing_ok=True)
    workers = workers or min(_cores(), 4)
    if workers == 1:
        for order in orders:
            _draw_files(folder, seed, order, size_um)
    else:
        # spawn: OpenCV's and torch's threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for done in [pool.submit(_draw_files, folder, seed, order, size_um) for order in orders]:
                done.result()
    with (temporary := manifest.with_name("manifest.csv.part")).open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["slide", "patient", "centre", "split", "regions"])
        for o in orders:
            row = [f"slides/{o.name}.tif", f"p{o.patient:02d}", o.centre.name, o.split, f"regions/{o.name}.png"]
            table.writerow(row)
    temporary.replace(manifest)
    temporary = stamp.with_name("demo.json.part")
    temporary.write_text(json.dumps(wanted))
    temporary.replace(stamp)  # last: an interrupted drawing leaves no stamp and is drawn again
    return manifest


def _cores() -> int:
    """Cores this process may use; not every system tells, and then those the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _slide(folder: Path, order: Order) -> Path:
    return folder / "slides" / f"{order.name}.tif"


def _stands(stamp: Path, wanted: dict[str, float]) -> bool:
    try:
        return json.loads(stamp.read_text()) == wanted
    except (OSError, ValueError):
        return False


def _draw_files(folder: Path, seed: int, order: Order, size_um: float) -> None:
    import cv2

    cv2.setNumThreads(1)
    rgb, layout, _, stain = draw_slide(seed, order, size_um)
    write_regions(folder / "regions" / f"{order.name}.png", map_at(layout, REGION_MPP), REGION_MPP, CLASSES)
    write_pyramid(_slide(folder, order), rgb, stain.mpp, stain.quality)
