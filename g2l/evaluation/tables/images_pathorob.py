"""Images of many centres for the robustness of embeddings: PathoROB, as its three data sets lie on Hugging Face."""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.tables.listing import read_columns
from g2l.evaluation.tables.published import Origin, first_folder
from g2l.evaluation.tables.splits import shown
from g2l.evaluation.tables.table import Source, Table, Texts

LICENCES = {"camelyon": "CC0 1.0", "tcga": "CC BY-NC-SA 4.0", "tolkach_esca": "CC BY-SA 4.0"}
COLUMNS = ("slide_id", "patch_id", "biological_class", "medical_center")
SUBSET = "subset"
# The patient in the name of a slide: of TCGA the barcode's first three parts, of CAMELYON17 patient_012_node_3, of
# Tolkach's oesophagus the case. CAMELYON16 names no patients: there the slide stands for one.
PATIENT = {"camelyon": r"(patient_\d+)_node_\d+", "tcga": r"(TCGA-\w\w-\w{4}).*", "tolkach_esca": r"(.+)"}


class PathoRob(Source):
    """Patches with a biological class and a medical centre; all of them are judged, nothing is fitted.

    The published index of Tolkach's set is of a reduced list, that of TCGA of pairs of classes and centres; both lists
    lie in the project's repository (data/metadata).
    """

    def __init__(
        self,
        root: str,
        subset: Literal["camelyon", "tcga", "tolkach_esca"] = "camelyon",
        only: str | None = None,
        out_of_domain: bool = False,
    ) -> None:
        """Which patches.

        Args:
            root: folder that holds PathoROB-<subset> as downloaded (data/*.parquet), or is it.
            subset: of the three data sets.
            only: CSV of the project (columns slide_id, patch_id) with the patches to keep.
            out_of_domain: keep the patches of centres that are held out of the index (subset OOD) as well.
        """
        self.root, self.subset, self.only, self.out_of_domain = root, subset, only, out_of_domain

    def read(self) -> Table:
        """The table, without parts; images stay in the Parquet files."""
        source = Origin(
            f"PathoROB-{self.subset}",
            f"https://huggingface.co/datasets/bifold-pathomics/PathoROB-{self.subset}",
            LICENCES[self.subset],
            "Koemen et al. 2025, arXiv:2507.17845",
        )
        root = first_folder(Path(self.root), source.name, self.subset, holds="data/*.parquet")
        files = source.images(root, "**/*.parquet")
        columns, paths, rows = _gather(files)
        keep = self._kept(columns)
        if not keep.any():
            raise CohortError(f"{source.name}: no patch of {len(keep)} is kept; check `only` and `out_of_domain`")
        kept = {name: column[keep] for name, column in columns.items()}
        slides = kept["slide_id"]
        matches = [re.fullmatch(PATIENT[self.subset], slide) for slide in slides.tolist()]
        return Table.build(
            source.name, [path for path, wanted in zip(paths, keep.tolist(), strict=True) if wanted], root,
            rows=rows[keep], origin=source.about(), labels=kept["biological_class"], centres=kept["medical_center"],
            slides=slides, patients=[match[1] if match else "" for match in matches],
        )  # fmt: skip

    def _kept(self, columns: dict[str, Texts]) -> NDArray[np.bool_]:
        keep = np.ones(len(columns["slide_id"]), np.bool_)
        if SUBSET in columns and not self.out_of_domain:
            keep &= columns[SUBSET] != "OOD"
        if self.only is not None:
            listed = read_columns(Path(self.only))
            lacking = [name for name in COLUMNS[:2] if name not in listed]
            if lacking:
                raise CohortError(f"list {self.only} has no column {', '.join(lacking)}; take the project's own")
            there, wanted = (
                set(zip(c["slide_id"].tolist(), c["patch_id"].tolist(), strict=True)) for c in (columns, listed)
            )
            lost = sorted(wanted - there)
            if lost:
                names = shown("-".join(pair) for pair in lost)
                raise CohortError(
                    f"list {self.only}: {len(lost)} patches are not below {self.root} ({names}); get them"
                )
            pairs = zip(columns["slide_id"].tolist(), columns["patch_id"].tolist(), strict=True)
            keep &= np.array([pair in wanted for pair in pairs])
        return keep


def _gather(files: list[Path]) -> tuple[dict[str, Texts], list[Path], NDArray[np.int64]]:
    """Columns of text of all files, and of every row its file and its number in there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[str, list[str]] = {}
    paths: list[Path] = []
    rows: list[int] = []
    for file in files:
        try:
            names: Any = pq.read_schema(file).names
            lacking = [name for name in COLUMNS if name not in names]
            if lacking:
                raise CohortError(
                    f"{file} has no column {', '.join(lacking)} (it has: {', '.join(names)}); get it again"
                )
            wanted = [name for name in (*COLUMNS, SUBSET) if name in names]
            content = pq.read_table(file, columns=wanted)
        except (OSError, pa.ArrowException) as error:
            raise CohortError(f"{file} cannot be read ({' '.join(str(error).split())}); get it again") from error
        for name in wanted:
            found.setdefault(name, []).extend(str(value) for value in content.column(name).to_pylist())
        paths += [file] * content.num_rows
        rows += range(content.num_rows)
    uneven = [name for name, values in found.items() if len(values) != len(rows)]
    if uneven:
        raise CohortError(f"PathoROB: not all files have the column {', '.join(uneven)}; get them again")
    return {name: np.array(values, np.str_) for name, values in found.items()}, paths, np.array(rows, np.int64)
