"""Tensors on disk by row: a safetensors file that is filled row by row, and read memory-mapped.

The library's own writer wants all tensors in memory, and its reader maps a file privately writable, which Linux refuses
for files larger than its memory. The format is simple: 8 bytes, a JSON header of that length, then the tensors.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from g2l.errors import ConfigError

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I16": np.dtype("<i2")}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class Column(NamedTuple):
    """One tensor: the shape and the dtype (float32, float16, int16) of a row, and what rows hold at first."""

    shape: tuple[int, ...]
    dtype: Any
    fill: int = 0

    @property
    def bytes(self) -> int:
        """Of a row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Table:
    """Tensors of equal length by name, mapped read-only; `about` is the file's metadata.

    Raises:
        ConfigError: the file is damaged or no such table.
    """

    def __init__(self, file: Path) -> None:
        try:
            with file.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header: dict[str, Any] = json.loads(stream.read(size))
            self.about: dict[str, str] = header.pop("__metadata__", {})
            self.columns = {name: self._map(file, 8 + size, entry) for name, entry in header.items()}
            whole = 8 + size + max(entry["data_offsets"][1] for entry in header.values())
        except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise ConfigError(f"{file} holds no embeddings ({error}); delete it and run g2l cache again") from error
        if file.stat().st_size != whole:
            raise ConfigError(f"{file} has {file.stat().st_size} bytes, not {whole}: copy it again, or run g2l cache")
        self.file = file
        self._starts = {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}
        self._stream: BinaryIO | None = None

    @staticmethod
    def _map(file: Path, body: int, entry: dict[str, Any]) -> NDArray[Any]:
        start = body + entry["data_offsets"][0]
        return np.asarray(np.memmap(file, DTYPES[entry["dtype"]], "r", start, tuple(entry["shape"])))

    @classmethod
    def create(cls, file: Path, rows: int, columns: Mapping[str, Column], about: Mapping[str, str]) -> Self:
        """A new table of so many rows, at its full length, of which the disk holds what has been written."""
        header: dict[str, Any] = {"__metadata__": dict(about)}
        end = 0
        for name, column in columns.items():
            start, end = end, end + rows * column.bytes
            shape, dtype = [rows, *column.shape], CODES[np.dtype(column.dtype)]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # tensors are to begin at whole words
        temporary = file.with_name(f"{file.name}.new")
        with temporary.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)
            for name, column in columns.items():
                if column.fill:
                    stream.seek(8 + len(text) + header[name]["data_offsets"][0])
                    stream.write(np.full((rows, *column.shape), column.fill, column.dtype).tobytes())
        temporary.replace(file)
        return cls(file)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def write(self, name: str, row: int, values: NDArray[Any]) -> None:
        """Rows `row`, `row` + 1, ... of one tensor. By a write and not through the map: a full disk is then an OSError
        and not the end of the process.
        """
        if self._stream is None:
            self._stream = self.file.open("r+b")
        mine = self.columns[name]
        if values.shape[1:] != mine.shape[1:] or row + len(values) > len(mine):
            raise ValueError(f"rows {row} to {row + len(values)} of shape {values.shape[1:]} do not fit {mine.shape}")
        self._stream.seek(self._starts[name] + row * math.prod(mine.shape[1:]) * mine.itemsize)
        self._stream.write(np.ascontiguousarray(values, mine.dtype).data)

    def sync(self) -> None:
        """Everything written is on the disk when this returns."""
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """End writing."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
