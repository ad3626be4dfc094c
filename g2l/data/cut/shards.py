"""Tar shards as WebDataset writes them: key.jpg, key.png, and beside them key.json or key.cls with what is known.

One pass over the headers notes where each image begins; reading is then one `pread`.
"""

import json
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from g2l.data.cut.encoded import SUFFIXES
from g2l.data.cut.stores import KNOWN, Listing
from g2l.data.cut.tar import Member, members, read_at
from g2l.data.cut.text import coded, first_known, joined
from g2l.data.kept import Kept

OPEN_SHARDS = 64
Notes = tuple[str | None, ...]  # one value for each of KNOWN


class TarShards:
    """Images within uncompressed tars."""

    def __init__(
        self,
        root: Path,
        shards: Sequence[str],
        shard: NDArray[np.int32],
        offset: NDArray[np.int64],
        size: NDArray[np.int32],
        names: pa.StringArray,
    ) -> None:
        """Args:
        shards: paths relative to `root`.
        shard, offset, size, names: of each image its shard's number, first byte, bytes, and member name.
        """
        self._root, self._shards, self._shard, self._offset, self._size = root, list(shards), shard, offset, size
        self._names = names
        self._open: Kept[str, FileIO] = Kept(FileIO, OPEN_SHARDS)

    def __len__(self) -> int:
        return len(self._shard)

    @property
    def names(self) -> pa.StringArray:
        """As `Store.names`: shard/member."""
        return joined(self._shards, self._shard, self._names)

    def name(self, row: int) -> str:
        """As `Store.name`."""
        return f"{self._shards[self._shard[row]]}/{self._names[row].as_py()}"

    def place(self, row: int) -> Path:
        """As `Store.place`."""
        return self._root / self._shards[self._shard[row]]

    def load(self, row: int) -> bytes:
        """As `Store.load`."""
        path = str(self.place(row))
        try:
            file = self._open.get(path)  # a name, or another thread could have it closed meanwhile
            return read_at(file.fileno(), int(self._offset[row]), int(self._size[row]))
        except (OSError, ValueError):
            self._open.forget(path)  # the handle itself may be what failed
            raise

    def take(self, rows: NDArray[np.int64]) -> "TarShards":
        """As `Store.take`."""
        names = self._names.take(pa.array(rows))
        return TarShards(self._root, self._shards, self._shard[rows], self._offset[rows], self._size[rows], names)


def list_shards(root: Path, paths: Sequence[str]) -> Listing:
    """Args: paths: relative to `root`, sorted.

    The `slide` of an image is what its JSON says (`slide`, else `patient`), else the shard's name.
    """
    images = [_Images.of([], [])]
    problems: list[str] = []
    for path in paths:
        try:
            with FileIO(root / path) as file:
                images.append(_Images.of(*_scan(file.fileno())))
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}")
            images.append(images[0])
    shard = np.repeat(np.arange(len(paths), dtype=np.int32), [len(found.names) for found in images[1:]])
    names, *notes = (pa.concat_arrays(column) for column in zip(*((i.names, *i.notes) for i in images), strict=True))
    columns = {name: note.dictionary_encode() for name, note in zip(KNOWN, notes, strict=True)}
    columns = {name: column for name, column in columns.items() if column.null_count < len(column)}
    stems = coded([Path(path).stem for path in paths], shard)
    columns["slide"] = first_known(columns.get("slide"), columns.get("patient"), stems)
    offset, size = (np.concatenate(column) for column in zip(*((i.offset, i.size) for i in images), strict=True))
    return Listing(TarShards(root, paths, shard, offset, size, names), columns, problems)


class _Images(NamedTuple):
    """The images of one shard as columns."""

    names: pa.StringArray
    offset: NDArray[np.int64]
    size: NDArray[np.int32]
    notes: list[pa.StringArray]  # one column for each of KNOWN

    @classmethod
    def of(cls, images: Sequence[Member], notes: Sequence[Notes]) -> "_Images":
        names = pa.array([image.name for image in images], pa.string())
        offset = np.array([image.offset for image in images], np.int64)
        size = np.array([image.size for image in images], np.int32)
        return cls(names, offset, size, [pa.array([note[k] for note in notes], pa.string()) for k in range(len(KNOWN))])


def _scan(fd: int) -> tuple[list[Member], list[Notes]]:
    """The images of one shard, and of each what is noted beside it."""
    images: list[Member] = []
    beside: dict[str, Notes] = {}
    nothing: Notes = (None,) * len(KNOWN)
    for member in members(fd):
        base = member.name.rpartition("/")[2]
        stem, dot, suffix = member.name.rpartition(".")
        if base.startswith("."):
            continue
        if dot + suffix.lower() in SUFFIXES:
            images.append(member)
        elif suffix in ("json", "cls"):
            noted = _notes(member.name, read_at(fd, member.offset, member.size), suffix)
            beside[stem] = tuple(new or old for new, old in zip(noted, beside.get(stem, nothing), strict=True))
    return images, [_beside(member.name, beside) or nothing for member in images]


def _beside(name: str, notes: dict[str, Notes]) -> Notes | None:
    """a.b.json is noted for a.b.jpg; where there is none, a.json for a.left.jpg, as WebDataset has it."""
    folder, slash, base = name.rpartition("/")
    return notes.get(name.rpartition(".")[0]) or notes.get(f"{folder}{slash}{base.partition('.')[0]}")


def _notes(name: str, data: bytes, suffix: str) -> Notes:
    if suffix == "cls":
        said: Any = {"label": data.decode("utf-8", "replace").strip()}
    else:
        try:
            said = json.loads(data)
        except ValueError as error:
            raise ValueError(f"{name} is no JSON ({error}); correct or remove it") from error
        if not isinstance(said, dict):
            raise ValueError(f"{name} holds no JSON object; correct or remove it")
    # intern: thousands of patches share the name of their slide
    return tuple(None if said.get(key) in (None, "") else intern(str(said[key])) for key in KNOWN)
