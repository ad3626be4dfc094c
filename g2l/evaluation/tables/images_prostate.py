"""Prostate images: Gleason patterns of tissue microarrays."""

import re
from pathlib import Path
from typing import Literal

from g2l.errors import CohortError
from g2l.evaluation.tables.published import Origin
from g2l.evaluation.tables.splits import shown
from g2l.evaluation.tables.table import Source, Table

GLEASON = Origin(
    "Gleason (Arvaniti)",
    "https://doi.org/10.7910/DVN/OCYCMP",
    "CC0 1.0",
    "Arvaniti et al. 2018, Sci. Rep. 8, 12054",
)
# ZT76_39_A_1_1_patch_12_class_0.jpg: array, core, patch, class
NAME = re.compile(r"((ZT\d+)_\w+)_patch_(\d+)_class_([0-3])\.jpg")
CLASSES = ("benign", "Gleason 3", "Gleason 4", "Gleason 5")
TRAIN, TEST = "train_validation_patches_750", "test_patches_750"
VALIDATION = "ZT76"


class GleasonArvaniti(Source):
    """Patches of 750 px of five arrays as the authors' create_patches.py cuts them; one core is one patient.

    Array ZT76 is validation and ZT80 is test, as published.
    """

    def __init__(self, root: str, pathologist: Literal[1, 2] = 1) -> None:
        """Which labels.

        Args:
            root: folder with train_validation_patches_750 and test_patches_750.
            pathologist: whose labels of the test array.
        """
        self.root, self.pathologist = root, pathologist

    def read(self) -> Table:
        """The table."""
        root = Path(self.root)
        tested = root / TEST / f"patho_{self.pathologist}"
        GLEASON.require([root / TRAIN, tested])
        paths = [*GLEASON.images(root / TRAIN, "**/*.jpg"), *GLEASON.images(tested, "**/*.jpg")]
        found = [(path, NAME.fullmatch(path.name)) for path in paths]
        strange = [path.name for path, match in found if match is None]
        if strange:
            raise CohortError(
                f"{GLEASON.name}: {len(strange)} file names of another form ({shown(strange)}); core and class "
                "are told by names such as ZT76_39_A_1_1_patch_12_class_0.jpg"
            )
        matched = [(path, match) for path, match in found if match]
        return Table.build(
            "Gleason (Arvaniti)", paths, root, mpp=0.23, origin=GLEASON.about(),
            labels=[CLASSES[int(m[4])] for _, m in matched], patients=[m[1] for _, m in matched],
            slides=[m[1] for _, m in matched], splits=[_part(root, path, m[2]) for path, m in matched],
        )  # fmt: skip


def _part(root: Path, path: Path, array: str) -> str:
    """The folder says which patches are test, the array which of the others are validation."""
    if path.is_relative_to(root / TEST):
        return "test"
    return "val" if array == VALIDATION else "train"
