"""A cohort whose slides a test may destroy."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from g2l.slides.cohort import MASKS, TABLE, Cohort


def copied(cohort: Path, folder: Path) -> Cohort:
    """A copy of an indexed cohort in `folder` with slides of its own, in folder/slides."""
    slides = folder / "slides"
    slides.mkdir(parents=True)
    table = pq.read_table(cohort / TABLE)
    paths = [shutil.copy(path, slides) for path in table.column("path").to_pylist()]
    table = table.set_column(table.schema.get_field_index("path"), "path", pa.array(map(str, paths), pa.string()))
    pq.write_table(table, folder / TABLE)
    shutil.copy(cohort / MASKS, folder)
    return Cohort.open(folder)
