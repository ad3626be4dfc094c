"""Writes a cohort: the table (Parquet) and the masks (one .npy of packed bits), row by row and atomically."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from g2l.slides.cohort import FORMAT, MASKS, METADATA, TABLE
from g2l.slides.indexing.manifest import KNOWN
from g2l.slides.indexing.scan import Scan

AT_ONCE = 4096  # rows in memory while the table is written, and in each of its row groups
# What the index computes; after these come the manifest's known columns and its others, all text.
COMPUTED = pa.schema(
    [("name", pa.string()), ("path", pa.string()), ("mpp", pa.float64()), ("mpp_source", pa.string()),
     ("backend", pa.string()), ("width", pa.int64()), ("height", pa.int64()), ("width_um", pa.float64()),
     ("height_um", pa.float64()), ("tissue_mm2", pa.float64()), ("room_um", pa.float64()), ("pen", pa.bool_()),
     ("sharpness", pa.float64()), ("blur", pa.bool_()), ("fingerprint", pa.string()), ("mask_mpp", pa.float64()),
     ("mask_h", pa.int64()), ("mask_w", pa.int64()), ("mask_offset", pa.int64()), ("box_x0", pa.int64()),
     ("box_y0", pa.int64()), ("box_x1", pa.int64()), ("box_y1", pa.int64()), ("backend_reason", pa.string()),
     ("levels", pa.list_(pa.float64())), ("tile_map", pa.string())]
)  # fmt: skip


def write_cohort(folder: Path, slides: Iterable[tuple[Scan, Mapping[str, str | None]]]) -> None:
    """Write `cohort.parquet` and `masks.npy` into `folder`.

    The masks end in 20 bytes that the table states too: a table and masks of two different runs are told apart.

    Args:
        slides: of every slide its scan and its columns from the manifest, the same columns for all; taken one at a
            time.
    """
    digest = hashlib.sha1(usedforsecurity=False)
    parts = {name: folder / f"{name}.tmp" for name in ("rows", "bits", MASKS, TABLE)}
    size, schema = _write_parts(parts["rows"], parts["bits"], slides, digest)
    with (
        parts[MASKS].open("wb") as stream,
        parts["bits"].open("rb") as body,
    ):  # the header needs the size, known only now
        header = {"descr": "|u1", "fortran_order": False, "shape": (size + digest.digest_size,)}
        np.lib.format.write_array_header_1_0(stream, header)
        while chunk := body.read(1 << 24):
            stream.write(chunk)
    extras = [name for name in schema.names if name not in KNOWN and name not in COMPUTED.names]
    about = {"format": FORMAT, "masks": digest.hexdigest(), "extras": extras}
    schema = schema.with_metadata({METADATA: json.dumps(about).encode()})
    with pa.OSFile(str(parts["rows"])) as stream, pq.ParquetWriter(parts[TABLE], schema) as table:
        for batch in pa.ipc.open_stream(stream):
            table.write_batch(batch.replace_schema_metadata(schema.metadata))
    parts["rows"].unlink()
    parts["bits"].unlink()
    parts[MASKS].replace(folder / MASKS)
    parts[TABLE].replace(folder / TABLE)


def _write_parts(
    rows: Path, bits: Path, slides: Iterable[tuple[Scan, Mapping[str, str | None]]], digest: Any
) -> tuple[int, pa.Schema]:
    """The rows as an Arrow stream, and the masks' bytes with their digest after them; returns the masks' size."""
    source = iter(slides)
    first = list(itertools.islice(source, 1))
    others = [name for _, given in first for name in given if name not in KNOWN]
    schema = pa.schema([*COMPUTED, *((name, pa.string()) for name in (*KNOWN, *others))])
    made: list[dict[str, Any]] = []
    offset = 0
    with pa.OSFile(str(rows), "wb") as table, pa.ipc.new_stream(table, schema) as writer, bits.open("wb") as stream:
        for scan, given in itertools.chain(first, source):
            row = {**given, **scan.row, "mask_offset": offset}
            if not row.keys() <= set(schema.names):
                raise ValueError(f"{row['name']} has columns that the first slide has not")
            made.append(row)
            known = [row[name] for name in ("name", "fingerprint", "mask_offset", "mask_h", "mask_w")]
            digest.update(json.dumps(known).encode())
            stream.write(scan.bits.tobytes())
            offset += scan.bits.size
            if len(made) == AT_ONCE:
                writer.write_batch(pa.RecordBatch.from_pylist(made, schema=schema))
                made.clear()
        writer.write_batch(pa.RecordBatch.from_pylist(made, schema=schema))
        stream.write(digest.digest())
    return offset, schema
