"""Copies of images across the parts of a split, found by looking. Letters: n, m images of two parts, D width."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.tables.hashes import BITS, Prints, print_images
from g2l.evaluation.tables.splits import Split, shown
from g2l.evaluation.tables.table import Table

# Two prints are of one picture when so few of 128 bits differ in the best of eight positions, and colours agree so far.
# Calibrated on LC25000 (2,960 lung images, augmented copies known; 4.3 million pairs of different fields): all pairs it
# flags are copies, and 91 % of the images that have a copy are flagged (test_leaks.py measures both again).
DISTANCE, AFFINITY = 28, 0.98
TOLERATED = 0.01  # share of the test part's images with a copy elsewhere above which a split is refused
BLOCK, CAP = 256, 1_000_000


@dataclass(frozen=True)
class Leak:
    """Images of the test part, or of val, with a copy in a part that was fitted or chosen on.

    Attributes:
        name: of the table.
        pairs: ids (of the later part, of the earlier part).
        affected: images of the test part that have a copy.
        share: `affected` of all images of the test part.
        flat: images too plain to judge (glass, fat), which were left out.
    """

    name: str
    pairs: list[tuple[str, str]]
    affected: int
    share: float
    flat: int

    @property
    def text(self) -> str:
        """For a report."""
        if not self.pairs:
            return "no copies of images were found across the parts" + self._unseen
        found = shown(f"{a} = {b}" for a, b in self.pairs)
        return (
            f"{len(self.pairs)} copies of images across the parts; {self.affected} test images "
            f"({100 * self.share:.1f} %) have one in train or val ({found}){self._unseen}"
        )

    @property
    def _unseen(self) -> str:
        return f"; {self.flat} images are too plain to judge" if self.flat else ""


def flag_copies(
    table: Table,
    split: Split,
    cache: Path | None = None,
    threads: int = 2,
    report: Callable[[str], None] = lambda text: None,
) -> Leak:
    """Look for copies of images (turned, mirrored, cropped or coloured a little otherwise) across the parts.

    Every image is read once; 100,000 images take minutes, and a second run with the same `cache` seconds for reading.

    Args:
        cache: .npz that remembers the prints (hashes.print_images); beside it stands what was found.
    Raises:
        CohortError: an image that cannot be read.
    """
    rows = np.concatenate([split.train, split.val, split.test])
    prints = print_images(table, rows, cache, threads, report)
    first, second = len(split.train), len(split.train) + len(split.val)
    at = np.arange(len(rows))
    file = None if cache is None else cache.with_name(f"{cache.stem}-{_key(prints, first, second)[:16]}.json")
    pairs = _known(file)
    if pairs is None:
        pairs = []
        for later, earlier in ((at[second:], at[:second]), (at[first:second], at[:first])):
            later, earlier = later[~prints.flat[later]], earlier[~prints.flat[earlier]]
            pairs += _matches(prints, later, earlier, report)
        _remember(file, pairs)
    return _leak(table, split, [(int(rows[a]), int(rows[b])) for a, b in pairs], int(prints.flat.sum()))


def require_no_copies(leak: Leak, allow_leak: bool = False) -> list[str]:
    """What a report must say of copies.

    Args:
        allow_leak: the user's setting: go on although test is a copy of train.
    Raises:
        CohortError: more than one image in a hundred of test has a copy in train or val, and that was not allowed.
    """
    if leak.share > TOLERATED and not allow_leak:
        raise CohortError(
            f"table {leak.name}: {leak.text}; split by the patient or image they were made from, or set allow_leak: "
            "true and have every score inflated"
        )
    warning = "LEAK, scores are inflated: " if leak.share > TOLERATED else ""
    return [warning + leak.text]


def _key(prints: Prints, first: int, second: int) -> str:
    """What pairs depend on: the prints in their order, where parts begin, and what counts as a copy."""
    whole = hashlib.sha256(f"{first} {second} {DISTANCE} {AFFINITY}".encode())
    for column in prints:
        whole.update(column.tobytes())
    return whole.hexdigest()


def _known(file: Path | None) -> list[tuple[int, int]] | None:
    try:
        return None if file is None else [(int(a), int(b)) for a, b in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):
        return None  # absent or damaged: looked for again


def _remember(file: Path | None, pairs: list[tuple[int, int]]) -> None:
    if file is not None:
        partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(pairs))
        partial.replace(file)


def _matches(
    prints: Prints, later: NDArray[np.int64], earlier: NDArray[np.int64], report: Callable[[str], None]
) -> list[tuple[int, int]]:
    """Pairs of positions that are of one picture.

    The number of bits that differ is (128 - a.b) / 2 with bits as -1 and 1: a product of matrices, whole numbers that
    float32 holds exactly, and several times faster than counting bits.
    """
    pairs: list[tuple[int, int]] = []
    if not len(later) or not len(earlier):
        return pairs
    upright = _signs(prints.bits[earlier, 0])
    for start in range(0, len(later), BLOCK):
        block = later[start : start + BLOCK]
        if start and start % (40 * BLOCK) == 0:
            report(f"copies across the parts: {start} of {len(later)} images compared")
        near = np.zeros((len(block), len(earlier)), np.bool_)
        for symmetry in range(prints.bits.shape[1]):
            near |= _signs(prints.bits[block, symmetry]) @ upright.T >= BITS - 2 * DISTANCE
        a, b = np.nonzero(near)
        colours = prints.colours
        affinity = np.concatenate(
            [
                np.einsum("ij,ij->i", colours[block[i]].astype(np.float32), colours[earlier[j]].astype(np.float32))
                for i, j in zip(np.array_split(a, len(a) // CAP + 1), np.array_split(b, len(b) // CAP + 1), strict=True)
            ]
        )
        same = affinity >= AFFINITY
        pairs += zip(block[a[same]].tolist(), earlier[b[same]].tolist(), strict=True)
        if len(pairs) > CAP:
            report(f"copies across the parts: more than {CAP}; the search ends here")
            break
    return pairs


def _signs(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 16) packed bits -> (n, 128) of -1 and 1."""
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def _leak(table: Table, split: Split, pairs: list[tuple[int, int]], flat: int) -> Leak:
    names = sorted({(str(table.ids[a]), str(table.ids[b])) for a, b in pairs})
    tested = set(split.test.tolist())
    affected = len({a for a, _ in pairs if a in tested})
    return Leak(table.name, names, affected, affected / max(len(split.test), 1), flat)
