"""HDF5 files of features, as the tests of `embed` look at them."""

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from g2l.deploy.runtime.embed import embed
from g2l.errors import CohortError, ConfigError


def read(file: Path) -> dict[str, NDArray[Any]]:
    """Every dataset of a file."""
    with h5py.File(file) as content:
        return {name: content[name][:] for name in content}  # type: ignore[index]


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same datasets, bit for bit."""
    a, b = read(one), read(other)
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def count(file: Path) -> int:
    """Patches of a file."""
    return len(read(file)["coords"])


def states(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and its bytes."""
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(folder.glob("*.h5"))}


def table(out: Path) -> dict[str, dict[str, str]]:
    """slides.csv, by slide."""
    with (out / "slides.csv").open(newline="") as stream:
        return {row["slide"]: row for row in csv.DictReader(stream)}


def refusal(bundle: str, slides: str, **options: Any) -> str:
    """The one line in which `embed` refuses."""
    with pytest.raises((ConfigError, CohortError)) as caught:
        embed(bundle, slides, **options)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)
    return str(caught.value)


def mute(file: Path) -> None:
    """Write a slide again, without its resolution."""
    with tifffile.TiffFile(file) as tiff:
        pixels = tiff.pages[0].asarray()
    tifffile.imwrite(file, pixels, tile=(256, 256), photometric="rgb", compression="jpeg", resolutionunit=1)
