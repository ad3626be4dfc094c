"""Patches of an indexed cohort whose region maps say what they show (the demo cohort), written once as PNG files."""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from g2l.errors import CohortError, G2LError
from g2l.evaluation.tables.listing import Listing
from g2l.evaluation.tables.table import Source, Table

FORMAT = 1
COLUMNS = ("path", "label", "patient", "slide", "centre", "split")


class CohortRegions(Source):
    """Patches drawn from a cohort, with the tissue class of their place; parts are those of the cohort's split column.

    They are written below `folder` once, so that every encoder and task sees the same files; another cohort or other
    settings get a folder of their own.
    """

    def __init__(
        self,
        cohort: str,
        folder: str,
        patches: int = 1200,
        patch_size: int = 256,
        mpp: float = 0.5,
        min_tissue: float = 0.5,
        seed: int = 0,
        threads: int = 2,
    ) -> None:
        """Which patches.

        Args:
            cohort: folder written by `g2l index`, whose manifest had a regions (or label) column; or `demo`.
            folder: where the patches are written.
            patches: of each part; parts without slides have none.
            patch_size: px of a patch. mpp: um per px. min_tissue: share of a patch that must be tissue.
            seed: of the draw. threads: that read the slides.
        """
        self.cohort, self.folder, self.patches, self.patch_size = cohort, folder, patches, patch_size
        self.mpp, self.min_tissue, self.seed, self.threads = mpp, min_tissue, seed, threads

    def read(self) -> Table:
        """The table, drawn and written where it is not there yet."""
        from g2l.data.opening import DEMO, open_data, prepare_demo
        from g2l.slides.cohort import Cohort

        if self.cohort == DEMO:
            prepare_demo()
        cohort = open_data(self.cohort)
        if not isinstance(cohort, Cohort):
            raise CohortError(f"{self.cohort} holds patches, not slides; list them with Listing")
        about = {name: getattr(self, name) for name in ("patches", "patch_size", "mpp", "min_tissue", "seed")}
        columns = ("name", "fingerprint", "split", "patient", "label")
        slides = [cohort.column(name) for name in columns] + [_dates(cohort.column("regions"))]
        text = json.dumps([FORMAT, about, slides], sort_keys=True)
        place = Path(self.folder) / f"regions-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if not (place / "patches.csv").is_file():
            self._write(cohort, place)
        return Listing(str(place / "patches.csv"), name=cohort.folder.name, mpp=self.mpp).read()

    def _write(self, cohort: Any, place: Path) -> None:
        """Into a folder beside it, then renamed: it is whole or absent."""
        import cv2

        building = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        rows: list[tuple[str, ...]] = []
        try:
            building.mkdir(parents=True)
            for part, numbers in cohort.split("patient", 0.2, self.seed).items():
                if not numbers:
                    continue
                found = self._draw(cohort, numbers)
                (building / part).mkdir()
                for k, image in enumerate(found.images):
                    name = f"{part}/{k:05d}.png"
                    _, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
                    (building / name).write_bytes(png.tobytes())
                    known = (found.labels[k], found.patients[k], found.slides[k], found.centres[k])
                    rows.append((name, *map(str, known), part))
            with (building / "patches.csv").open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([COLUMNS, *rows])
            if not (place / "patches.csv").is_file():  # else another process was faster
                building.rename(place)
        except OSError as error:
            raise CohortError(
                f"{place} cannot be written ({error.strerror or error}); choose another folder"
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _draw(self, cohort: Any, numbers: list[int]) -> Any:
        from g2l.data.labelled import labelled_patches
        from g2l.slides.sampling import Sampler

        sampler = Sampler(cohort, numbers, self.seed, self.patch_size, [self.mpp], min_tissue=self.min_tissue)
        try:
            return labelled_patches(cohort, sampler, self.patches, self.threads)
        except G2LError as error:
            raise CohortError(f"patches of {cohort.folder} cannot be drawn: {error}") from error


def _dates(maps: list[str | None]) -> list[int | None]:
    """When each region map was written: another map gives other labels."""
    return [Path(file).stat().st_mtime_ns if file and Path(file).is_file() else None for file in maps]
