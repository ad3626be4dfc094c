"""PANDA: grades of prostate biopsies from two centres."""

from pathlib import Path
from typing import Literal

import numpy as np

from g2l.errors import CohortError
from g2l.evaluation.tables.slides_text import column_of, read_rows, some
from g2l.evaluation.tables.splits import PATIENTS
from g2l.evaluation.tables.table import Source, Table

ORIGIN = {
    "homepage": "https://www.kaggle.com/c/prostate-cancer-grade-assessment",
    "licence": "CC BY-SA-NC 4.0",
    "citation": "Bulten et al., Nature Medicine 28, 2022",
    "split": "the publisher's test slides are not public: parts are drawn with the seed",
    PATIENTS: "the publisher names no patients, so biopsies of one patient may lie in different parts",
}


class Panda(Source):
    """The public biopsies with their ISUP or Gleason grade.

    No patients and no split are published: parts are drawn by biopsy, and may separate those of one patient.
    """

    def __init__(self, root: str, label: Literal["isup_grade", "gleason_score"] = "isup_grade") -> None:
        """Args:
        root: folder with train.csv and train_images/*.tiff.
        label: the column of train.csv to tell apart.
        """
        self.root, self.label = root, label

    def read(self) -> Table:
        """The table; `extra` has the other grade.

        Raises:
            CohortError: train.csv, columns or slides are missing.
        """
        root = Path(self.root).expanduser().resolve()
        where = f"get PANDA ({ORIGIN['licence']}) from {ORIGIN['homepage']} into {root}: train.csv, train_images/*.tiff"
        rows = read_rows(root / "train.csv", where)
        name, centre, isup, gleason = (
            column_of(rows, [key], root / "train.csv", key)
            for key in ("image_id", "data_provider", "isup_grade", "gleason_score")
        )
        # one biopsy without tumour is called "negative" at one centre and "0+0" at the other
        grades = {
            "isup_grade": np.array([row[isup] for row in rows]),
            "gleason_score": np.array([row[gleason].replace("negative", "0+0") for row in rows]),
        }
        paths = [root / "train_images" / f"{row[name]}.tiff" for row in rows]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise CohortError(f"PANDA: {len(missing)} of {len(paths)} slides are missing ({some(missing)}); {where}")
        other = "gleason_score" if self.label == "isup_grade" else "isup_grade"
        return Table.build(
            "panda",
            paths,
            root,
            origin=ORIGIN,
            extra={other: grades[other]},
            labels=grades[self.label],
            slides=np.array([row[name] for row in rows]),
            centres=np.array([row[centre] for row in rows]),
        )
