"""Slides of The Cancer Genome Atlas: subtypes, and survival by a clinical table."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from g2l.errors import CohortError
from g2l.evaluation.tables.slides_text import Row, column_of, read_rows, slide_files, some
from g2l.evaluation.tables.table import Source, Table

ORIGIN = {
    "homepage": "https://portal.gdc.cancer.gov",
    "licence": "open access, NIH Genomic Data Sharing Policy",
    "citation": "The Cancer Genome Atlas Research Network",
}
BARCODE = re.compile(r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}")
# a diagnostic slide (formalin-fixed), as against one of the frozen portions (TS, BS, MS)
DIAGNOSTIC = re.compile(r"-DX[A-Z0-9]+", re.IGNORECASE)
CASES = ("case", "case_id", "patient", "patient_id", "bcr_patient_barcode", "submitter_id")
FILES = ("slide", "slide_id", "file_name", "filename", "path")
LABELS = ("label", "subtype", "project", "project_id", "oncotree_code", "type")
EMPTY = frozenset({"", "na", "n/a", "#n/a", "nan", "[not available]", "[not applicable]", "[discrepancy]", "[unknown]"})


class TcgaSubtyping(Source):
    """Slides below a folder, and a table that gives slides or cases a class (such as a GDC sample sheet)."""

    def __init__(
        self, root: str, labels: str = "labels.csv", label: str | None = None, diagnostic: bool = True
    ) -> None:
        """Args:
        root: folder with .svs files at any depth, named by their TCGA barcode.
        labels: CSV or TSV, below root or absolute, with a column for the slide (slide, File Name) or the case (case,
            Case ID), and one for the class (label, project, Project ID, ...).
        label: name of the column with the class, where it is another.
        diagnostic: leave out slides of frozen tissue (all but -DX).
        """
        self.root, self.labels, self.label, self.diagnostic = root, labels, label, diagnostic

    def read(self) -> Table:
        """The table; patient TCGA-XX-XXXX, centre XX (the tissue source site). Slides without a class are left out.

        Raises:
            CohortError: slides, table or columns are missing, or no slide has a class.
        """
        root = Path(self.root).expanduser().resolve()
        path = root / self.labels
        where = _where(root, f"{self.labels} (a GDC sample sheet will do)")
        slides = _slides(root, self.diagnostic, where)
        rows = read_rows(path, where)
        names = {key.lower() for row in rows[:1] for key in row}
        by_file = any(key in names or key.replace("_", " ") in names for key in FILES)
        key = column_of(rows, FILES if by_file else CASES, path, "slide or case")
        label = column_of(rows, [self.label] if self.label else LABELS, path, "class")
        classes = _one_each(rows, key, label, path, by_file)
        found = [classes.get(_stem(slide.name) if by_file else _case(slide), "") for slide in slides]
        kept = [k for k, name in enumerate(found) if name]
        if not kept:
            raise CohortError(f"{path}: none of the {len(slides)} slides below {root} is in it; check its column {key}")
        return _table("tcga_subtyping", root, slides, kept, "no class", labels=np.array(found)[kept])


class TcgaSurvival(Source):
    """Slides below a folder, and a clinical table: cBioPortal's data_clinical_patient.txt or TCGA-CDR as CSV.

    `extra`: `time` (months in cBioPortal, days in TCGA-CDR) and `event`, as it is written there ("1:DECEASED", "1").
    """

    def __init__(
        self,
        root: str,
        clinical: str = "clinical.tsv",
        endpoint: Literal["OS", "PFI", "DSS", "DFI", "PFS", "DFS"] = "OS",
        project: str | None = None,
        diagnostic: bool = True,
    ) -> None:
        """Args:
        root: folder with .svs files at any depth, named by their TCGA barcode.
        clinical: the clinical table, below root or absolute.
        endpoint: overall survival, progression-free interval, ...: the table has its columns OS and OS.time, or
            OS_STATUS and OS_MONTHS.
        project: only patients whose column type (TCGA-CDR) is this, such as BRCA.
        diagnostic: leave out slides of frozen tissue (all but -DX).
        """
        self.root, self.clinical, self.endpoint = root, clinical, endpoint
        self.project, self.diagnostic = project, diagnostic

    def read(self) -> Table:
        """The table; patients without a known time and status are left out, and counted in `origin`.

        Raises:
            CohortError: slides, table or columns are missing, or no patient has an outcome.
        """
        root = Path(self.root).expanduser().resolve()
        path = root / self.clinical
        where = _where(root, f"{self.clinical} (cBioPortal's data_clinical_patient.txt, or TCGA-CDR's table S1 as CSV)")
        slides = _slides(root, self.diagnostic, where)
        rows = read_rows(path, where)
        case = column_of(rows, CASES, path, "patient")
        time = column_of(rows, [f"{self.endpoint}.time", f"{self.endpoint}_MONTHS"], path, "time")
        status = column_of(rows, [self.endpoint, f"{self.endpoint}_STATUS"], path, "status")
        if self.project:
            of = column_of(rows, ["type", "cancer_type_acronym"], path, "project")
            rows = [row for row in rows if row[of] == self.project]
        known = [row for row in rows if row[time].lower() not in EMPTY and row[status].lower() not in EMPTY]
        times, events = (_one_each(known, case, column, path, False) for column in (time, status))
        kept = [k for k, slide in enumerate(slides) if _case(slide) in times]
        if not kept:
            raise CohortError(f"{path}: no patient of the {len(slides)} slides below {root} has {time} and {status}")
        cases = [_case(slides[k]) for k in kept]
        try:
            values = np.array([float(times[name]) for name in cases])
        except ValueError as error:
            raise CohortError(f"{path}: column {time} holds text ({error}); give times as numbers") from error
        extra = {"time": values, "event": np.array([events[name] for name in cases])}
        unit = {"unit of time": "months" if time.upper().endswith("MONTHS") else "days"}
        return _table(f"tcga_survival_{self.endpoint}", root, slides, kept, f"no {status} or {time}", extra, unit)


def _where(root: Path, table: str) -> str:
    return f"get slides (open access) from {ORIGIN['homepage']} into {root}, any depth, and beside them {table}"


def _slides(root: Path, diagnostic: bool, where: str) -> list[Path]:
    """All slides of the folder that are wanted.

    Raises:
        CohortError: none, or names without a barcode.
    """
    found = slide_files(root, (".svs",), where)
    unnamed = [path.name for path in found if not BARCODE.match(path.name)]
    if unnamed:
        raise CohortError(
            f"{root}: {len(unnamed)} slides bear no TCGA barcode ({some(unnamed)}); rename or remove them"
        )
    wanted = [path for path in found if DIAGNOSTIC.search(path.name)] if diagnostic else found
    if not wanted:
        raise CohortError(
            f"{root}: none of {len(found)} slides is diagnostic (-DX); set diagnostic: false for frozen ones"
        )
    return wanted


def _case(path: Path) -> str:
    match = BARCODE.match(path.name)
    return match.group() if match else ""


def _stem(name: str) -> str:
    """A slide's name without folder and .svs, but with its UUID."""
    return Path(name.replace("\\", "/")).name.removesuffix(".svs")


def _one_each(rows: Sequence[Row], key: str, column: str, path: Path, by_file: bool) -> dict[str, str]:
    """Slide or case -> its value; a case's barcode may be that of a sample or slide.

    Raises:
        CohortError: two rows of one key differ.
    """
    found: dict[str, str] = {}
    torn = []
    for row in rows:
        match = BARCODE.match(row[key])
        name = _stem(row[key]) if by_file or not match else match.group()
        if found.setdefault(name, row[column]) != row[column]:
            torn.append(f"{name}: {found[name]} and {row[column]}")
    if torn:
        raise CohortError(f"{path}: column {column} differs for one {key} ({some(torn)}); keep one row each")
    return found


def _table(
    name: str,
    root: Path,
    slides: Sequence[Path],
    kept: Sequence[int],
    why: str,
    extra: Mapping[str, np.ndarray] | None = None,
    about: Mapping[str, str] | None = None,
    labels: np.ndarray | None = None,
) -> Table:
    paths = [slides[k] for k in kept]
    cases = [_case(path) for path in paths]
    left_out = len(slides) - len(kept)
    dropped = {"left out": f"{left_out} of {len(slides)} slides ({why})"} if left_out else {}
    return Table.build(
        name, paths, root, extra=extra, origin={**ORIGIN, **(about or {}), **dropped}, labels=labels,
        patients=np.array(cases), slides=np.array([path.stem for path in paths]),
        centres=np.array([case[5:7] for case in cases]),
    )  # fmt: skip
