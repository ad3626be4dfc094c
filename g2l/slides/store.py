"""Writes a cohort: the table (Parquet) and the masks (one .npy of packed bits), row by row and atomically."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from g2l.slides.cohort import FORMAT, MASKS, METADATA, TABLE
from g2l.slides.manifest import KNOWN
from g2l.slides.scan import Scan

# What the index computes; after these come the manifest's known columns and its others, all text.
COMPUTED = pa.schema(
    [("name", pa.string()), ("path", pa.string()), ("mpp", pa.float64()), ("mpp_source", pa.string()),
     ("backend", pa.string()), ("width", pa.int64()), ("height", pa.int64()), ("width_um", pa.float64()),
     ("height_um", pa.float64()), ("tissue_mm2", pa.float64()), ("room_um", pa.float64()), ("pen", pa.bool_()),
     ("sharpness", pa.float64()), ("blur", pa.bool_()), ("fingerprint", pa.string()), ("mask_mpp", pa.float64()),
     ("mask_h", pa.int64()), ("mask_w", pa.int64()), ("mask_offset", pa.int64()), ("box_x0", pa.int64()),
     ("box_y0", pa.int64()), ("box_x1", pa.int64()), ("box_y1", pa.int64())]
)  # fmt: skip


def write_cohort(folder: Path, slides: Iterable[tuple[Scan, Mapping[str, str | None]]]) -> None:
    """Write `cohort.parquet` and `masks.npy` into `folder`.

    The masks end in 20 bytes that the table states too: a table and masks of two different runs are told apart.

    Args:
        slides: of every slide its scan and its columns from the manifest; taken one at a time.
    """
    rows: list[dict[str, Any]] = []
    digest = hashlib.sha1(usedforsecurity=False)
    offset = 0
    bits, masks, table = (folder / f"{name}.tmp" for name in ("masks.bits", MASKS, TABLE))
    with bits.open("wb") as stream:
        for scan, given in slides:
            row = {**given, **scan.row, "mask_offset": offset}
            rows.append(row)
            digest.update(json.dumps([row["name"], row["fingerprint"], offset, row["mask_h"], row["mask_w"]]).encode())
            stream.write(scan.bits.tobytes())
            offset += scan.bits.size
        stream.write(digest.digest())
    with masks.open("wb") as stream, bits.open("rb") as body:  # the header needs the length, known only now
        header = {"descr": "|u1", "fortran_order": False, "shape": (offset + digest.digest_size,)}
        np.lib.format.write_array_header_1_0(stream, header)
        while chunk := body.read(1 << 24):
            stream.write(chunk)
    bits.unlink()
    extras = list(dict.fromkeys(key for row in rows for key in row if key not in KNOWN and key not in COMPUTED.names))
    schema = COMPUTED
    for key in (*KNOWN, *extras):
        schema = schema.append(pa.field(key, pa.string()))
    about = {"format": FORMAT, "masks": digest.hexdigest(), "extras": extras}
    schema = schema.with_metadata({METADATA: json.dumps(about).encode()})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), table)
    masks.replace(folder / MASKS)
    table.replace(folder / TABLE)
