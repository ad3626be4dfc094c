"""Small prints of images, by which copies are found that were turned, mirrored or coloured. Letter: N images."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.tables.table import SHOWN, Table

GRID = 9  # cells of the grey picture that is compared with its neighbours to the right and below
BITS = 2 * (GRID - 1) ** 2
COLOURS = (16, 16)  # cells of lightness and of the green-red axis
SYMMETRIES = 8  # of a square
# Grey levels: below this spread of its cells a picture is glass, whose gradients are noise. On 2,400 patches of four
# sections: 96 % of the glass and 7 % of the tissue; of the others no two are taken for copies, with 2 instead 56 pairs.
FLAT = 4.0
FORMAT = 1
BLOCK, KEPT = 1_000, 20_000  # images between two reports; between two times that the prints are written


class Prints(NamedTuple):
    """Of N images.

    bits: (N, 8, 16) uint8: the difference hash of each of the eight turned and mirrored pictures, packed.
    colours: (N, 256) float16: square roots of the shares of colours; the product of two is their affinity, 0 to 1.
    flat: (N,) images too plain to be told apart.
    """

    bits: NDArray[np.uint8]
    colours: NDArray[np.float16]
    flat: NDArray[np.bool_]


def print_image(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float16], bool]:
    """(8, 16) packed bits, (256,) colours, and whether it is flat, of an image (H, W, 3) uint8.

    The difference hash is that of Krawetz 2013 ("Kind of like that"), in both directions and of all eight symmetries of
    the square, since copies are turned and mirrored; H x W are squeezed to a square.
    """
    import cv2

    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (GRID, GRID), interpolation=cv2.INTER_AREA)
    turned = [np.rot90(side, k) for side in (grey, grey[:, ::-1]) for k in range(4)]
    bits = [np.packbits([g[:-1, 1:] > g[:-1, :-1], g[1:, :-1] > g[:-1, :-1]]) for g in turned]
    small = cv2.GaussianBlur(pixels, (0, 0), 1)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1], None, list(COLOURS), [0, 256, 110, 200]).ravel()
    shares = np.sqrt(counts / max(counts.sum(), 1))
    return np.stack(bits), shares.astype(np.float16), bool(grey.std() < FLAT)


def print_images(
    table: Table,
    rows: NDArray[np.int64],
    cache: Path | None = None,
    threads: int = 2,
    report: Callable[[str], None] = lambda text: None,
) -> Prints:
    """Prints of rows of a table, in the order asked for.

    Args:
        cache: an .npz that remembers prints by path, size and time of the file; made where absent.
        report: told how far it is.
    Raises:
        CohortError: images that cannot be read, the first ones and their number; or a cache that cannot be written.
    """
    from g2l.evaluation.embedding.images import read_image

    keys = _keys(table, rows)
    known = _read(cache)
    missing = np.flatnonzero([key not in known for key in keys])
    unreadable: list[str] = []

    def one(position: int) -> tuple[NDArray[np.uint8], NDArray[np.float16], bool] | None:
        row = int(rows[position])
        try:
            return print_image(read_image(str(table.paths[row]), int(table.rows[row])))
        except CohortError as error:
            unreadable.append(str(error))
            return None

    kept = 0
    try:
        with ThreadPoolExecutor(threads) as pool:
            # in blocks: what was made is kept, whatever ends this run
            for start in range(0, len(missing), BLOCK):
                block = missing[start : start + BLOCK].tolist()
                made = zip(block, pool.map(one, block), strict=True)
                known |= {keys[position]: found for position, found in made if found is not None}
                report(f"prints of images, to find copies: {start + len(block)} of {len(missing)}")
                if cache is not None and start - kept >= KEPT:
                    _write(cache, known)
                    kept = start
    finally:
        if cache is not None and len(missing):
            _write(cache, known)
    if unreadable:
        more = f"; and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
        raise CohortError(f"{'; '.join(sorted(unreadable)[:SHOWN])}{more}")
    found = [known[key] for key in keys]
    shape = (len(found), SYMMETRIES, BITS // 8)
    bits = np.array([one[0] for one in found], np.uint8).reshape(shape)
    colours = np.array([one[1] for one in found], np.float16).reshape(len(found), COLOURS[0] * COLOURS[1])
    return Prints(bits, colours, np.array([one[2] for one in found], np.bool_))


def _keys(table: Table, rows: NDArray[np.int64]) -> list[str]:
    """What tells that an image is still the one that was printed: path, number in the file, size and time."""
    about: dict[str, str] = {}
    keys = []
    for row in rows.tolist():
        path = str(table.paths[row])
        if path not in about:
            try:
                status = Path(path).stat()
                about[path] = f"{path}\n{status.st_size}\n{status.st_mtime_ns}"
            except OSError:
                about[path] = path  # reading it says what is wrong
        text = f"{FORMAT}\n{about[path]}\n{table.rows[row]}"
        keys.append(hashlib.sha256(text.encode()).hexdigest()[:32])
    return keys


Known = dict[str, tuple[NDArray[np.uint8], NDArray[np.float16], bool]]


def _read(cache: Path | None) -> Known:
    if cache is None or not cache.is_file():
        return {}
    try:
        with np.load(cache, allow_pickle=False) as content:
            keys, bits, colours, flat = (content[name] for name in ("keys", "bits", "colours", "flat"))
            return {key: (bits[k], colours[k], bool(flat[k])) for k, key in enumerate(keys.tolist())}
    except (OSError, ValueError, KeyError, IndexError, EOFError):
        return {}  # damaged: it is made again


def _write(cache: Path, known: Known) -> None:
    if not known:
        return
    partial = cache.with_name(f".{cache.name}.{os.getpid()}.partial")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            np.savez(
                stream,
                keys=np.array(list(known)),
                bits=np.stack([one[0] for one in known.values()]),
                colours=np.stack([one[1] for one in known.values()]),
                flat=np.array([one[2] for one in known.values()]),
            )
        partial.replace(cache)
    except OSError as error:
        raise CohortError(f"{cache} cannot be written ({error.strerror or error}); choose another --cache") from error
