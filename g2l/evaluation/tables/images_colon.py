"""Colorectal images: tissue types (NCT-CRC) and polyps (MHIST)."""

from pathlib import Path
from typing import Literal

import numpy as np

from g2l.errors import CohortError
from g2l.evaluation.tables.listing import as_numbers, read_columns, require_files
from g2l.evaluation.tables.published import Origin
from g2l.evaluation.tables.splits import PATIENTS
from g2l.evaluation.tables.table import Source, Table

NCT = Origin(
    "NCT-CRC-HE",
    "https://zenodo.org/records/1214456",
    "CC BY 4.0",
    "Kather, Halama and Marx 2018, doi:10.5281/zenodo.1214456",
)
MHIST = Origin(
    "MHIST",
    "https://bmirds.github.io/MHIST",
    "research use agreement of Dartmouth-Hitchcock",
    "Wei et al. 2021, arXiv:2101.12355",
)
TEST = "CRC-VAL-HE-7K"
IMAGE, LABEL, VOTES, PART = (
    "Image Name", "Majority Vote Label", "Number of Annotators who Selected SSA (Out of 7)", "Partition",
)  # fmt: skip


class NctCrc(Source):
    """Nine tissue types: NCT-CRC-HE-100K to fit on, CRC-VAL-HE-7K as test.

    The publisher states that the 50 patients of the second do not occur in the first, but names none. Validation is
    therefore drawn by image from the first, and may hold patients of train: this touches choices, not the test.
    """

    def __init__(
        self, root: str, train: Literal["NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM"] = "NCT-CRC-HE-100K"
    ) -> None:
        """Where it lies.

        Args:
            root: folder of the two unpacked archives.
            train: images to fit on, with or without the publisher's colour normalisation.
        """
        self.root, self.train = root, train

    def read(self) -> Table:
        """The table; classes are the names of the folders."""
        root = Path(self.root)
        NCT.require([root / self.train, root / TEST])
        found = {part: NCT.images(root / folder, "*/*.tif") for part, folder in (("train", self.train), ("test", TEST))}
        paths = [path for part in found.values() for path in part]
        said = f"the publisher states that the 50 patients of {TEST} do not occur in {self.train}"
        return Table.build(
            f"{self.train} and {TEST}", paths, root, mpp=0.5, origin=NCT.about(**{PATIENTS: said}),
            labels=[path.parent.name for path in paths],
            splits=[part for part, files in found.items() for _ in files],
        )  # fmt: skip


class Mhist(Source):
    """Hyperplastic polyps (HP) against sessile serrated adenomas (SSA), majority of seven pathologists.

    3,152 images of 328 slides, which the publisher does not name.
    """

    def __init__(self, root: str) -> None:
        """Where it lies.

        Args:
            root: folder with annotations.csv and images/.
        """
        self.root = root

    def read(self) -> Table:
        """The table; `extra["ssa_votes"]`: how many of the seven said SSA."""
        root = Path(self.root)
        MHIST.require([root / "annotations.csv", root / "images"])
        columns = read_columns(root / "annotations.csv")
        lacking = [name for name in (IMAGE, LABEL, PART) if name not in columns]
        if lacking:
            raise CohortError(f"MHIST: {root / 'annotations.csv'} has no column {', '.join(lacking)}; get it again")
        paths = [root / "images" / name for name in columns[IMAGE].tolist()]
        require_files("MHIST", paths)
        said = "its 328 slides are not named; the parts are the publisher's, and whether they share one is not known"
        votes = {"ssa_votes": as_numbers(columns[VOTES])} if VOTES in columns else {}
        return Table.build(
            "MHIST", paths, root, origin=MHIST.about(**{PATIENTS: said}), extra=votes,
            labels=columns[LABEL], splits=np.char.lower(columns[PART]),
        )  # fmt: skip
