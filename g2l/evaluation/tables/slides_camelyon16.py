"""CAMELYON16: metastases in sentinel lymph nodes, a class per slide."""

from pathlib import Path

import numpy as np

from g2l.errors import CohortError
from g2l.evaluation.tables.slides_text import slide_files, some
from g2l.evaluation.tables.table import Source, Table

ORIGIN = {
    "homepage": "https://camelyon17.grand-challenge.org/Data/",
    "licence": "CC0-1.0",
    "citation": "Ehteshami Bejnordi et al., JAMA 318(22), 2017",
}
KINDS = ("normal", "tumor")
# The organisers leave it out: a copy of test_114 with another name.
TWICE = "test_049"


class Camelyon16(Source):
    """Slides of the training part by folder, those of the test part by reference.csv; train and test as published.

    The publisher names no patients: every slide stands for itself. val is to be carved from train.
    """

    def __init__(self, root: str) -> None:
        """Args: root: folder with training/normal, training/tumor, testing/images and testing/reference.csv."""
        self.root = root

    def read(self) -> Table:
        """The table; test_049, a copy of test_114, is left out.

        Raises:
            CohortError: folders, reference.csv or labels are missing.
        """
        root = Path(self.root).expanduser().resolve()
        where = (
            f"get CAMELYON16 (CC0) from {ORIGIN['homepage']} into {root}: training/normal, training/tumor, "
            "testing/images, testing/reference.csv"
        )
        paths, labels, splits = [], [], []
        for kind in KINDS:
            for path in slide_files(root / "training" / kind, (".tif",), where):
                paths.append(path)
                labels.append(kind)
                splits.append("train")
        stated = _reference(root / "testing" / "reference.csv", where)
        lacking = []
        for path in slide_files(root / "testing" / "images", (".tif",), where):
            name = path.stem.lower()
            if name == TWICE:
                continue
            if name not in stated:
                lacking.append(path.name)
                continue
            paths.append(path)
            labels.append(stated[name])
            splits.append("test")
        if lacking:
            raise CohortError(
                f"CAMELYON16: reference.csv does not name {len(lacking)} slides ({some(lacking)}); {where}"
            )
        names = [path.stem for path in paths]
        return Table.build(
            "camelyon16", paths, root, origin=ORIGIN, labels=np.array(labels), slides=np.array(names), splits=splits
        )


def _reference(path: Path, where: str) -> dict[str, str]:
    """Slide -> class; lines are `test_001,Tumor,...`, with or without a line of column names."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(f"{path} cannot be read ({error}); {where}") from error
    found = {}
    for line in lines:
        cells = [cell.strip().strip('"').lower() for cell in line.split(",")]
        if len(cells) > 1 and cells[1] in KINDS:
            found[cells[0].removesuffix(".tif")] = cells[1]
    if not found:
        raise CohortError(f"{path} gives no slide a class ({' or '.join(KINDS)}); {where}")
    return found
