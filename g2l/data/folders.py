"""Patches that were cut already, as one table: folders of JPEG and PNG, HDF5 files, tar shards.

Letters: `N` patches, `S` px of a patch as it is read.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from g2l.data.cut.epochs import EpochSource
from g2l.data.cut.listing import list_patches
from g2l.data.cut.manifest import join, read_manifest, wrong_values
from g2l.data.cut.stores import Store
from g2l.data.cut.text import first_known, shown, values
from g2l.data.labelled import LabelledPatches
from g2l.errors import CohortError, SlideError
from g2l.slides.split import split_table

PROBES = 8  # images looked at before a run begins
PEOPLE = ("patient", "group")  # never divided between training and held-out patches


def open_patches(path: str | Path, manifest: str | Path | None = None) -> "PatchFiles":
    """Find the patches below a folder, or in one file.

    A patch belongs to a `slide`: the HDF5 file, what a tar member's JSON says (`slide`, else `patient`), else the
    shard; of an image file the folder it is in.

    Args:
        path: a folder of JPEG and PNG, of HDF5 files (a dataset `imgs`, `images`, `patches` or `img`) or of tar
            shards, nested as it may be; or one such file.
        manifest: CSV with a column path (or file, slide, name): a patch's path below the folder, or the name of a
            slide, which then speaks of all its patches. Columns slide, patient, group, centre, label, split (train,
            val, test) and mpp have a meaning, all others can be held out by.
    Raises:
        CohortError: one line with everything that is wrong.
    """
    root, listing = list_patches(Path(path))
    problems = listing.problems + wrong_values(listing.columns)
    if problems:
        raise CohortError(f"patches {path}: {shown(problems)}")
    if not len(listing.store):
        raise CohortError(f"patches {path}: the files are there, but none holds a patch; check how they were written")
    columns = listing.columns
    if manifest is not None:
        said = join(read_manifest(Path(manifest)), root, listing.store.names, columns["slide"])
        columns = {**columns, **{name: first_known(said[name], columns.get(name)) for name in said}}
    return PatchFiles(root, listing.store, columns)


class PatchFiles:
    """N patches, where they lie, and what is known of them; `open_patches` makes one. No Python object per patch.

    names: of the slides, by their numbers.
    """

    def __init__(self, root: Path, store: Store, columns: dict[str, pa.DictionaryArray]) -> None:
        """Args: columns: (N,) of text; `slide` is among them, known of every patch."""
        self.root, self._store, self._columns = root, store, columns
        self.names: list[str] = columns["slide"].dictionary.to_pylist()
        self._slides: NDArray[np.int32] = columns["slide"].indices.to_numpy()

    def __len__(self) -> int:
        return len(self._store)

    @property
    def columns(self) -> list[str]:
        """The names `column` knows; `path` is each patch's own."""
        return ["path", *self._columns]

    def column(self, name: str) -> list[str | None]:
        """All values of a column. Raises CohortError, listing the columns there are, when it is unknown."""
        if name == "path":
            return self._store.names.to_pylist()
        if name not in self._columns:
            raise CohortError(
                f"patches {self.root} have no column {name!r}; they have {', '.join(self.columns)}: use one of these, "
                f"or give a manifest (a CSV with the columns path and {name})"
            )
        return self._columns[name].to_pylist()

    def path(self, slide: int) -> Path:
        """Where the (first) patches of a slide lie: a file, or a folder of images."""
        return self._store.place(int(np.argmax(self._slides == slide)))

    def split(self, hold_out: str = "patient", fraction: float = 0.2, seed: int = 0) -> dict[str, list[int]]:
        """Rows for "train", "val" and "test", as `Cohort.split`; neither a patient nor a group is ever divided.

        Raises:
            CohortError: unknown column, patches without a value, one group only, or a group in two parts.
        """
        return split_table(self, f"patches {self.root}", hold_out, fraction, seed, "patches", "path", PEOPLE)

    def source(self, rows: Sequence[int] | NDArray[np.int64], seed: int, size: int) -> EpochSource:
        """The patches of some rows for a stream: each once per epoch.

        A few are looked at, so that a wrong `size` ends before the run begins.

        Args:
            seed: of the run. size: S; larger images are cropped at random.
        Raises:
            CohortError: no rows, images smaller than S, or none that can be read.
        """
        which = np.asarray(rows, np.int64)
        if not len(which) or size < 1:
            raise CohortError(f"patches {self.root}: {len(which)} patches of {size} px asked; check split and size")
        slides, mpp, labels = self._slides[which], self._mpp()[which], self._text("label")[which]
        source = EpochSource(self._store.take(which), slides, mpp, labels, self.names, seed, size)
        self._look(source)
        return source

    def labelled(self, rows: Sequence[int], count: int, size: int) -> LabelledPatches:
        """`count` patches of some rows, or as many as have a label, drawn at random and none twice.

        What cannot be read is left out with a warning. Without patients, a `group` counts as one.

        Raises:
            CohortError: no labels, or patches of no patient and no group.
        """
        person = next((name for name in PEOPLE if name in self._columns), None)
        if "label" not in self._columns or person is None:
            lacking = "label" if "label" not in self._columns else "patient"
            raise CohortError(f"patches {self.root} have no column {lacking!r}; scoring needs it, in a manifest")
        label, who = self._text("label"), self._text(person)
        known = np.asarray(rows, np.int64)
        known = known[(label[known] != "")]
        if not len(known) or (who[known] == "").any():
            lacking = person if len(known) else "label"
            raise CohortError(
                f"patches {self.root} of no {lacking} cannot be scored; give all of them one in the manifest"
            )
        source = self.source(known, 0, size)
        images = np.empty((min(count, len(known)), size, size, 3), np.uint8)
        drawn = source.draw(np.arange(len(known)))
        taken: list[int] = []
        for k in range(len(known)):
            if len(taken) == len(images):
                break
            try:
                source.read(drawn.patch(k), images[len(taken)])
                taken.append(int(known[source.row(k)]))
            except SlideError as error:
                warnings.warn(f"left out of the scores: {error}", stacklevel=2)
        slides = np.array(self.names)[self._slides[taken]]
        return LabelledPatches(images[: len(taken)], label[taken], who[taken], self._text("centre")[taken], slides)

    def _text(self, name: str) -> NDArray[np.str_]:
        """A column as (N,) text, "" where nothing is known."""
        if name not in self._columns:
            return np.full(len(self), "")
        column = self._columns[name]
        return values(column, np.array([*column.dictionary.to_pylist(), ""], np.str_))

    def _mpp(self) -> NDArray[np.float64]:
        """(N,) um per px, nan where it is not known."""
        if "mpp" not in self._columns:
            return np.full(len(self), np.nan)
        column = self._columns["mpp"]
        return values(column, np.array([*map(float, column.dictionary.to_pylist()), np.nan]))

    def _look(self, source: EpochSource) -> None:
        small: list[str] = []
        broken: list[SlideError] = []
        rows = sorted({k * len(source) // PROBES for k in range(PROBES)})
        for row in rows:
            try:
                height, width = source.image(row).shape[:2]
            except SlideError as error:
                broken.append(error)
                continue
            if min(height, width) < source.size:
                small.append(f"{source.file(row)} {width} x {height}")
        if small:
            raise CohortError(
                f"patches {self.root}: {len(small)} of {len(rows)} looked at are smaller than {source.size} px "
                f"({', '.join(small[:3])}); lower the size of patches"
            )
        if len(broken) == len(rows):
            raise CohortError(f"patches {self.root}: none of {len(rows)} looked at can be read, first: {broken[0]}")
