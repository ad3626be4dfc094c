"""Parts on disk: HDF5 files with `features`, written under another name, then renamed. Letters: n rows of a part."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, G2LError
from g2l.evaluation.embedding.parts import Part

FEATURES, IDS, CONTENTS, KEY, FORMAT = "features", "ids", "contents", "g2l_key", "g2l_format"
VERSION = 2
PARTIAL = ".partial"
CHUNK_BYTES = 1 << 18  # read and checked in one go: one image's tokens, or a few hundred embeddings
SHOWN = 5


class Store:
    """A folder of parts.

    Attributes:
        shape: of one row of `features`. dtype: on disk.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self._open: dict[str, tuple[Part, NDArray[Any], NDArray[np.bool_]]] = {}

    def holds(self, part: Part) -> bool:
        """Whether the file of a part is there, whole, and of this part."""
        import h5py

        try:
            with h5py.File(self.folder / part.file, "r", locking=False) as file:
                features = file[FEATURES]
                named = file[IDS].asstr()[:].tolist()  # type: ignore[union-attr]
                return (
                    file.attrs.get(KEY) == part.key
                    and file.attrs.get(FORMAT) == VERSION
                    and features.shape == (part.count, *self.shape)  # type: ignore[union-attr]
                    and features.dtype == self.dtype  # type: ignore[union-attr]
                    and named == list(part.ids)
                    and (not part.contents or file[CONTENTS].asstr()[:].tolist() == list(part.contents))  # type: ignore[union-attr]
                )
        except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError):
            return False  # absent, cut off, or no file of ours

    def kept(self, key_of: Callable[[Sequence[str]], str]) -> list[Part]:
        """The parts of images that are there, whole, and of this encoder and transform, by name of their files.

        Args: key_of: the key of a part with these contents.
        """
        import h5py

        found = []
        for place in sorted(self.folder.glob("*.h5")):
            try:
                with h5py.File(place, "r", locking=False) as file:
                    ids = file[IDS].asstr()[:].tolist()  # type: ignore[union-attr]
                    contents = file[CONTENTS].asstr()[:].tolist()  # type: ignore[union-attr]
                    key = str(file.attrs.get(KEY))
            except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError):
                continue  # cut off, or no file of ours
            part = Part(place.name, key, ids, _gone, len(ids), contents=contents)
            # A file under another's name would be overwritten while it is read.
            if key == key_of(contents) and key[:16] in place.name and self.holds(part):
                found.append(part)
        return found

    def missing(self, parts: Sequence[Part]) -> list[int]:
        """Numbers of the parts that are to be embedded."""
        return [number for number, part in enumerate(parts) if not self.holds(part)]

    def tidy(self) -> None:
        """Remove what an interrupted run left half written."""
        for file in self.folder.glob(f".*{PARTIAL}"):
            file.unlink(missing_ok=True)

    def add(self, part: Part, at: NDArray[np.int64], features: NDArray[Any]) -> bool:
        """Rows `at` of a part; True when it is complete and in its file.

        Raises:
            G2LError: rows that are not finite on disk, by name.
            CohortError: the disk is full or cannot be written.
        """
        if part.file not in self._open:
            self._open[part.file] = part, np.empty((part.count, *self.shape), self.dtype), np.zeros(part.count, bool)
        _, rows, there = self._open[part.file]
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes inf, and is refused in the next line
            rows[at] = features
        bad = at[~np.isfinite(rows[at].reshape(len(at), -1)).all(axis=1)]
        if len(bad):
            names = ", ".join(part.name(k) for k in bad[:SHOWN].tolist())
            remedy = (
                f"{self.dtype} cannot hold them: set embedding.dtype to float32"
                if np.isfinite(features).all()
                else "look at the images and the weights, or set embedding.precision to 32-true"
            )
            raise G2LError(f"embeddings of {len(bad)} images are not finite ({names}); {remedy}")
        there[at] = True
        if not there.all():
            return False
        del self._open[part.file]
        self._write(part, rows)
        return True

    def drop(self, part: Part) -> None:
        """Forget what was added to a part."""
        self._open.pop(part.file, None)

    def _write(self, part: Part, rows: NDArray[Any]) -> None:
        import h5py

        partial = self.folder / f".{part.file}.{os.getpid()}{PARTIAL}"
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(partial, "w") as file:
                row_bytes = self.dtype.itemsize * int(np.prod(self.shape))
                chunk = (min(max(1, CHUNK_BYTES // row_bytes), max(1, part.count)), *self.shape)
                # A checksum for each chunk: a damaged file is an error, not other numbers.
                file.create_dataset(FEATURES, data=rows, chunks=chunk, fletcher32=True)
                file.create_dataset(IDS, data=list(part.ids), dtype=h5py.string_dtype())
                if part.contents:
                    file.create_dataset(CONTENTS, data=list(part.contents), dtype=h5py.string_dtype())
                for name, column in part.columns.items():
                    file.create_dataset(name, data=column, fletcher32=True, chunks=True)
                for place in (file, *(file[name] for name in part.columns)):
                    place.attrs.update(part.about)
                file.attrs.update({KEY: part.key, FORMAT: VERSION})
            partial.replace(self.folder / part.file)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CohortError(f"{self.folder} cannot be written ({error}); free the disk, and run again") from error


def _gone(k: int) -> NDArray[np.uint8]:
    raise CohortError("a file of embeddings went away while it was used; run again")
