"""Embeddings as tasks read them: the `Features` of a table, from the files they were kept in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.data.kept import Kept
from g2l.errors import G2LError
from g2l.evaluation.embedding.digests import digest_of
from g2l.evaluation.embedding.features import Bag
from g2l.evaluation.embedding.parts import Part
from g2l.evaluation.embedding.store import FEATURES

OPEN_FILES = 32


@dataclass(frozen=True)
class Speed:
    """What was measured of the network alone: the median over batches of images per second, and where. None: never."""

    images_per_second: float | None = None
    device: str = ""


class Embedded:
    """Reads what is asked for, when it is asked for; see `Features`.

    Attributes:
        key: `key_of` all rows that were embedded.
        images_per_second: of the forward pass alone, median over batches; None where it was never measured.
        device: on which that was, "" where it was not.
        count: images, or patches of all slides. embedded: how many of them this call has embedded.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        made: str,
        contents: Mapping[int, str],
        parts: Sequence[Part],
        places: Mapping[int, tuple[int, int]],
        speed: Speed,
        embedded: int,
    ) -> None:
        """Args:
        made: SHA-256 of encoder and transform.
        contents: row of the table -> SHA-256 of what it shows.
        places: row of the table -> (number of its part, place in it; 0 for a slide).
        """
        self.images_per_second, self.device = speed.images_per_second, speed.device
        self._made, self._contents = made, contents
        self.count, self.embedded = (sum(part.count for part in parts) if kind == "bag" else len(contents)), embedded
        self._kind, self._parts, self._places = kind, parts, places
        self._files: Kept[str, Any] = Kept(_Opener(folder), OPEN_FILES)
        self.key = self.key_of(np.array(sorted(contents), np.int64))

    def key_of(self, rows: NDArray[np.int64]) -> str:
        """As `Features.key_of`."""
        return digest_of(self._made, *(self._contents[row] for row in rows.tolist()))

    def cls(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `Features.cls`."""
        return self._rows(rows, "cls")

    def tokens(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `Features.tokens`."""
        return self._rows(rows, "tokens")

    def bag(self, row: int) -> Bag:
        """As `Features.bag`."""
        part = self._parts[self._place(row, "bag")[0]]
        file = self._files.get(part.file)
        um = np.asarray(file["um"][:], np.float64)
        return Bag(self._read(part, lambda features: features[:]), um[:, 0], um[:, 1], float(part.about["size_um"]))

    def _rows(self, rows: NDArray[np.int64], kind: str) -> NDArray[np.float32]:
        rows = np.asarray(rows, np.int64)
        places = np.array([self._place(row, kind) for row in rows.tolist()], np.int64).reshape(-1, 2)
        shape = self._files.get(self._parts[0].file)[FEATURES].shape[1:]
        out = np.empty((len(rows), *shape), np.float32)
        for number in np.unique(places[:, 0]).tolist():
            here = np.flatnonzero(places[:, 0] == number)
            part = self._parts[number]
            # h5py takes rising numbers, each once, and is slow at many: most of a file is read as a whole.
            wanted, back = np.unique(places[here, 1], return_inverse=True)
            if len(wanted) * 4 >= part.count:
                first, last = int(wanted[0]), int(wanted[-1]) + 1
                read = self._read(part, lambda features, a=first, b=last: features[a:b])[wanted - first]
            else:
                read = self._read(part, lambda features, some=wanted: features[some])
            out[here] = read[back]
        return out

    def _place(self, row: int, kind: str) -> tuple[int, int]:
        if self._kind != kind:
            raise TypeError(f"the features of this task are {self._kind}, not {kind}")
        if row not in self._places:
            raise IndexError(f"row {row} was not embedded")
        return self._places[row]

    def _read(self, part: Part, take: Callable[[Any], NDArray[Any]]) -> NDArray[np.float32]:
        file = self._files.get(part.file)
        try:
            return np.asarray(take(file[FEATURES]), np.float32)
        except OSError as error:  # a checksum that does not fit
            Path(file.filename).unlink(missing_ok=True)  # the next run makes it again
            raise G2LError(f"{file.filename} was damaged ({error}) and is removed; run again") from error


@dataclass(frozen=True)
class _Opener:
    folder: Path

    def __call__(self, file: str) -> Any:
        import h5py

        try:
            return h5py.File(self.folder / file, "r", locking=False)
        except OSError as error:
            raise G2LError(f"{self.folder / file} cannot be read ({error}); delete it, and run again") from error
