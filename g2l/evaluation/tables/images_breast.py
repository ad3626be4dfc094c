"""Breast images: tumour types (BreakHis) and the stages of BACH."""

import re
from pathlib import Path
from typing import Literal

import numpy as np

from g2l.errors import CohortError
from g2l.evaluation.tables.listing import read_columns
from g2l.evaluation.tables.published import Origin, first_folder
from g2l.evaluation.tables.splits import PATIENTS, shown
from g2l.evaluation.tables.table import Source, Table

BREAKHIS = Origin(
    "BreakHis",
    "https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis",
    "CC BY 4.0",
    "Spanhol et al. 2016, IEEE Trans. Biomed. Eng. 63(7)",
)
BACH = Origin(
    "BACH", "https://zenodo.org/records/3632035", "CC BY-NC-ND 4.0", "Aresta et al. 2019, Med. Image Anal. 56"
)
# SOB_B_A-14-22549AB-40-001.png: biopsy, benign or malignant, type, year, slide, magnification, number.
NAME = re.compile(r"SOB_([BM])_([A-Z]+)-(\d+)-(\d+)([A-Z]*)-(\d+)-(\d+)\.png")
STAGES = ("Benign", "InSitu", "Invasive", "Normal")
# Numbers of the images that eva (kaiko) holds out; its authors had the publisher's list of patients.
HELD_OUT = {
    "Benign": ((42, 59), (61, 90)),
    "InSitu": ((40, 69),),
    "Invasive": ((41, 58), (61, 73)),
    "Normal": ((46, 68),),
}


class BreakHis(Source):
    """Eight types of benign and malignant breast tumours at one magnification; 82 slides.

    The patient is the case's number in the file name. 22549AB, 22549CD and 22549G, which the publisher counts as three
    patients, are slides of one case and are kept together.
    """

    def __init__(
        self,
        root: str,
        magnification: Literal[40, 100, 200, 400] = 40,
        label: Literal["type", "malignant"] = "type",
        classes: list[str] | None = None,
    ) -> None:
        """Which images.

        Args:
            root: folder that holds BreaKHis_v1.
            magnification: of the images.
            label: the type (A, F, PT, TA, DC, LC, MC, PC), or benign against malignant.
            classes: types to keep; default: all. Some have images of three cases only.
        """
        self.root, self.magnification, self.label, self.classes = root, magnification, label, classes

    def read(self) -> Table:
        """The table, without parts: they are drawn by patient."""
        root = Path(self.root)
        slides = first_folder(root, "BreaKHis_v1/histology_slides/breast", "histology_slides/breast", holds="*/SOB")
        BREAKHIS.require([slides])
        paths = BREAKHIS.images(slides, f"**/{self.magnification}X/*.png")
        found = [(path, NAME.fullmatch(path.name)) for path in paths]
        strange = [path.name for path, match in found if match is None]
        if strange:
            raise CohortError(
                f"BreakHis: {len(strange)} file names of another form ({shown(strange)}); a patient is told by names "
                "such as SOB_B_A-14-22549AB-40-001.png"
            )
        kept = [(path, m) for path, m in found if m and (self.classes is None or m[2] in self.classes)]
        if not kept:
            raise CohortError(
                f"BreakHis: no images of the classes {', '.join(self.classes or [])}; give types as TA, DC"
            )
        kinds = {"B": "benign", "M": "malignant"}
        return Table.build(
            f"BreakHis {self.magnification}X", [path for path, _ in kept], root, origin=BREAKHIS.about(),
            labels=[m[2] if self.label == "type" else kinds[m[1]] for _, m in kept],
            patients=[m[4] for _, m in kept], slides=[f"{m[3]}-{m[4]}{m[5]}" for _, m in kept],
        )  # fmt: skip


class Bach(Source):
    """400 microscopy images of four stages; the labelled part of the ICIAR 2018 challenge.

    The archive names no patients. Without the list that the challenge's website links, the parts are those of eva,
    whose test is made by patient.
    """

    def __init__(self, root: str, patients: str | None = None) -> None:
        """Where it lies.

        Args:
            root: folder that holds ICIAR2018_BACH_Challenge.
            patients: CSV with columns image (n032.tif) and patient; then parts are drawn by patient.
        """
        self.root, self.patients = root, patients

    def read(self) -> Table:
        """The table."""
        root = Path(self.root)
        photos = first_folder(root, "ICIAR2018_BACH_Challenge/Photos", "Photos", holds="Benign")
        BACH.require([photos / stage for stage in STAGES])
        paths = [path for stage in STAGES for path in BACH.images(photos / stage, "*.tif")]
        labels = [path.parent.name for path in paths]
        if self.patients is not None:
            return Table.build(
                "BACH", paths, root, mpp=0.42, origin=BACH.about(), labels=labels, patients=self._listed(paths)
            )
        numbers = [int(digits) if (digits := re.sub(r"\D", "", path.stem)) else 0 for path in paths]
        held = [
            any(low <= number <= high for low, high in HELD_OUT[label])
            for number, label in zip(numbers, labels, strict=True)
        ]
        said = "the parts are those of eva (kaiko), whose authors state that no patient is in both"
        return Table.build(
            "BACH", paths, root, mpp=0.42, origin=BACH.about(**{PATIENTS: said}), labels=labels,
            splits=["test" if out else "train" for out in held],
        )  # fmt: skip

    def _listed(self, paths: list[Path]) -> np.ndarray:
        columns = read_columns(Path(self.patients or ""))
        lacking = [name for name in ("image", "patient") if name not in columns]
        if lacking:
            raise CohortError(f"BACH: list {self.patients} has no column {', '.join(lacking)}; name them so")
        known = {
            Path(image).stem: patient
            for image, patient in zip(columns["image"].tolist(), columns["patient"].tolist(), strict=True)
        }
        return np.array([known.get(path.stem, "") for path in paths], np.str_)
