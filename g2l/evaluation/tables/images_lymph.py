"""Lymph node images: PCam, metastasis or not in patches of CAMELYON16."""

from pathlib import Path

import numpy as np

from g2l.errors import CohortError
from g2l.evaluation.tables.listing import read_columns
from g2l.evaluation.tables.published import Origin
from g2l.evaluation.tables.splits import PATIENTS
from g2l.evaluation.tables.table import Source, Table

PCAM = Origin(
    "PCam",
    "https://github.com/basveeling/pcam",
    "CC0 1.0",
    "Veeling et al. 2018, arXiv:1806.03962",
)
PARTS = {"train": "train", "valid": "val", "test": "test"}


class PCam(Source):
    """96 px patches at about 1 um/px; the label says whether the central 32 px hold tumour.

    Slides are known where the published meta files (..._meta.csv, column wsi) are there; they are worth fetching, since
    intervals by slide are wider than intervals by patch.
    """

    def __init__(self, root: str) -> None:
        """Where it lies.

        Args:
            root: folder with camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5 (unpacked from .gz) and, where
                fetched, _meta.csv.
        """
        self.root = root

    def read(self) -> Table:
        """The table; images stay in the HDF5 files."""
        root = Path(self.root)
        PCAM.require(_file(root, part, f"{kind}.h5") for part in PARTS for kind in ("x", "y"))
        labels: list[str] = []
        paths: list[Path] = []
        splits: list[str] = []
        slides: list[str] = []
        for part, name in PARTS.items():
            truth = _truth(root, part)
            labels += np.where(truth > 0, "tumor", "normal").tolist()
            paths += [_file(root, part, "x.h5")] * len(truth)
            splits += [name] * len(truth)
            slides += _slides(root, part, len(truth))
        said = "PCam's authors state that no slide is in two parts"
        counts = [splits.count(name) for name in PARTS.values()]
        return Table.build(
            "PCam", paths, root, rows=np.concatenate([np.arange(n) for n in counts]), mpp=0.972,
            origin=PCAM.about(**({} if all(slides) else {PATIENTS: said})), labels=labels, slides=slides, splits=splits,
        )  # fmt: skip


def _file(root: Path, part: str, end: str) -> Path:
    return root / f"camelyonpatch_level_2_split_{part}_{end}"


def _truth(root: Path, part: str) -> np.ndarray:
    """(N,) 0 or 1 of a part."""
    import h5py

    file = _file(root, part, "y.h5")
    try:
        with (
            h5py.File(file, "r", locking=False) as labels,
            h5py.File(_file(root, part, "x.h5"), "r", locking=False) as x,
        ):
            truth, count = np.asarray(labels["y"]).reshape(-1), len(x["x"])  # pyright: ignore[reportArgumentType]
    except (OSError, KeyError) as error:
        raise CohortError(
            f"PCam: {file} or its images cannot be read ({' '.join(str(error).split())}); get them again from "
            f"{PCAM.homepage} and unpack the .gz"
        ) from error
    if len(truth) != count:
        raise CohortError(f"PCam: {part} has {count} images and {len(truth)} labels; get both files again")
    return truth


def _slides(root: Path, part: str, count: int) -> list[str]:
    meta = _file(root, part, "meta.csv")
    if not meta.is_file():
        return [""] * count
    columns = read_columns(meta)
    if "wsi" not in columns or len(columns["wsi"]) != count:
        raise CohortError(f"PCam: {meta} has no column wsi with {count} rows; get it again, or remove it")
    return columns["wsi"].tolist()
