"""A cohort: what `g2l index` writes and everything else opens. One Parquet file, one file of bit-packed masks.

Opening costs no Python object per slide: the table stays in Arrow, the masks stay on disk until they are looked at.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.slides.coverage import unpack
from g2l.slides.resolution import Resolution
from g2l.slides.slide import Slide
from g2l.slides.split import split_table

TABLE, MASKS, REJECTED, SHEET = "cohort.parquet", "masks.npy", "rejected.csv", "contact_sheet.png"
FORMAT = 2
METADATA = b"g2l"


@dataclass(frozen=True, slots=True)
class SlideRecord:
    """One slide of a cohort. Sizes in level-0 pixels; None where the manifest says nothing.

    Attributes:
        mpp: um per level-0 pixel; mpp_source: "file" or "given".
        tissue_mm2: area of the tissue mask.
        pen, blur: flags, see quality.py for what they can tell; sharpness is the number behind blur.
        regions: the slide's region map (demo cohort), see regions.py.
        extra: every further column of the manifest, as text.
    """

    name: str
    path: Path
    patient: str | None
    centre: str | None
    label: str | None
    split: str | None
    mpp: float
    mpp_source: str
    width: int
    height: int
    tissue_mm2: float
    pen: bool
    blur: bool
    sharpness: float
    regions: Path | None
    extra: dict[str, str | None] = field(default_factory=dict)


class Geometry(NamedTuple):
    """What sampling needs of all N slides at once, as arrays.

    size_um (N, 2): width, height. mask_mpp (N,): um per mask cell. mask_shape (N, 3): rows and columns of the mask, and
    where it begins in `Cohort.mask_bytes`. box (N, 4): the tissue's bounding box in cells, x0, y0, x1, y1. room_um
    (N,): side of a square that is all tissue. tissue_mm2 (N,). levels (L, 4): of every level of every slide mpp_x,
    mpp_y, tile_w, tile_h (pyramid.Level), finest first; slide i has the rows first_level[i] to first_level[i + 1].
    """

    size_um: NDArray[np.float64]
    mask_mpp: NDArray[np.float64]
    mask_shape: NDArray[np.int64]
    box: NDArray[np.float64]
    room_um: NDArray[np.float64]
    tissue_mm2: NDArray[np.float64]
    levels: NDArray[np.float64]
    first_level: NDArray[np.int64]


class Cohort:
    """An indexed cohort; `Cohort.open` makes one. `len`, `[i]` and iteration give `SlideRecord`s."""

    def __init__(self, folder: Path, table: pa.Table, masks: NDArray[np.uint8], extras: list[str]) -> None:
        self.folder = folder
        self._table, self._masks, self._extras = table, masks, extras
        shape = [self._numbers(name).astype(np.int64) for name in ("mask_h", "mask_w", "mask_offset")]
        levels = self._column("levels").combine_chunks()
        first_level = np.concatenate([[0], np.cumsum(levels.value_lengths().to_numpy(zero_copy_only=False))]) // 4
        self.geometry = Geometry(
            np.stack([self._numbers("width_um"), self._numbers("height_um")], axis=1),
            self._numbers("mask_mpp"),
            np.stack(shape, axis=1),
            np.stack([self._numbers(f"box_{side}") for side in ("x0", "y0", "x1", "y1")], axis=1),
            self._numbers("room_um"),
            self._numbers("tissue_mm2"),
            levels.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4),
            first_level.astype(np.int64),
        )

    @classmethod
    def open(cls, folder: str | Path) -> "Cohort":
        """Open the cohort in `folder`.

        Raises:
            CohortError: none is there, or its files do not belong together.
        """
        folder = Path(folder)
        if not (folder / TABLE).is_file() or not (folder / MASKS).is_file():
            raise CohortError(
                f"no cohort in {folder} ({TABLE} and {MASKS} are missing); make it with g2l index SLIDES --out {folder}"
            )
        try:
            table = pq.read_table(folder / TABLE, memory_map=True)
            about: dict[str, Any] = json.loads((table.schema.metadata or {})[METADATA])
            masks = np.asarray(np.load(folder / MASKS, mmap_mode="r"))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise CohortError(f"cohort {folder} is damaged ({error}); run g2l index again") from error
        if about.get("format") != FORMAT:
            raise CohortError(
                f"cohort {folder} has format {about.get('format')}, this g2l reads {FORMAT}; run g2l index again"
            )
        if masks[-20:].tobytes().hex() != about.get("masks"):
            raise CohortError(f"cohort {folder}: {TABLE} and {MASKS} do not belong together; run g2l index again")
        return cls(folder, table, masks, about["extras"])

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the files itself, instead of receiving the masks by value.
        return type(self).open, (self.folder,)

    def __len__(self) -> int:
        return self._table.num_rows

    def require_files(self, probes: int = 200) -> None:
        """CohortError unless the slide files are where they were indexed; looks at `probes` of them, spread evenly."""
        rows = {i * len(self) // probes for i in range(probes)} if len(self) > probes else range(len(self))
        lost = [path for path in (self[i].path for i in rows) if not path.exists()]
        if lost:
            raise CohortError(
                f"cohort {self.folder}: {len(lost)} of {len(rows)} slides looked at are gone, first {lost[0]}; bring "
                f"them back, or index them where they are now: g2l index SLIDES --out {self.folder}"
            )

    def __iter__(self) -> Iterator[SlideRecord]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> SlideRecord:
        if not -len(self) <= i < len(self):
            raise IndexError(f"cohort {self.folder} has {len(self)} slides, no number {i}")
        row = self._table.slice(i % len(self), 1).to_pylist()[0]
        values = {name: row[name] for name in SlideRecord.__dataclass_fields__ if name != "extra"}
        values["path"] = Path(row["path"])
        values["regions"] = Path(row["regions"]) if row["regions"] else None
        return SlideRecord(**values, extra={name: row[name] for name in self._extras})

    def column(self, name: str) -> list[Any]:
        """All values of a column. Raises CohortError, listing the columns there are, when it is unknown."""
        return self._column(name).to_pylist()

    @property
    def columns(self) -> list[str]:
        """The names `column` knows."""
        return self._table.column_names

    def open_slide(self, i: int) -> Slide:
        """Open slide i as it was indexed: resolution, backend, and where its tiles lie.

        Raises:
            SlideError: it cannot be opened any more, or has changed.
        """
        path, source, backend, tile_map = (
            self._table.column(name)[i].as_py() for name in ("path", "mpp_source", "backend", "tile_map")
        )
        mpp_x, mpp_y = self.geometry.levels[self.geometry.first_level[i], :2].tolist()
        return Slide.recorded(Path(path), Resolution(mpp_x, mpp_y, source), backend, tile_map)

    def mask(self, i: int) -> NDArray[np.bool_]:
        """(h, w) bool tissue mask; cell (r, c) covers [c, c + 1) x [r, r + 1) times `mask_mpp(i)` um."""
        return unpack(self.bits(i), int(self.geometry.mask_shape[i, 1]))

    def bits(self, i: int) -> NDArray[np.uint8]:
        """The mask as it lies on disk: (h, ceil(w / 8)) uint8, see coverage.py; not copied."""
        height, width, offset = self.geometry.mask_shape[i].tolist()
        stride = -(-width // 8)
        return self._masks[offset : offset + height * stride].reshape(height, stride)

    @property
    def mask_bytes(self) -> NDArray[np.uint8]:
        """The masks of all slides as they lie on disk, one after another (`Geometry.mask_shape` says where)."""
        return self._masks

    def mask_mpp(self, i: int) -> float:
        """um per mask cell."""
        return float(self.geometry.mask_mpp[i])

    def split(self, hold_out: str = "patient", fraction: float = 0.2, seed: int = 0) -> dict[str, list[int]]:
        """Rows for "train", "val" and "test", so that no value of the column `hold_out` occurs in two of them.

        A manifest's `split` column decides where there is one (and is refused where it breaks that rule); otherwise
        whole groups go to val, `fraction` of them drawn with `seed`, and test is empty.

        Raises:
            CohortError: unknown column, slides without a value, one group only, or a group in two parts.
        """
        return split_table(self, f"cohort {self.folder}", hold_out, fraction, seed)

    def _column(self, name: str) -> pa.ChunkedArray:
        if name not in self._table.column_names:
            raise CohortError(f"cohort {self.folder} has no column {name!r}; it has {', '.join(self.columns)}")
        return self._table.column(name)

    def _numbers(self, name: str) -> NDArray[np.float64]:
        return pc.cast(self._column(name), pa.float64()).to_numpy()
