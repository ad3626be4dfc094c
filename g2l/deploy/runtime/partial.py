"""The embeddings of one slide while they are computed: on disk batch by batch, so that a killed run goes on from there.

Letters: b patches of a batch, D embedding width.
"""

import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

CRC_BYTES = 4


class Partial:
    """A file of records: the float32 rows of a batch, then their CRC-32.

    Of a file that a killed run left, whole batches count and what follows the first damaged one is cut off. As every
    batch then holds the patches it would have held, the result is the same to the last bit.

    Attributes:
        rows: how many are there.
    """

    def __init__(self, file: Path, count: int, width: int, batch_size: int) -> None:
        """Args: count: rows when it is complete. width: D. batch_size: rows of a batch; the last has fewer."""
        self.file, self.count, self._width, self._batch_size = file, count, width, batch_size
        self.rows = self._end = 0
        self._stream: BinaryIO | None = None
        with suppress(FileNotFoundError):
            for batch in self._records():
                self.rows += len(batch)
                self._end += batch.nbytes + CRC_BYTES

    def append(self, rows: NDArray[np.float32]) -> None:
        """The (b, D) rows that come next. Raises OSError where the disk is full."""
        if self._stream is None:
            self._stream = self.file.open("r+b" if self.file.exists() else "wb")
            self._stream.truncate(self._end)
            self._stream.seek(self._end)
        data = np.ascontiguousarray(rows, np.float32).tobytes()
        self._stream.write(data + zlib.crc32(data).to_bytes(CRC_BYTES, "little"))
        self._stream.flush()  # to the kernel, which keeps it whatever becomes of this process
        self.rows += len(rows)
        self._end += len(data) + CRC_BYTES

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """All rows, in (b, D) of each batch; read one by one. Raises OSError where the disk no longer gives them."""
        given = 0
        for batch in self._records():
            given += len(batch)
            yield batch
        if given != self.count:
            raise OSError(f"{self.file} changed while it was in use")

    def close(self) -> None:
        """Free the file handle; what is there stays."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(OSError):  # of a full disk: the batch that did not fit is not counted
                stream.close()

    def remove(self) -> None:
        """Close and delete."""
        self.close()
        with suppress(OSError):
            self.file.unlink(missing_ok=True)

    def _records(self) -> Iterator[NDArray[np.float32]]:
        with self.file.open("rb") as stream:
            for start in range(0, self.count, self._batch_size):
                wanted = min(self._batch_size, self.count - start) * self._width * 4
                data, crc = stream.read(wanted), stream.read(CRC_BYTES)
                if len(data) < wanted or crc != zlib.crc32(data).to_bytes(CRC_BYTES, "little"):
                    return
                yield np.frombuffer(data, np.float32).reshape(-1, self._width)
